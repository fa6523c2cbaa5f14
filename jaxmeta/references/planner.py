"""Planning with the true dynamics: the ceiling of agents that plan in a model that they learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.inner.model_predictive import PlanCarry, decided, planning_head
from jaxmeta.rl import Planner, check_horizon, chosen, replan
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Array, Choice, EnvState, Input, Key, Output, Params, Spec, Step, Task

__all__ = ["Transparent", "oracle", "simulated_returns", "with_state"]


@dataclasses.dataclass(frozen=True)
class Transparent:
    """An environment whose observation is its state and its task."""

    env: Env
    observation: Any
    """Shapes and dtypes of the state and of the task."""

    @property
    def spec(self) -> Spec:
        return dataclasses.replace(self.env.spec, observation=self.observation, action_mask=None)

    def reset(self, key: Key, task: Task) -> tuple[EnvState, Any]:
        state, _ = self.env.reset(key, task)
        return state, {"state": state, "task": task}

    def step(self, key: Key, state: EnvState, action: Array, task: Task) -> tuple[EnvState, Step]:
        state, step = self.env.step(key, state, action, task)
        return state, step.replace(obs={"state": state, "task": task})


def with_state(family: TaskFamily) -> TaskFamily:
    """Makes the state of the environment and the task the observation: the family that `oracle` acts in."""

    def start(key: Key) -> dict[str, Any]:
        task = family.sample(key)
        return {"state": family.env.reset(key, task)[0], "task": task}

    form = jax.eval_shape(start, jax.random.key(0))
    return family._replace(env=Transparent(family.env, form), dense_reward=None, cells=None, planning_reward=None)


def oracle(env: Env, planner: Planner) -> Learner:
    """Builds the agent that plans with the true dynamics of an environment, for `with_state(family)`.

        shown = jm.references.planner.with_state(family)
        agent = jm.references.planner.oracle(family.env, jm.rl.cem(family.env.spec.action))
        report = jm.evaluate(agent, (), shown, tasks, key, jm.Plan())

    If a task changes in mid-episode, it knows that as well.

    Args:
      env: the environment of `family`.

    Raises:
      ValueError: if a plan is longer than an episode.
    """
    spec = env.spec
    check_horizon(planner, spec.horizon)

    def act(params: Params, fast: tuple[()], carry: PlanCarry, inputs: Input) -> tuple[PlanCarry, Output]:
        key, plan_key, step_key = jax.random.split(carry.key, 3)
        carry = carry.at(planner, inputs)
        state, task = inputs.obs["state"], inputs.obs["task"]

        def score(candidates: Array) -> Array:
            return simulated_returns(env, state, task, candidates, step_key, spec.horizon - carry.time)

        action, plan = replan(planner, score, carry.plan, plan_key)
        return carry.after(plan, key), Output(decided(spec.action, action), jnp.zeros(()), Choice(carry.time))

    return Learner(
        init=lambda key: (),
        start=lambda params, key: (),
        reset=lambda params, fast, key: PlanCarry.start(planner, key),
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=planning_head(spec.action),
    )


def simulated_returns(env: Env, state: EnvState, task: Task, actions: Array, key: Key, remaining: Any) -> Array:
    """Computes the returns of candidates in the environment itself, a score of planners.

    Args:
      state: of the environment, unbatched.
      actions: candidates, [P, H, A].
      key: of the environment's own random numbers, which all candidates share.
      remaining: number of steps up to the end of the episode; later rewards do not count.

    Returns:
      [P].
    """

    def one(actions: Array) -> Array:
        def step(now: tuple[EnvState, Array], moment: tuple[Array, Array]) -> tuple[tuple[EnvState, Array], Array]:
            (state, alive), (time, vector) = now, moment
            action = chosen(env.spec.action, vector)
            state, outcome = env.step(jax.random.fold_in(key, time), state, action, task)
            reward = jnp.where(alive & (time < remaining), outcome.reward, 0.0)
            return (state, alive & ~(outcome.terminated | outcome.truncated)), reward

        moments = (jnp.arange(len(actions)), actions)
        return jnp.sum(jax.lax.scan(step, (state, jnp.array(True)), moments)[1])

    return jax.vmap(one)(actions)
