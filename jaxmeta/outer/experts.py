"""Experts: agents that act for a student or label its experience, and that may observe the task.

An expert acts in the environment of the student. What it observes beyond the student's observation is computed from the
task, and is not stored: experience that an expert collects holds the observations of the student only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.core.learner import Learner, embedded
from jaxmeta.core.rollout import unroll
from jaxmeta.tasks.base import Revealed, TaskFamily, kinds_of, reveal
from jaxmeta.tasks.numbered import with_task_id
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Rollout, Task


class Expert(NamedTuple):
    """An agent with its params, and what it observes."""

    learner: Learner
    params: Params
    observe: Callable[[Any, Task], Any] | None = None
    """(observation of the student, task) -> observation of the expert, unbatched; None for an agent that does not
    observe the task."""


def informed(family: TaskFamily, learner: Learner, params: Params) -> Expert:
    """Builds an expert that observes the task: a learner on `jm.tasks.reveal(family)`.

    Args:
      family: as the student observes it. If it reveals the task already, the expert observes the same as the student.
    """
    if isinstance(family.env, Revealed):
        return Expert(learner, params)
    env = reveal(family).env
    assert isinstance(env, Revealed)
    return Expert(learner, params, env.with_task)


def specialists(family: TaskFamily, learner: Learner, params: Params) -> list[Expert]:
    """Splits an agent that observes the task ID into one agent for each of the K tasks, which observes no ID.

        meta = jm.multi_task(family)
        library = outer.specialists(family, meta.learner, state.params)

    Args:
      family: the tasks that the agent was trained on, finitely many; with or without the task ID.
      learner: an agent on `jm.tasks.with_task_id(family)`.
    """
    family = with_task_id(family)
    env = family.env
    assert isinstance(env, Revealed)
    _, first = np.unique(kinds_of(family.train_tasks), return_index=True)
    each = [jax.tree.map(lambda leaf, index=index: leaf[index], family.train_tasks) for index in first]
    return [Expert(acting(Expert(learner, params, env.with_task), task), params) for task in each]


def acting(expert: Expert, task: Task) -> Learner:
    """Returns an expert on one task as a learner in the environment of the student; its params are `expert.params`."""
    learner, observe = expert.learner, expert.observe
    if observe is None:
        return learner._replace(init=lambda key: expert.params)

    def seen(inputs: Input) -> Input:
        return inputs.replace(obs=observe(inputs.obs, task), prev_next_obs=observe(inputs.prev_next_obs, task))

    def round_seen(experience: Rollout) -> Rollout:
        next_obs = jax.vmap(jax.vmap(lambda obs: observe(obs, task)))(experience.next_obs)
        return experience.replace(inputs=jax.vmap(jax.vmap(seen))(experience.inputs), next_obs=next_obs)

    return embedded(
        learner,
        init=lambda key: expert.params,
        part=lambda params: params,
        inputs=lambda params, inputs: seen(inputs),
        rounds=lambda params, experience: round_seen(experience),
    )


def expert_actions(expert: Expert, task: Task, experience: Rollout) -> Array:
    """Returns the mode of the expert's policy at every step of anyone's experience on a task.

    The expert follows the experience as if it were its own, with the actions that were taken and not its own ones.

    Args:
      experience: leaves [T, E, ...].

    Returns:
      Actions [T, E, ...]. At invalid steps they are meaningless.
    """
    learner = acting(expert, task)
    fast = learner.start(expert.params, jax.random.key(0))
    return learner.head(unroll(learner, expert.params, fast, experience)).mode()


class MixtureCarry(struct.PyTreeNode):
    """The carry of a mixture policy."""

    student: Carry
    expert: Carry
    key: Key
    step: Array
    """Number of steps in the stream, int32 scalar."""


class MixtureDist(struct.PyTreeNode):
    """The policies of both, and who acts."""

    student: Output
    expert: Output
    asked: Array
    """Whether the expert acts, bool [...]."""


def mixture(student: Learner, expert: Expert, task: Task, beta: Array | float) -> Learner:
    """Builds DAgger's policy on one task: at every step the expert acts with probability β, else the student.

    The choices are drawn from the carry, so that a replay repeats them. The params and `fast` are those of the student.

    Args:
      beta: probability that the expert acts, a scalar.
    """
    guide = acting(expert, task)
    fast_guide = guide.start(expert.params, jax.random.key(0))

    def reset(params, fast, key):
        student_key, expert_key, key = jax.random.split(key, 3)
        return MixtureCarry(
            student=student.reset(params, fast, student_key),
            expert=guide.reset(expert.params, fast_guide, expert_key),
            key=key,
            step=jnp.zeros((), jnp.int32),
        )

    def act(params, fast, carry, inputs):
        asked = jax.random.uniform(jax.random.fold_in(carry.key, carry.step)) < beta
        student_carry, own = student.act(params, fast, carry.student, inputs)
        expert_carry, advice = guide.act(expert.params, fast_guide, carry.expert, inputs)
        carry = MixtureCarry(student_carry, expert_carry, carry.key, carry.step + 1)
        return carry, Output(dist=MixtureDist(own, advice, asked), value=own.value)

    def head(output):
        dist = output.dist
        return _Either(dist.asked, guide.head(dist.expert), student.head(dist.student))

    return student._replace(reset=reset, act=act, head=head, unroll=None)


class _Either:
    """One of two distributions over actions, at each step."""

    def __init__(self, first: Array, one: Any, other: Any):
        self._first, self._one, self._other = first, one, other

    def sample(self, seed: Key) -> Array:
        return self._choose(self._one.sample(seed=seed), self._other.sample(seed=seed))

    def mode(self) -> Array:
        return self._choose(self._one.mode(), self._other.mode())

    def log_prob(self, action: Array) -> Array:
        return self._choose(self._one.log_prob(action), self._other.log_prob(action))

    def _choose(self, one: Array, other: Array) -> Array:
        first = self._first.reshape(self._first.shape + (1,) * (one.ndim - self._first.ndim))
        return jnp.where(first, one, other)
