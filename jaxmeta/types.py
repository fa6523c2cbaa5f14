"""The records that every part of jaxmeta passes around.

Axis letters: N tasks, R rounds of adaptation, T time, E parallel streams, K episodes.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
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
class MultiDiscrete:
    """An action space of several choices at once: the i-th is one of `nums[i]`, numbered from 0."""

    nums: tuple[int, ...]

    def example(self) -> Array:
        return jnp.zeros((len(self.nums),), jnp.int32)


UNBOUNDED = 1e18
"""An action `limit` from here on counts as no limit."""


@dataclasses.dataclass(frozen=True)
class Continuous:
    """An action space of real vectors of length `size`."""

    size: int
    limit: float = 1.0
    """Actions are clipped to [-limit, limit] by the environment."""

    def example(self) -> Array:
        return jnp.zeros((self.size,), jnp.float32)


Action = Discrete | MultiDiscrete | Continuous


@dataclasses.dataclass(frozen=True)
class Spec:
    """The observation and action spaces of an environment: static, hashable, the same for every task of a family."""

    observation: Any
    """Shape of one float32 array, such as `(27,)`; or a `jax.ShapeDtypeStruct`, or a pytree of either, such as
    `{"image": jax.ShapeDtypeStruct((64, 64, 3), jnp.uint8), "inventory": (16,)}`. Integers keep their dtype up to the
    policy's encoder (`nets.encoded`)."""
    action: Action
    horizon: int
    """Steps per episode; episodes that end earlier are masked up to here."""
    terminates: bool = False
    """Whether an episode can end before the horizon, by termination or truncation."""
    success: bool = False
    """Whether steps report if the task is solved (`Step.success`)."""
    action_mask: str | None = None
    """Key of the action mask in a dict observation: bool [num], or [sum(nums)] with `MultiDiscrete`. A policy never
    samples an action whose entry is False; where all entries are False, the mask is ignored."""

    def __post_init__(self):
        if isinstance(self.observation, list):
            hint = f"it must be a shape, a tuple of integers (try {tuple(self.observation)})"
            raise ValueError(f"spec.observation is {self.observation}; {hint}")
        forms = jax.tree.map(_form, self.observation, is_leaf=_is_form)
        if not jax.tree.leaves(forms):
            raise ValueError(f"spec.observation is {self.observation}; it needs at least one array")
        plain = isinstance(forms, jax.ShapeDtypeStruct) and forms.dtype == jnp.float32
        object.__setattr__(self, "observation", forms.shape if plain else forms)
        if self.action_mask is not None:
            self._check_mask()

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(self.observation)
        rest = (self.action, self.horizon, self.terminates, self.success, self.action_mask)
        return hash((tuple(leaves), structure, rest))

    @property
    def is_plain(self) -> bool:
        """Whether an observation is one float32 array; `observation` is then its shape."""
        return isinstance(self.observation, tuple) and all(
            isinstance(size, numbers.Integral) for size in self.observation
        )

    def example_obs(self) -> Any:
        """Returns an all-zero observation, without batch axes."""
        return jax.tree.map(lambda form: jnp.zeros(form.shape, form.dtype), self.observation_form())

    def observation_form(self) -> Any:
        """Returns the observation as a pytree of `jax.ShapeDtypeStruct`."""
        return jax.ShapeDtypeStruct(self.observation, jnp.float32) if self.is_plain else self.observation

    def example_input(self) -> Input:
        """Returns an all-zero policy input, without batch axes."""
        zero = jnp.zeros((), jnp.float32)
        observation = self.example_obs()
        return Input(
            obs=observation,
            prev_action=self.action.example(),
            prev_reward=zero,
            prev_done=zero,
            prev_next_obs=observation,
            first=zero,
        )

    def _check_mask(self) -> None:
        """Raises a ValueError unless the mask is a part of the observation and fits the actions."""
        name, parts = self.action_mask, self.observation
        if isinstance(self.action, Continuous):
            raise ValueError(f"spec.action_mask is {name!r}; continuous actions have no mask, leave it None")
        if not isinstance(parts, dict) or name not in parts:
            raise ValueError(f"spec.action_mask is {name!r}; it must be a key of a dict observation, not of {parts}")
        size = self.action.num if isinstance(self.action, Discrete) else sum(self.action.nums)
        if parts[name].shape != (size,) or parts[name].dtype != jnp.bool_:
            raise ValueError(f"spec.observation[{name!r}] is {parts[name]}; as an action mask it must be bool[{size}]")


def _is_form(node: Any) -> bool:
    """Returns whether a node of `Spec.observation` describes one array."""
    return _is_shape(node) or (hasattr(node, "shape") and hasattr(node, "dtype"))


def _is_shape(node: Any) -> bool:
    return type(node) is tuple and all(isinstance(size, numbers.Integral) for size in node)


