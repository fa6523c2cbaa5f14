"""The records that every part of jaxmeta passes around.

Axis letters: N tasks, R rounds of adaptation, T time, E parallel streams, K episodes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Key = jax.Array
Params = Any
Fast = Any
Carry = Any
Task = Any
EnvState = Any
Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Discrete:
    """An action space of `num` choices, numbered from 0."""

    num: int

    def example(self) -> Array:
        return jnp.zeros((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Continuous:
    """An action space of real vectors of length `size`."""

    size: int
    limit: float = 1.0
    """Largest absolute coordinate that makes a difference: the environment clips there."""

    def example(self) -> Array:
        return jnp.zeros((self.size,), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an environment shows and accepts: static, hashable, the same for every task of a family."""

    observation: tuple[int, ...]
    """Shape of one observation."""
    action: Discrete | Continuous
    horizon: int
    """Steps in an episode; an episode that ends earlier is masked up to here."""
    terminates: bool = False
    """Whether an episode can end before the horizon."""

    def example_input(self) -> Input:
        """Returns an all-zero policy input, without batch axes."""
        zero = jnp.zeros((), jnp.float32)
        observation = jnp.zeros(self.observation, jnp.float32)
        return Input(
            obs=observation,
            prev_action=self.action.example(),
            prev_reward=zero,
            prev_done=zero,
            prev_next_obs=observation,
            first=zero,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the experience of one trial is laid out.

    A trial is `rounds` rounds, each followed by an adaptation, and then one more round. In a round, `streams` parallel
    streams of experience each run `episodes` episodes one after the other, without forgetting in between.
    """

    rounds: int = 0
    streams: int = 1
    episodes: int = 1

    def __post_init__(self):
        for name, least in (("rounds", 0), ("streams", 1), ("episodes", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"plan.{name} is {value}; it must be at least {least}")


class Examples(struct.PyTreeNode):
    """Data to learn a function from; leaves are [M, ...]."""

    inputs: Array
    targets: Array


class Step(struct.PyTreeNode):
    """What an environment answers to one action."""

    obs: Array
    reward: Array
    """Scalar."""
    terminated: Array
    """Scalar, true where the episode ends here; always false where only the horizon ends it."""


class Input(struct.PyTreeNode):
    """What a policy sees at one step: the observation and how the step before it ended."""

    obs: Array
    prev_action: Array
    prev_reward: Array
    prev_done: Array
    """1.0 where the step before this one ended an episode."""
    prev_next_obs: Array
    """What the step before this one led to: `obs`, but at the begin of an episode the last sight of the one before."""
    first: Array
    """1.0 at the first step of a stream, where there is no step before."""


class Output(struct.PyTreeNode):
    """What a policy says at one step. Arrays only: `Learner.head` makes the distribution where it is used."""

    dist: Any
    """Parameters of the action distribution."""
    value: Array
    """Predicted return, scalar per step; zero for a policy without a value function."""
    aux: Any = ()


class Rollout(struct.PyTreeNode):
    """One round of experience on one task; leaves are [T, E, ...], T = episodes x horizon, unless said otherwise."""

    inputs: Input
    action: Array
    next_obs: Array
    """What the step led to, the last sight of an episode included."""
    reward: Array
    """As the environment paid it; zero after an early end."""
    valid: Array
    """1.0 until the episode ended, then 0.0 up to the horizon."""
    done: Array
    """1.0 at the last valid step of an episode."""
    terminated: Array
    """1.0 where the environment itself ended the episode; a horizon that is reached ends it, but terminates nothing."""
    output: Output
    """What the behaviour policy said, for importance ratios."""
    reset_key: Key
    """[E], replays `Learner.reset`."""
    fault: Array
    """True where the environment or the policy gave something that is not finite; such a step is not valid."""


class Trial(struct.PyTreeNode):
    """All experience of one agent on one task."""

    rounds: Rollout
    """Leaves are [R + 1, T, E, ...]."""
    start_key: Key
    """Replays `Learner.start`."""
    adapt_keys: Key
    """[R], replays `Learner.adapt`."""


class TrainState(struct.PyTreeNode):
    """Everything that meta-training changes; it is what a checkpoint holds."""

    params: Params
    opt_state: Any
    key: Key
    step: Array
    """Updates done so far, int32 scalar."""
    sampler: Any = ()
    """What the sampler remembers, such as the scores of a curriculum; the same on every device."""
    source: Any = ()
    """What the source remembers, such as a replay; leaves are [S, ...], spread over the devices along the first axis.
    It is experience, so a skipped update keeps it."""
    skipped: Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))
    """Updates in a row, up to now, that were skipped because they were not finite, int32 scalar."""


class Ratio(struct.PyTreeNode):
    """A number on how an adaptation went, kept inside of `fast`; see `core.learner.adaptation_metrics`."""

    name: str = struct.field(pytree_node=False)
    """Its name in the log."""
    part: Array
    """Float32 scalar."""
    whole: Array
    """Float32 scalar; where it is not positive, there is nothing to report yet and the ratio is 0."""
