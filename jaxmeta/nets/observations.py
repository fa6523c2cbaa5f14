"""Encoders of observations that are not one float32 array, and masking of invalid actions.

Networks take one float32 vector. `encoded` puts an encoder in front for other observations: a small convolutional
network for images, concatenation for dicts. It changes nothing if the observation is one float32 array.
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
"""Smallest height and width of uint8 [H, W, C] that count as an image."""
IMAGE_FEATURES = 64
"""Features that an image is encoded to."""
INVALID = -1e30
"""Logit of an invalid action: its probability is exactly 0. Minus infinity would make gradients of entropy NaN."""


def is_image(form: jax.ShapeDtypeStruct) -> bool:
    """Returns whether an array is an image: uint8 [H, W, C], with H and W at least `SMALLEST_IMAGE`."""
    return form.dtype == jnp.uint8 and len(form.shape) == 3 and min(form.shape[:2]) >= SMALLEST_IMAGE


def action_vector(action: Array, space: Any) -> Array:
    """Encodes an action as a vector: one-hot if it is discrete, concatenated one-hot vectors if multi-discrete."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action, space.num)
    if isinstance(space, MultiDiscrete):
        return jnp.concatenate([jax.nn.one_hot(action[index], num) for index, num in enumerate(space.nums)])
    return action


def vector_size(spec: Spec, reader: str) -> int:
    """Returns the size of an observation, for networks that accept one float32 array only.

    Args:
      reader: name of the network, for the message.

    Raises:
      ValueError: if an observation is not one float32 array.
    """
    if not spec.is_plain:
        raise ValueError(
            f"tasks.observation is {spec.observation}; {reader} needs one float32 array (concatenate its parts in the"
            " environment, or use rl2, snail, ppo or maml)"
        )
    return math.prod(spec.observation)


class _Convolutions(nn.Module):
    """Images, uint8 [H, W, C], to features: strided convolutions down to about 4 pixels a side, then a dense layer."""

    features: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = image.astype(jnp.float32) / 255.0
        for index in range(max(1, round(math.log2(min(image.shape[:2]) / 4)))):
            x = jax.nn.relu(nn.Conv(min(16 * 2**index, 64), (3, 3), strides=(2, 2))(x))
        return jax.nn.relu(nn.Dense(self.features, kernel_init=orthogonal(math.sqrt(2.0)))(x.reshape(-1)))


class ObservationEncoder(nn.Module):
    """Encodes an observation as one float32 vector: images by convolutions, all else flattened and cast.

    Categorical integers should be one-hot in the observation. The action mask is left out.
    """

    spec: Spec
    last: str | None = None
    """Key of the part of a dict whose features come last, such as a task ID; None keeps the order of the keys."""

    @nn.compact
    def __call__(self, obs: Any) -> Array:
        if self.spec.action_mask is not None:
            obs = {name: part for name, part in obs.items() if name != self.spec.action_mask}
        if self.last is not None:
            obs = ({name: part for name, part in obs.items() if name != self.last}, obs[self.last])
        parts = [
            _Convolutions(IMAGE_FEATURES)(leaf) if is_image(leaf) else leaf.reshape(-1).astype(jnp.float32)
            for leaf in jax.tree.leaves(obs)
        ]
        return jnp.concatenate(parts)


def any_observation(make: Callable[Concatenate[Spec, P], N]) -> Callable[Concatenate[Spec, P], N]:
    """Decorates a builder of networks, whose first argument is the spec, to accept any observation: `encoded`."""

    @functools.wraps(make)
    def build(spec: Spec, *args: P.args, **kwargs: P.kwargs) -> N:
        return encoded(lambda spec: make(spec, *args, **kwargs), spec)

    return build


def encoded(make: Callable[[Spec], Any], spec: Spec, last: str | None = None) -> Any:
    """Builds a `Network` with an observation encoder in front, and masks invalid actions.

    Args:
      make: builds a network for a spec with one float32 array.
      spec: if its observation is one float32 array already, the result is `make(spec)`. Else the params are
        `{"encoder": ..., "network": ...}`.
      last: key of the part of a dict observation that is at the end of the vector.
    """
    if spec.is_plain:
        return make(spec)
    module, example = ObservationEncoder(spec, last), spec.example_obs()
    size = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), example)[0]).shape[0]
    if not size:
        raise ValueError(f"tasks.observation is {spec.observation}; it needs a part besides the action mask")
    network = make(dataclasses.replace(spec, observation=(size,), action_mask=None))

    def encode(params: Params, inputs: Input, batch_axes: int = 0) -> Input:
        run: Callable[[Any], Array] = lambda obs: cast(Array, module.apply(params["encoder"], obs))  # noqa: E731
        for _ in range(batch_axes):
            run = jax.vmap(run)
        # no network reads it, and it would need encoding too
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
    """Masks logits [..., num] so that actions where `mask` is false have probability exactly 0.

    If the mask of a choice is all false, as at invalid steps, it is ignored.
    """
    nums = spec.action.nums if isinstance(spec.action, MultiDiscrete) else (logits.shape[-1],)
    ends = [sum(nums[: index + 1]) for index in range(len(nums))]
    some = [
        jnp.broadcast_to(jnp.any(part, -1, keepdims=True), part.shape) for part in jnp.split(mask, ends[:-1], axis=-1)
    ]
    return jnp.where(mask | ~jnp.concatenate(some, axis=-1), logits, INVALID)