def _form(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype that a leaf of `Spec.observation` describes; a bare shape means float32."""
    if not _is_form(leaf):
        raise ValueError(f"spec.observation has {leaf!r}; a leaf must be a shape, such as (27,), or a ShapeDtypeStruct")
    if type(leaf) is tuple:
        return jax.ShapeDtypeStruct(leaf, jnp.float32)
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layout of one trial.

    A trial is `rounds` rounds, each followed by an adaptation, and one final round. In a round, `streams` parallel
    streams of experience each run `episodes` episodes in sequence; the carry is kept between episodes.

    MAML with 20 episodes before and after one inner step is `Plan(rounds=1, streams=20)`; RL² with trials of 10
    episodes is `Plan(episodes=10)`.
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
    """Supervised examples; leaves are [M, ...]."""

    inputs: Array
    targets: Array


class Step(struct.PyTreeNode):
    """The result of one environment step."""

    obs: Any
    """Like `Spec.observation`."""
    reward: Array
    """Scalar."""
    terminated: Array
    """Scalar, true where the environment ends the episode; false at the horizon."""
    truncated: Array | bool = False
    """Scalar, true where the environment truncates the episode before the horizon. As at the horizon, the episode is
    done (`Rollout.done`) but not terminated: off-policy learners bootstrap from `obs`, the final observation; on-policy
    estimators of returns within an episode do not bootstrap."""
    success: Array | bool = False
    """Scalar, true where the task is solved; an episode is a success if any of its steps is. Needs `Spec.success`."""


class Input(struct.PyTreeNode):
    """The policy's input at one step: the observation, and the previous transition."""

    obs: Any
    """Like `Spec.observation`."""
    prev_action: Array
    prev_reward: Array
    prev_done: Array
    """1.0 where the previous step ended an episode."""
    prev_next_obs: Any
    """The next observation of the previous transition: equal to `obs`, except at the start of an episode, where it is
    the final observation of the previous episode."""
    first: Array
    """1.0 at the first step of a stream, which has no previous transition."""


class Output(struct.PyTreeNode):
    """The policy's output at one step. Arrays only: `Learner.head` builds the distribution where it is used."""

    dist: Any
    """Parameters of the action distribution."""
    value: Array
    """Predicted return, scalar per step; zero for a policy without a value function."""
    aux: Any = ()
    """Anything else that a learner stores at every step. What it drew for itself is wrapped in `Choice`."""


class Choice(struct.PyTreeNode):
    """What an agent drew for itself at a step, such as an option, anywhere in `Output.aux`.

    Choices are data, as actions are. `Learner.act` draws them, with a PRNG key from the carry. `Learner.unroll` takes
    them from `experience.output.aux` and returns them unchanged, whatever the params are. A replay that draws again
    makes other choices once the params have changed, and its log-probabilities are not those of the stored experience.
    `jm.testing.check_learner` checks this.
    """

    drawn: Any
    """Arrays; unbatched in `act`, [T, E, ...] in a rollout."""


class Fault(enum.IntEnum):
    """The first source of non-finite numbers at a step."""

    NONE = 0
    ENVIRONMENT = 1
    POLICY = 2


class Rollout(struct.PyTreeNode):
    """One round of experience on one task; leaves are [T, E, ...], T = episodes x horizon, unless said otherwise."""

    inputs: Input
    action: Array
    next_obs: Any
    """The next observation; at the end of an episode its final observation."""
    reward: Array
    """The environment's reward, not normalised; zero after an early end."""
    valid: Array
    """1.0 until the episode ends, then 0.0 up to the horizon."""
    done: Array
    """1.0 at the last valid step of an episode, whether it terminated, was truncated or reached the horizon."""
    terminated: Array
    """1.0 where the environment terminated the episode; 0.0 at truncation and at the horizon."""
    output: Output
    """The behaviour policy's output, for importance ratios."""
    reset_key: Key
    """The keys that `Learner.reset` received, [E]; a replay passes them again."""
    success: Array
    """True at valid steps where the task is solved; always false in environments that do not report success."""
    fault: Array
    """The source of non-finite numbers, a `Fault` as int8; a step with a fault is not valid."""


class Trial(struct.PyTreeNode):
    """All experience of one agent on one task."""

    rounds: Rollout
    """Leaves are [R + 1, T, E, ...]: the R rounds that are adapted to, and the last one."""
    start_key: Key
    """The key that `Learner.start` received; a replay passes it again."""
    adapt_keys: Key
    """The keys that `Learner.adapt` received, [R]."""


class TrainState(struct.PyTreeNode):
    """Everything that meta-training changes; it is what a checkpoint holds."""

    params: Params
    opt_state: Any
    key: Key
    step: Array
    """Number of updates so far, int32 scalar."""
    sampler: Any = ()
    """The sampler's state, such as the scores of a curriculum; replicated on every device."""
    source: Any = ()
    """The source's state, such as replay buffers; leaves are [S, ...], sharded over the devices along the first axis.
    It is experience, so a skipped update still changes it."""
    skipped: Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))
    """Number of consecutive updates, up to the last one, that were skipped as non-finite, int32 scalar."""


class Ratio(struct.PyTreeNode):
    """A metric of the adaptation, `part / whole`, stored inside `fast`; see `core.learner.adaptation_metrics`."""

    name: str = struct.field(pytree_node=False)
    """Name of the metric."""
    part: Array
    """Float32 scalar."""
    whole: Array
    """Float32 scalar; unless it is positive the ratio is reported as 0."""
