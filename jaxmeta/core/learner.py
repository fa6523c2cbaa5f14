"""The two interfaces of the engine: how an agent adapts to one task, and how many tasks improve the agent.

An agent holds three things, each changed by exactly one function: `params` live for the whole meta-training run and
change in `MetaLearner.update`; `fast` lives for one task and changes in `Learner.adapt`; `carry` lives for one stream
of experience and changes in `Learner.act`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxmeta.types import Array, Carry, Fast, Input, Key, Metrics, Output, Params, Plan, Rollout, TrainState


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
    values: Callable[[Params, Fast, Rollout], Array] | None = None
    """Optional values of a rollout's steps, [T, E], from a model that is not needed to act: `act` and `unroll` then say
    zero, and the engine puts these in."""
    report: Callable[[Fast], Metrics] | None = None
    """Optional numbers on how the adaptation to a task went, for the log of meta-training."""


class MetaLearner(NamedTuple):
    """The outer loop: how experience over many tasks improves the params."""

    learner: Learner
    plan: Plan
    """How a trial is laid out where the agent is evaluated."""
    init: Callable[[Key], TrainState]
    update: Callable[[TrainState], tuple[TrainState, Metrics]]
    """Samples tasks, collects trials, improves the params. Pure, scannable, vmappable over seeds."""
    num_devices: int | None = None
    """Devices that `update` runs on; all by default."""
    collects: tuple[int, Plan] | None = None
    """Tasks that an update visits, and how a trial on each is laid out."""
    warmup: int = 0
    """Updates at the begin that only collect."""
    fixed_order: bool = False
    """Whether sums over tasks are taken in a fixed order even where nobody asks for it: what rounds differently from
    one number of devices to another would else grow from update to update."""
    simplify: bool = True
    """Whether the compiler's algebra rounds `update` alike on one device and on many. Where it does not, runs that must
    give equal bits do without, and are slower."""


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
