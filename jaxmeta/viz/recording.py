"""Records episodes before and after adaptation, with parts of the environment states, which rollouts do not keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.learner import Learner, deterministic
from jaxmeta.core.rollout import collect, replay_fast, rollout
from jaxmeta.experiment import loading
from jaxmeta.tasks.base import Env
from jaxmeta.types import Array, EnvState, Key, Rollout, Spec, Step, Task

View = Callable[[EnvState], Any]
"""Environment state -> what is recorded of it, a pytree of arrays."""


class Episode(NamedTuple):
    """An episode, up to its end if that comes early."""

    label: str
    """When in the trial, such as "before adaptation"."""
    views: Any
    """What was recorded, from the start to the end, [L + 1, ...] for L steps."""
    rewards: np.ndarray
    """[L]."""


def before_and_after(run: loading.Run, seed: int, view: View) -> tuple[Task, list[Episode]]:
    """Runs the agent on a held-out task, and records its first and its last episode.

    What is recorded are episodes of the policy's mode. An agent that adapts between rounds does so on sampled actions,
    as in training; its mode is recorded in the first and in the last round, from the same start. An agent that adapts
    by memory has a single round: all its actions are the mode, and the first and the last episode are recorded. A trial
    of a single episode gives that alone.

    Args:
      run: on a family of reinforcement learning; with several seeds it is the agent of the first one.
      seed: seed of the task and of the trial.
      view: what to record.
    """
    learner, plan, env = run.meta.learner, run.meta.plan, run.family.env
    demonstrate = loading.demonstrator(run.config, run.family, plan)
    task_key, trial_key, key = jax.random.split(jax.random.key(seed), 3)
    task = run.family.sample_test(task_key)
    recorded = Recorded(env, view, jax.eval_shape(lambda: view(env.reset(key, task)[0])))
    acting = deterministic(blind(learner))

    @jax.jit
    def rounds(params) -> Rollout:
        if plan.rounds:
            trial = collect(learner, params, env, task, trial_key, plan, demonstrate)
            fast = jax.tree.map(lambda leaf: leaf[jnp.array([0, -1])], replay_fast(learner, params, trial))
        else:
            fast = jax.tree.map(lambda leaf: leaf[None], learner.start(params, trial_key))

        def one(_, fast):
            return None, rollout(acting, params, fast, recorded, task, key, 1, plan.episodes)

        return jax.lax.scan(one, None, fast, length=2 if plan.rounds else 1)[1]

    found = jax.device_get(jax.tree.map(lambda leaf: leaf[:, :, 0], rounds(run.first_params).replace(reset_key=())))
    chosen = [(0, 0), (-1, plan.episodes - 1)] if plan.rounds or plan.episodes > 1 else [(0, 0)]
    labels = _labels(plan.rounds, plan.episodes)
    return task, [
        _cut(label, jax.tree.map(lambda leaf, of=of: leaf[of], found), episode, env.spec.horizon)
        for label, (of, episode) in zip(labels, chosen, strict=True)
    ]


def _labels(rounds: int, episodes: int) -> list[str]:
    if rounds:
        return ["before adaptation", f"after {rounds} {'round' if rounds == 1 else 'rounds'} of adaptation"]
    if episodes == 1:
        return ["the only episode of a trial"]
    return [f"before adaptation: episode 1 of {episodes}", f"after adaptation: episode {episodes} of {episodes}"]


def _cut(label: str, experience: Rollout, episode: int, horizon: int) -> Episode:
    """Takes an episode out of a stream, leaves [T, ...]."""
    start = episode * horizon
    length = int(experience.valid[start : start + horizon].sum())
    views, ends = experience.inputs.obs[VIEW], experience.next_obs[VIEW]
    views = jax.tree.map(
        lambda at, after: np.concatenate([at[start : start + length], after[start + length - 1 : start + length]]),
        views,
        ends,
    )
    return Episode(label, views, np.asarray(experience.reward[start : start + length]))


OBS, VIEW = "obs", "view"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """An environment whose observation has a part `view` beside `obs`, that of the original environment."""

    env: Env
    view: View
    form: Any
    """Shapes and dtypes of a view."""

    @property
    def spec(self) -> Spec:
        spec = self.env.spec
        return dataclasses.replace(spec, observation={OBS: spec.observation, VIEW: self.form}, action_mask=None)

    def reset(self, key: Key, task: Task) -> tuple[EnvState, Any]:
        state, obs = self.env.reset(key, task)
        return state, {OBS: obs, VIEW: self.view(state)}

    def step(self, key: Key, state: EnvState, action: Array, task: Task) -> tuple[EnvState, Step]:
        state, step = self.env.step(key, state, action, task)
        return state, step.replace(obs={OBS: step.obs, VIEW: self.view(state)})


def blind(learner: Learner) -> Learner:
    """Makes a learner act in a `Recorded` environment as in the original one."""

    def act(params, fast, carry, inputs):
        inputs = inputs.replace(obs=inputs.obs[OBS], prev_next_obs=inputs.prev_next_obs[OBS])
        return learner.act(params, fast, carry, inputs)

    return learner._replace(act=act)
