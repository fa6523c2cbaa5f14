"""The outer loop of VariBAD: PPO for the policy and the ELBO for the belief, each with its own optimiser.

The belief is trained on whole trials from replay buffers in the source's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxmeta import rl
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.outer.descend import Minibatches, by_part, descend, optimiser
from jaxmeta.outer.meta_update import Improve
from jaxmeta.outer.policy_gradient import ActorCriticConfig, policy_gradient
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.replayed import from_rings
from jaxmeta.outer.sources import Ring
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Rollout, Task, Trial

ModelLoss = Callable[[Params, rl.Trajectory, Key], tuple[Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class VariationalConfig:
    """Training of the belief's VAE on past trials, the second phase of every update."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    steps: int = 3
    """Gradient steps per update."""
    batch_size: int = 24
    """Trials per gradient step, sampled from the replay buffer; 25 in the paper. The number of devices must divide
    it."""
    capacity: int = 10_000
    """Capacity of the replay buffer, in trials; 100,000 in the paper. It is sharded over the devices, and part of every
    checkpoint: 4 (2 |obs| + |action| + 2) bytes per step of a trial."""
    anneal_over: int | None = None
    """Meta-updates over which the learning rate is annealed linearly to zero; None keeps it. Anneal it together with
    the policy's: a policy that no longer learns cannot follow changes of the belief."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of encoder and decoders."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate")
        checks.at_least_one(self, "steps", "batch_size", "capacity", "anneal_over")


def trajectory_ring(trajectories: Callable[[Rollout], rl.Trajectory], example: rl.Trajectory, capacity: int) -> Ring:
    """Defines the belief's replay buffer: the last rounds of trials, one stream per row.

    Args:
      trajectories: converts a round [n, T, E, ...] to trajectories [n E, T, ...].
      example: a trajectory with the right shapes.
      capacity: trajectories per ring.
    """
    flat, _ = ravel_pytree(example)

    def rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        last = jax.tree.map(lambda leaf: leaf[:, -1], trials.rounds)
        size, streams = last.reward.shape[0], last.reward.shape[2]
        rows = jax.vmap(lambda one: ravel_pytree(one)[0])(trajectories(last))
        finite = jnp.repeat(~guard.nonfinite_trials(trials), streams).astype(jnp.float32)
        return rows.reshape(size, streams, -1), finite.reshape(size, streams)

    return Ring(capacity, flat.size, rows)


def model_steps(example: rl.Trajectory, config: VariationalConfig, strata: int) -> Minibatches:
    """Samples a minibatch of trajectories from the rings for every step, as many from each stratum."""
    _, unflatten = ravel_pytree(example)
    return from_rings("trials", jax.vmap(unflatten), config.steps, config.batch_size, strata)


def variational(
    policy: Learner,
    hyper_trials: Callable[[Trial], Trial],
    loss: ModelLoss,
    example: rl.Trajectory,
    advantage: rl.Estimator,
    ppo: ActorCriticConfig,
    config: VariationalConfig,
    strata: int,
) -> Improve:
    """Trains `params.policy` by PPO on fresh trials, and `params.model` by the ELBO on replayed trials.

    Args:
      policy: a memoryless policy on the trials that `hyper_trials` returns; its params are `params.policy`, so the
        policy gradient does not reach the model.
      loss: the model's loss on one trajectory.
      example: see `trajectory_ring`.
      advantage: estimates the advantages of the last round.
      ppo: the policy's optimiser.
      strata: number of rings that the trials are stored in.
    """
    by_return = policy_gradient(policy, advantage, ppo)
    adam = optimiser(config.learning_rate, config.anneal_over, config.steps, regularise=config.regularise)
    by_evidence = descend(loss, adam, minibatches=model_steps(example, config, strata))
    return by_part(
        policy=(by_return, lambda batch: batch.replace(data=hyper_trials(batch.data[0]))),
        model=(by_evidence, lambda batch: batch),
    )


def example_trajectory(family: TaskFamily, plan: Plan) -> rl.Trajectory:
    """Makes an all-zero trajectory of the length of a trial."""
    spec = family.env.spec
    inputs = spec.example_input()
    one = rl.Trajectory(inputs.obs, inputs.prev_action, inputs.prev_reward, inputs.obs, inputs.prev_reward)
    length = plan.episodes * spec.horizon
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), one)
