"""The two interfaces of the engine: how an agent adapts to one task, and how many tasks improve the agent.

An agent holds three things, each changed by exactly one function: `params` live for the whole meta-training run and
change in `MetaLearner.update`; `fast` lives for one task and changes in `Learner.adapt`; `carry` lives for one stream
of experience and changes in `Learner.act`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.types import Array, Carry, Fast, Input, Key, Metrics, Output, Params, Plan, Ratio, Rollout, TrainState


class Learner(NamedTuple):
    """The inner loop: how an agent adapts to one task. All functions are pure and unbatched."""

    init: Callable[[Key], Params]
    """Makes the meta-parameters."""
    start: Callable[[Params, Key], Fast]
    """A new task begins."""
    reset: Callable[[Params, Fast, Key], Carry]
    """A new stream of experience begins."""
    act: Callable[[Params, Fast, Carry, Input], tuple[Carry, Output]]
    """One step; deterministic, so that a replay equals the collection."""
    adapt: Callable[[Params, Fast, Rollout, Key], Fast]
    """Learns from one round of experience."""
    head: Callable[[Output], Any]
    """Makes a distrax distribution over actions from the arrays of an output with any leading axes."""
    unroll: Callable[[Params, Fast, Carry, Rollout], Output] | None = None
    """Optional form of `act` over whole streams that is parallel in time: carry [E, ...] and rollout [T, E, ...]."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What an algorithm tells those who place, print and evaluate it; static."""

    num_tasks: int = 1
    """Tasks that an update visits."""
    plan: Plan = Plan()
    """How the trial on each of them is laid out."""
    spread: int = 1
    """The number of devices must divide this: tasks of an update, or of a minibatch."""
    warmup: int = 0
    """Updates at the start that only collect."""
    prior_rounds: int = 0
    """Rounds at the start of an evaluation in which the agent acts on the prior alone."""


class MetaLearner(NamedTuple):
    """The outer loop: how experience over many tasks improves the params."""

    learner: Learner
    plan: Plan
    """How a trial is laid out where the agent is evaluated."""
    init: Callable[[Key], TrainState]
    update: Callable[..., tuple[TrainState, Metrics]]
    """(state, data=()) -> (state, metrics). Samples tasks, gets experience, improves the params. Pure, scannable,
    vmappable over seeds; `data` is a fixed dataset that no checkpoint holds. It runs on the devices of the ambient mesh
    that `jm.train` enters, else on one."""
    info: Info = Info()


def adaptation_metrics(fast: Fast) -> Metrics:
    """Reads the numbers on how the adaptation to a task went from the `Ratio`s in its fast state, scalars by name."""

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


def by_mode(learner: Learner) -> Learner:
    """Makes an agent deterministic: it does what is most likely, also where it learns from what it did."""
    return learner._replace(head=lambda output: _Mode(learner.head(output)))


class _Mode:
    """A distribution that always draws its mode."""

    def __init__(self, distribution):
        self._distribution = distribution

    def sample(self, seed: Key) -> Array:
        return self._distribution.mode()

    def __getattr__(self, name: str):
        return getattr(self._distribution, name)
