"""What an agent of `jm.varibad` believes about its task, as a person can read it: where on a grid the goal may be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import inner, nets
from jaxmeta.algos.inference.varibad import VariBADConfig, belief_model
from jaxmeta.core.learner import deterministic
from jaxmeta.core.rollout import collect
from jaxmeta.experiment import loading
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Rollout


def goal_probabilities(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, carry: inner.BeliefCarry, draws: int = 100
) -> Array:
    """Asks the decoder what the agent expects of every cell of a grid.

    Each cell has a probability of its own, that a step which the agent takes there is paid as the goal: the decoder is
    not told that there is exactly one, and it learns from trials in which the agent mostly is where it found the goal.
    So a cell that was visited in vain has nearly 0, the goal once found nearly 1; a cell that no trial like the present
    one ever leads to can have anything.

    Args:
      family: a family on a grid of cells, such as `jm.tasks.grid_navigation()`.
      config: the one that `jm.varibad` was built with.
      carry: the agent's, at any step.
      draws: of the latent from the posterior; the same ones at every call.

    Returns:
      The probability of each cell (x, y), [size, size].

    Raises:
      ValueError: if the decoder does not decode cells.
    """
    return _decode(family, config, params, carry.posterior, draws)


def along(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, experience: Rollout, draws: int = 100
) -> Array:
    """Follows `goal_probabilities` over the stream of a round of one trial, leaves [T, 1, ...].

    Returns:
      [T + 1, size, size]: before the first step, and after each.
    """
    encoder, _ = belief_model(family, config)
    stream = jax.tree.map(lambda leaf: leaf[0], inner.trajectories(experience))
    chain = inner.posteriors(encoder, params.model.encoder, stream)
    return jax.vmap(lambda posterior: _decode(family, config, params, posterior, draws))(chain)


def has_cells(family: TaskFamily, config: Any) -> bool:
    """Tells whether an agent has a belief over cells, given the config that it was built with."""
    if not isinstance(config, VariBADConfig):
        return False
    reward = belief_model(family, config)[1].get("reward")
    return reward is not None and reward.cells is not None


def _decode(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, posterior: nets.Posterior, draws: int
) -> Array:
    if not has_cells(family, config):
        raise ValueError("the agent has no belief over cells; that takes reward_decoder 'cells', on a grid")
    cells = belief_model(family, config)[1]["reward"].cells
    assert cells is not None
    noise = jax.random.normal(jax.random.key(0), (draws, posterior.mean.shape[-1]))
    logits = jax.vmap(lambda noise: cells(params.model.decoders["reward"], posterior.sample(noise)))(noise)
    size = int(logits.shape[-1] ** 0.5)
    return jnp.mean(jax.nn.sigmoid(logits), axis=0).reshape(size, size)


def draw_trial(run: loading.Run, seed: int) -> Any:
    """Draws a trial of a run on `grid-navigation`, by the mode of its policy.

    Args:
      run: of any algorithm; of several seeds the first is drawn. A round is drawn as its last episodes.
      seed: decides the task, and what is random in the trial.

    Returns:
      A matplotlib figure, see `plot.walks`.
    """
    from jaxmeta.viz import plot

    config, plan, family = run.config, run.meta.plan, run.family
    params = run.first_params
    task_key, key = jax.random.split(jax.random.key(seed))
    task = family.sample_test(task_key)

    @jax.jit
    def trial(params):
        experience = collect(deterministic(run.meta.learner), params, family.env, task, key, plan).rounds
        last = jax.tree.map(lambda leaf: leaf[-1, :, :1], experience.replace(reset_key=()))
        chain = along(family, config.algo_config, params, last) if has_cells(family, config.algo_config) else None
        return last.next_obs[:, 0, :2], chain

    cells, chain = jax.device_get(trial(params))
    begins = np.zeros((plan.episodes, 1, 2))
    path = np.concatenate([begins, cells.reshape(plan.episodes, -1, 2)], axis=1)
    # what is believed at the begin of an episode is what was believed at the end of the one before
    beliefs = None if chain is None else np.stack([chain[i : i + path.shape[1]] for i in _begins(path)])
    title = f"{config.algo} on {config.tasks} after {run.step} updates, task {seed}"
    return plot.walks(path, np.asarray(task.goal), config.tasks_config.size, title, beliefs)


def _begins(path: np.ndarray) -> range:
    """Returns the step of the trial that each episode begins at; paths are [K, H + 1, 2]."""
    episodes, positions = path.shape[:2]
    return range(0, episodes * (positions - 1), positions - 1)
