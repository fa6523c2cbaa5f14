"""The two interfaces of the engine: how an agent adapts to one task, and how many tasks improve the agent.

An agent holds three things, each changed by exactly one function: `params` live for the whole meta-training run and
change in `MetaLearner.update`; `fast` lives for one task and changes in `Learner.adapt`; `carry` lives for one stream
of experience and changes in `Learner.act`.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.types import Array, Carry, Fast, Input, Key, Metrics, Output, Params, Plan, Ratio, Rollout, TrainState


class Learner(NamedTuple):
    """The inner loop: how an agent adapts to one task. All functions are pure and unbatched."""

    init: Callable[[Key], Params]
    """Initialises the meta-parameters."""
    start: Callable[[Params, Key], Fast]
    """Initialises `fast` at the start of a task."""
    reset: Callable[[Params, Fast, Key], Carry]
    """Initialises the carry at the start of a stream of experience."""
    act: Callable[[Params, Fast, Carry, Input], tuple[Carry, Output]]
    """Evaluates the policy at one step; deterministic, so that a replay equals the collection."""
    adapt: Callable[[Params, Fast, Rollout, Key], Fast]
    """Updates `fast` from one round of experience."""
    head: Callable[[Output], Any]
    """Builds a distrax distribution over actions from an output with any leading axes."""
    unroll: Callable[[Params, Fast, Carry, Rollout], Output] | None = None
    """Optional: `act` over whole streams, parallel in time; carry [E, ...] and rollout [T, E, ...]."""


@dataclasses.dataclass(frozen=True)
class Info:
    """Static facts about an algorithm, for placement on devices, logging and evaluation."""

    num_tasks: int = 1
    """Tasks per update."""
    plan: Plan = Plan()
    """Layout of the trial on each of them."""
    spread: int = 1
    """Tasks that are sharded over the devices, per update or per minibatch; the number of devices must divide it."""
    warmup: int = 0
    """Updates at the start that only collect experience."""
    prior_rounds: int = 0
    """Rounds at the start of an evaluation in which the agent acts on the prior alone."""


class MetaLearner(NamedTuple):
    """The outer loop: how experience on many tasks improves the params."""

    learner: Learner
    plan: Plan
    """Layout of a trial in evaluation."""
    init: Callable[[Key], TrainState]
    update: Callable[..., tuple[TrainState, Metrics]]
    """(state, data=()) -> (state, metrics). Samples tasks, gets experience, improves the params. Pure, and works under
    `jax.lax.scan` and, over seeds, `jax.vmap`. `data` is a fixed dataset, which checkpoints do not contain. Runs on the
    devices of the ambient mesh, which `jm.train` sets, else on one."""
    info: Info = Info()


def adaptation_metrics(fast: Fast) -> Metrics:
    """Returns the metrics of an adaptation, scalars by name: the mean of all `Ratio`s in `fast` with that name."""

    def is_ratio(node: Any) -> bool:
        return isinstance(node, Ratio)

    values: dict[str, list[Array]] = {}
    for node in jax.tree.leaves(fast, is_leaf=is_ratio):
        if is_ratio(node):
            known = node.whole > 0
            values.setdefault(node.name, []).append(
                jnp.where(known, node.part / jnp.where(known, node.whole, 1.0), 0.0)
            )
    return {name: jnp.mean(jnp.stack(found)) for name, found in values.items()}


def embedded(
    learner: Learner,
    init: Callable[[Key], Params],
    part: Callable[[Params], Params],
    inputs: Callable[[Params, Input], Input] = lambda params, inputs: inputs,
    rounds: Callable[[Params, Rollout], Rollout] = lambda params, experience: experience,
) -> Learner:
    """Builds an agent that acts and adapts as another one, whose params are a part of its own.

    Args:
      init: initialises the params of the result.
      part: returns the params of `learner` from those of the result.
      inputs: (params of the result, inputs) -> what `learner` receives at a step.
      rounds: (params of the result, rollout) -> the same for all steps of a rollout.
    """
    parallel = learner.unroll

    def unroll(params: Params, fast: Fast, carry: Carry, experience: Rollout) -> Output:
        assert parallel is not None
        return parallel(part(params), fast, carry, rounds(params, experience))

    return Learner(
        init=init,
        start=lambda params, key: learner.start(part(params), key),
        reset=lambda params, fast, key: learner.reset(part(params), fast, key),
        act=lambda params, fast, carry, given: learner.act(part(params), fast, carry, inputs(params, given)),
        adapt=lambda params, fast, experience, key: learner.adapt(part(params), fast, rounds(params, experience), key),
        head=learner.head,
        unroll=None if parallel is None else unroll,
    )


_BY_MODE = contextvars.ContextVar("by_mode", default=False)


def deterministic(learner: Learner) -> Learner:
    """Replaces sampling from the action distribution by its mode, also in the rounds that are adapted to.

    What an agent draws for itself in `act`, such as an option, is the most likely one too (see `by_mode`).
    """

    def act(params: Params, fast: Fast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        token = _BY_MODE.set(True)
        try:
            return learner.act(params, fast, carry, inputs)
        finally:
            _BY_MODE.reset(token)

    return learner._replace(act=act, head=lambda output: _Mode(learner.head(output)))


def by_mode() -> bool:
    """Returns whether `Learner.act` is called by an agent of `deterministic`: it must then choose, and not draw."""
    return _BY_MODE.get()


class _Mode:
    """A distribution whose samples are its mode."""

    def __init__(self, distribution):
        self._distribution = distribution

    def sample(self, seed: Key) -> Array:
        return self._distribution.mode()

    def __getattr__(self, name: str):
        return getattr(self._distribution, name)
