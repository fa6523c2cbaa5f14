"""Levels that are solved always, never or sometimes, and a buffer of numbers, for the tests of samplers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.outer.samplers import buffer as buffers
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Discrete, Plan, Spec, Step


@dataclasses.dataclass(frozen=True)
class Levels:
    """One step; the task is a probability of success, which no action changes."""

    spec = Spec(observation=(1,), action=Discrete(2), horizon=1, success=True)

    def reset(self, key, task):
        return (), jnp.zeros(1)

    def step(self, key, state, action, task):
        solved = jax.random.bernoulli(key, task)
        return (), Step(
            obs=jnp.zeros(1), reward=solved.astype(jnp.float32), terminated=jnp.array(False), success=solved
        )


def levels(chances=(1.0, 0.0, 0.5)):
    """A family that draws one of several levels."""
    chances = jnp.array(chances)
    sample = lambda key: jax.random.choice(key, chances)  # noqa: E731
    return TaskFamily(Levels(), sample, sample, lambda task: task[None])


def numbers(count=100):
    """A family of numbers."""
    sample = lambda key: jax.random.randint(key, (), 0, count).astype(jnp.float32)  # noqa: E731
    return TaskFamily(Levels(), sample, sample, lambda task: task[None])


def buffer(**changes):
    rows = jnp.arange(4.0)
    full = buffers.empty(numbers(), 4, jax.random.key(0)).replace(
        tasks=rows, code=buffers.fingerprints(numbers(), rows), full=jnp.ones(4, bool)
    )
    return full.replace(**changes)


LEVELS, PLAN = levels(), Plan(streams=4)
POLICY = jm.inner.policy(jm.nets.actor_critic(LEVELS.env.spec, (4,)))


def bandit(sampler_config, streams=4, num_tasks=8):
    plan = dataclasses.replace(PLAN, streams=streams)
    improve = outer.policy_gradient(
        POLICY, jm.rl.plain_returns(), dataclasses.replace(outer.PolicyGradientConfig(), epochs=1)
    )
    meta = outer.meta_update(
        POLICY,
        plan,
        outer.uniform(LEVELS),
        outer.fresh(POLICY, LEVELS, plan),
        improve,
        outer.Info(num_tasks, plan, spread=num_tasks),
    )
    build = {
        outer.LearnabilityConfig: outer.sampling_for_learnability,
        outer.PrioritisedConfig: outer.prioritised_replay,
    }
    return outer.with_sampler(meta, build[type(sampler_config)](LEVELS, meta, sampler_config))
