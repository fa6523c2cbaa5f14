"""Encoders of observations that are not one float32 array, and the mask of invalid actions.

A network is written for one float32 vector. `encoded` puts an encoder before it where observations are something else:
a small convolutional network for images, concatenation for dicts. Nothing changes where they are one float32 array.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.types import Array, Carry, Discrete, Input, Key, MultiDiscrete, Output, Params, Spec

P = ParamSpec("P")
N = TypeVar("N")

SMALLEST_IMAGE = 8
"""Pixels along a side from which on bytes [H, W, C] are an image."""
IMAGE_FEATURES = 64
"""Numbers that an image is encoded to."""
INVALID = -1e30
"""Logit of an invalid action: its probability is exactly 0. Minus infinity would make gradients of entropy NaN."""


def is_image(form: jax.ShapeDtypeStruct) -> bool:
    """Whether an array of an observation is an image: bytes [H, W, C], both sides at least `SMALLEST_IMAGE`."""
    return form.dtype == jnp.uint8 and len(form.shape) == 3 and min(form.shape[:2]) >= SMALLEST_IMAGE


def action_vector(action: Array, space: Any) -> Array:
    """Lays an action out as a vector: one-hot if it is discrete, the concatenation of these if there are several."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action, space.num)
    if isinstance(space, MultiDiscrete):
        return jnp.concatenate([jax.nn.one_hot(action[index], num) for index, num in enumerate(space.nums)])
    return action


def vector_size(spec: Spec, reader: str) -> int:
    """Counts the numbers of an observation, for those who read one float32 array only.

    Args:
      reader: who that is, for the message.

    Raises:
      ValueError: if an observation is something else.
    """
    if not spec.is_plain:
        raise ValueError(
            f"tasks.observation is {spec.observation}; {reader} needs one float32 array (concatenate its parts in the"
            " environment, or take rl2, snail, ppo or maml)"
        )
    return math.prod(spec.observation)


class _Convolutions(nn.Module):
    """Bytes [H, W, C] to features: halved by convolutions until a side has about 4 pixels, then a dense layer."""

    features: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = image.astype(jnp.float32) / 255.0
        for index in range(max(1, round(math.log2(min(image.shape[:2]) / 4)))):
            x = jax.nn.relu(nn.Conv(min(16 * 2**index, 64), (3, 3), strides=(2, 2))(x))
        return jax.nn.relu(nn.Dense(self.features, kernel_init=orthogonal(math.sqrt(2.0)))(x.reshape(-1)))


class ObservationEncoder(nn.Module):
    """Encodes an observation as one float32 vector: images by convolutions, all else flattened and cast.

    Integers that are codes of categories belong into the observation as one-hot vectors. An action mask is left out.
    """

    spec: Spec

    @nn.compact
    def __call__(self, obs: Any) -> Array:
        if self.spec.action_mask is not None:
            obs = {name: part for name, part in obs.items() if name != self.spec.action_mask}
        parts = [
            _Convolutions(IMAGE_FEATURES)(leaf) if is_image(leaf) else leaf.reshape(-1).astype(jnp.float32)
            for leaf in jax.tree.leaves(obs)
        ]
        return jnp.concatenate(parts)


def any_observation(make: Callable[Concatenate[Spec, P], N]) -> Callable[Concatenate[Spec, P], N]:
    """Makes a builder of networks, whose first argument is the spec, accept any observation: see `encoded`."""

    @functools.wraps(make)
    def build(spec: Spec, *args: P.args, **kwargs: P.kwargs) -> N:
        return encoded(lambda spec: make(spec, *args, **kwargs), spec)

    return build


def encoded(make: Callable[[Spec], Any], spec: Spec) -> Any:
    """Builds a `Network` behind an encoder of observations, which masks invalid actions.

    Args:
      make: builds a network for a spec with one float32 array.
      spec: where it has one already, the network is `make(spec)`, and nothing is put before it. Else the params are
        `{"encoder": ..., "network": ...}`.
    """
    if spec.is_plain:
        return make(spec)
    module, example = ObservationEncoder(spec), spec.example_obs()
    size = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), example)[0]).shape[0]
    if not size:
        raise ValueError(f"tasks.observation is {spec.observation}; beside the action mask there is nothing to observe")
    network = make(dataclasses.replace(spec, observation=(size,), action_mask=None))

    def encode(params: Params, inputs: Input, batch_axes: int = 0) -> Input:
        run: Callable[[Any], Array] = lambda obs: cast(Array, module.apply(params["encoder"], obs))  # noqa: E731
        for _ in range(batch_axes):
            run = jax.vmap(run)
        # no network reads it, and it would have to be encoded too
        return inputs.replace(obs=run(inputs.obs), prev_next_obs=())

    def masked(output: Output, inputs: Input) -> Output:
        if spec.action_mask is None:
            return output
        return output.replace(dist=mask_logits(output.dist, inputs.obs[spec.action_mask], spec))

    def init(key: Key) -> Params:
        encoder_key, network_key = jax.random.split(key)
        return {"encoder": module.init(encoder_key, example), "network": network.init(network_key)}

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, output = network.apply(params["network"], carry, encode(params, inputs))
        return carry, masked(output, inputs)

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        return masked(network.unroll(params["network"], carry, encode(params, inputs, 2), valid), inputs)

    def values(params: Params, inputs: Input, valid: Array) -> Array:
        return network.values(params["network"], encode(params, inputs, 2), valid)

    return network._replace(
        init=init,
        apply=apply,
        unroll=network.unroll and unroll,
        values=network.values and values,
    )


def mask_logits(logits: Array, mask: Array, spec: Spec) -> Array:
    """Gives the logits [..., num] of invalid actions, where `mask` is false, a probability of exactly 0.

    Where no action of a choice is valid, as at steps that are not valid themselves, all are.
    """
    nums = spec.action.nums if isinstance(spec.action, MultiDiscrete) else (logits.shape[-1],)
    ends = [sum(nums[: index + 1]) for index in range(len(nums))]
    some = [
        jnp.broadcast_to(jnp.any(part, -1, keepdims=True), part.shape) for part in jnp.split(mask, ends[:-1], axis=-1)
    ]
    return jnp.where(mask | ~jnp.concatenate(some, axis=-1), logits, INVALID)
