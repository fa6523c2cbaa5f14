"""Visualises the belief of a `jm.varibad` agent on a grid: the probability of the goal in each cell."""

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
    """Decodes the probability of every cell of a grid to be the goal.

    The cells have independent Bernoulli probabilities: the decoder does not know that there is exactly one goal, and it
    is trained on trials in which the agent mostly stays at the goal it found. So visited cells without the goal have
    probabilities near 0, and the goal near 1 once found; cells that similar trials never visit are arbitrary.

    Args:
      family: a family on a grid of cells, such as `jm.tasks.grid_navigation()`.
      config: the config of `jm.varibad`.
      carry: the agent's carry, at any step.
      draws: number of posterior samples of z, with a fixed key.

    Returns:
      The probability of each cell (x, y), [size, size].

    Raises:
      ValueError: if the decoder does not decode cells.
    """
    return _decode(family, config, params, carry.posterior, draws)


def along(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, experience: Rollout, draws: int = 100
) -> Array:
    """Computes `goal_probabilities` along the stream of one round, leaves [T, 1, ...].

    Returns:
      [T + 1, size, size]: before the first step, and after each step.
    """
    encoder, _ = belief_model(family, config)
    stream = jax.tree.map(lambda leaf: leaf[0], inner.trajectories(experience))
    chain = inner.posteriors(encoder, params.model.encoder, stream)
    return jax.vmap(lambda posterior: _decode(family, config, params, posterior, draws))(chain)


def has_cells(family: TaskFamily, config: Any) -> bool:
    """Returns whether an agent built with this config has a belief over cells."""
    if not isinstance(config, VariBADConfig):
        return False
    reward = belief_model(family, config)[1].get("reward")
    return reward is not None and reward.cells is not None


def _decode(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, posterior: nets.Posterior, draws: int
) -> Array:
    if not has_cells(family, config):
        raise ValueError("the agent has no belief over cells; it needs reward_decoder 'cells', on a grid")
    cells = belief_model(family, config)[1]["reward"].cells
    assert cells is not None
    noise = jax.random.normal(jax.random.key(0), (draws, posterior.mean.shape[-1]))
    logits = jax.vmap(lambda noise: cells(params.model.decoders["reward"], posterior.sample(noise)))(noise)
    size = int(logits.shape[-1] ** 0.5)
    return jnp.mean(jax.nn.sigmoid(logits), axis=0).reshape(size, size)


def draw_trial(run: loading.Run, seed: int) -> Any:
    """Draws the last round of a trial of a run on `grid-navigation`, with the mode of its policy.

    Args:
      run: of any algorithm; with several seeds the first one is drawn.
      seed: seed of the task and of the trial.

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
    # the belief at the start of an episode is the one at the end of the previous episode
    beliefs = None if chain is None else np.stack([chain[i : i + path.shape[1]] for i in _begins(path)])
    title = f"{config.algo} on {config.tasks} after {run.step} updates, task {seed}"
    return plot.walks(path, np.asarray(task.goal), config.tasks_config.size, title, beliefs)


def _begins(path: np.ndarray) -> range:
    """Returns the step of the trial at which each episode starts; paths are [K, H + 1, 2]."""
    episodes, positions = path.shape[:2]
    return range(0, episodes * (positions - 1), positions - 1)
