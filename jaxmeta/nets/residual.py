"""What the transformer, S5, Mamba and mLSTM share: encoder, residual blocks, heads, stepping and unrolling.

A model is a linear encoding of the policy input, a stack of blocks, and linear policy and value heads. A block is

    x + project(mixer(norm(x))),  then  x + gated MLP(norm(x)),

and only the mixer passes information between steps. Stepping and unrolling run the same mixer, on one step or on a
whole stream. Costs per layer and stream, with width D, H heads (G of keys and values) and N states:

| cell | mixer | multiplications per step | numbers in the carry | parallel form |
|---|---|---|---|---|
| `transformer` | attention to the last L steps | 3 D² + 2 L D | 2 L D G / H + 1 | attention, 128 queries at a time |
| `s5` | linear recurrence, the same at all steps | 3 D² | D | associative scan |
| `mamba` | linear recurrence, set by the input | 3 D² + 5 D N | D (N + 3) | associative scans over 16 steps each |
| `mlstm` | matrix memory in each head | 5 D² + 3 D² / H | D² / H + D + H | attention within 16 steps each |

A gated MLP adds 3 r D², with r = 2 by default. All numbers take 4 bytes. On a CPU the linear recurrences are
sequential in time. Of the other cells, `gru` multiplies 3 D² numbers and those of its input and carries D; a layer of
`lru` multiplies 6 D² and carries 2 D; `associative` carries H x slots x (values + 1) and its last input.

Episode ends within a trial change nothing: the carry is kept, and the policy input has the end of the episode. A stream
starts with a fresh carry, so the resets of Lu et al. (2023, arXiv:2303.03982) never fall inside a stream; what does is
an early end, whose invalid steps must leave the carry as it is. An invalid step has an output all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import Network, encode_input, policy_and_value
from jaxmeta.nets.orthogonal import lecun
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Spec

INPUT_GAIN = 2.5
"""Factor of LeCun's initialisation of the encoder. Most of the input is one-hot, hence nearly all zero: with 1, policy
and attention stay uniform for hundreds of updates."""
CHUNK = 16
"""Steps that Mamba and mLSTM process at once; between chunks only the state is stored for the backward pass. On a CPU,
gradients over trials of 100 steps took twice the time with 64."""


class Steps(NamedTuple):
    """The steps that a mixer runs on."""

    valid: Array
    """[T]; where it is zero the state must not change."""
    gaps: bool
    """Whether any of them can be invalid."""

    @property
    def before(self) -> Array:
        """Number of valid steps before each step, [T]."""
        happened = self.valid > 0
        return jnp.cumsum(happened) - happened if self.gaps else jnp.arange(len(self.valid))


class Mixer(NamedTuple):
    """The part of a layer that passes information between steps."""

    make: Callable[[], nn.Module]
    """Builds a linen module: (state, x [T, D], steps) -> (state, features [T, F]). If T > 1 it is a whole stream, so
    that the state is that of `initial_state`."""
    initial_state: Callable[[], Any]


class _Block(nn.Module):
    mixer: Mixer
    depth: int
    ratio: int

    @nn.compact
    def __call__(self, state: Any, x: Array, steps: Steps) -> tuple[Any, Array]:
        width = x.shape[-1]
        # 2 x depth branches add up to about the variance of the encoded input
        project = lecun(1.0 / math.sqrt(2.0 * self.depth))
        mixer = cast(Callable[..., tuple[Any, Array]], self.mixer.make())
        state, features = mixer(state, nn.LayerNorm()(x), steps)
        x = x + nn.Dense(width, use_bias=False, kernel_init=project)(features)
        gate, content = jnp.split(nn.Dense(2 * self.ratio * width, use_bias=False)(nn.LayerNorm()(x)), 2, axis=-1)
        return state, x + nn.Dense(width, use_bias=False, kernel_init=project)(jax.nn.silu(gate) * content)


class _Residual(nn.Module):
    spec: Spec
    mixer: Mixer
    hidden: int
    layers: int
    ratio: int
    init_log_std: float

    @nn.compact
    def __call__(self, carry: Carry, x: Array, steps: Steps) -> tuple[Carry, Output]:
        x = nn.Dense(self.hidden, kernel_init=lecun(INPUT_GAIN))(x)
        states = []
        for state in carry:
            state, x = _Block(self.mixer, self.layers, self.ratio)(state, x, steps)
            states.append(state)
        return tuple(states), policy_and_value(nn.LayerNorm()(x), self.spec, self.init_log_std)


def residual_actor_critic(
    spec: Spec, mixer: Mixer, hidden: int, layers: int, init_log_std: float = 0.0, ratio: int = 2
) -> Network:
    """Builds a policy of pre-norm residual blocks with linear policy and value heads.

    Args:
      hidden: width of the blocks.
      layers: number of blocks.
      ratio: width of the gated MLPs, in widths of the block.
    """
    if layers < 1:
        raise ValueError(f"layers is {layers}; it must be at least 1")
    module = _Residual(spec, mixer, hidden, layers, ratio, init_log_std)
    run = cast(Callable[..., tuple[Carry, Output]], module.apply)
    one_step = Steps(jnp.ones(1), gaps=False)

    def initial_state() -> Carry:
        return tuple(mixer.initial_state() for _ in range(layers))

    def init(key: Key) -> Params:
        return module.init(key, initial_state(), encode_input(spec.example_input(), spec)[None], one_step)

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, output = run(params, carry, encode_input(inputs, spec)[None], one_step)
        return carry, jax.tree.map(lambda leaf: leaf[0], output)

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        def stream(carry: Carry, inputs: Input, valid: Array) -> Output:
            seen = jax.vmap(lambda one: encode_input(one, spec))(inputs)
            return run(params, carry, seen, Steps(valid, spec.terminates))[1]

        return jax.vmap(stream, (0, 1, 1), 1)(carry, inputs, valid)

    return Network(init=init, apply=apply, initial_state=initial_state, head=head_for(spec.action), unroll=unroll)
