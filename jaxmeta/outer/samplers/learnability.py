"""Sampling for learnability (SFL): replay the tasks that the agent solves sometimes, neither always nor never."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.core.rollout import acting_bytes, collect, stepping_chunk
from jaxmeta.outer.meta_update import Sampler, parts_of
from jaxmeta.outer.samplers import scores
from jaxmeta.outer.samplers.buffer import (
    Buffer,
    Rating,
    Refresh,
    fingerprints,
    insert,
    mixed,
    normalised,
    replaying,
    smoothed,
)
from jaxmeta.outer.samplers.prioritised import ReplayConfig
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Params, Plan, Spec, Task, Trial


@dataclasses.dataclass(frozen=True)
class LearnabilityConfig(ReplayConfig):
    """SFL: replay tasks with high p (1 - p), p the success rate (Rutherford et al., 2024, arXiv:2408.15099).

    The probability of replay is uniform over the buffer, apart from staleness. Without `probes` success is counted in
    the trials of the update, which costs nothing. The episodes of an agent with memory are then not independent: a task
    has a high score if some episodes of its trial succeed and others fail.
    """

    size: int = 256
    staleness: float = 0.0
    rate: float = 0.5
    """Weight of the last visit in the moving average of the scores of a task, without probes."""
    probes: int = 0
    """New tasks that the agent is tested on before every update, to fill the buffer; the number of devices must divide
    it. Their environment steps are counted."""
    probe_streams: int = 8
    """Independent trials on each of them."""
    decay: float = 0.97
    """Factor per update of the scores in the buffer, with probes: it replaces tasks that were tested long ago."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "rate")
        checks.fraction(self, "rate", "decay")
        checks.not_negative(self, "probes")
        if self.probe_streams < 2:
            raise ValueError(f"probe_streams is {self.probe_streams}; learnability needs at least 2 trials on a task")


def sampling_for_learnability(
    family: TaskFamily, meta: MetaLearner, config: LearnabilityConfig = LearnabilityConfig()
) -> Sampler:
    """Builds sampling for learnability for a meta-learner: pass the result to `outer.with_sampler`.

    Raises:
      ValueError: if the tasks report neither success nor termination, or a trial has one episode only and there are no
        probes.
    """
    spec, plan = family.env.spec, meta.info.plan
    if not (spec.success or spec.terminates):
        raise ValueError(
            "sampler is 'learnability', but these tasks report neither success nor termination (try prioritised)"
        )
    if config.probes:
        rate, refresh = _unchanged(), _probing(family, meta, config)
    elif plan.streams * plan.episodes < 2:
        raise ValueError("probes is 0; a trial has 1 episode, so learnability needs probes (try 64)")
    else:
        rate, refresh = smoothed(_of_trial(spec, plan), config.rate, only_positive=True), _nothing

    def over_kept(buffer: Buffer) -> Array:
        return normalised((buffer.full & (buffer.score > 0)).astype(jnp.float32))

    weigh = mixed(over_kept, config.staleness)
    return replaying(family, meta.info.num_tasks, rate, weigh, config.size, config.share, refresh=refresh)


def _of_trial(spec: Spec, plan: Plan):
    def measure(params: Params, trial: Trial) -> Array:
        return scores.learnability(scores.successes(spec, plan, trial), plan.streams * plan.episodes)

    return measure


def _nothing(buffer: Buffer, params: Params, key: Key) -> Buffer:
    return buffer


def _unchanged() -> Rating:
    """Leaves scores to the probes: visits neither change them nor add tasks."""

    def first(buffer: Buffer, tasks: Task, measures: Array) -> tuple[Array, Array, Array]:
        return measures, measures, jnp.zeros(measures.shape, bool)

    return Rating(lambda params, trial: jnp.zeros(()), first, lambda score, value, measures: (score, value))


def _probing(family: TaskFamily, meta: MetaLearner, config: LearnabilityConfig) -> Refresh:
    """Tests the agent on new tasks and keeps the most learnable ones.

    Every stream of a probe has as many episodes as a trial; a probe counts the success of the last one, so that its
    streams are independent.
    """
    learner, spec = parts_of(meta).learner, family.env.spec
    plan = dataclasses.replace(meta.info.plan, streams=config.probe_streams)

    def one(params: Params, task_and_key: tuple[Task, Key]) -> tuple[Array, Array]:
        trial = collect(learner, params, family.env, *task_and_key, plan)
        last = trial.rounds.success[-1] if spec.success else trial.rounds.terminated[-1]
        solved = last.reshape(plan.episodes, -1, plan.streams)[-1].any(0)
        score = scores.learnability(solved.sum().astype(jnp.float32), plan.streams)
        return score, trial.rounds.valid.sum()

    def on_device(params: Params, mine: tuple[Task, Key]) -> tuple[tuple[()], tuple[Array, Array]]:
        chunk = stepping_chunk(family.env, mine[0], plan, acting_bytes(learner, params, family.env.spec))
        return (), devices.chunked_vmap(lambda one_task: one(params, one_task), mine, chunk)

    def refresh(buffer: Buffer, params: Params, key: Key) -> Buffer:
        if config.probes % devices.num_devices():
            raise ValueError(f"probes is {config.probes}; the {devices.num_devices()} devices must divide it")
        sample_keys, trial_keys = jax.random.split(key, (2, config.probes))
        tasks = devices.map_tasks(family.sample, sample_keys)
        _, found = devices.over_tasks(on_device, params, (tasks, trial_keys))
        tasks, (score, steps) = devices.replicated((tasks, found))
        buffer = buffer.replace(score=buffer.score * config.decay, probed=steps.sum())
        return insert(buffer, tasks, fingerprints(family, tasks), score, jnp.zeros_like(score), score > 0)

    return refresh
