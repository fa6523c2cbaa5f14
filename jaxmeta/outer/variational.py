"""The outer loop of VariBAD: the policy follows the return, the belief the evidence, each with an optimiser of its own.

What the belief learns from is a ring of whole trials, which is part of the optimiser's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from jaxmeta import checks, rl
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.outer.policy_gradient import PolicyGradientConfig, policy_improvement
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.rl import replay
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Rollout, Trial

ModelLoss = Callable[[Params, rl.Trajectory, Key], tuple[Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class VariationalConfig:
    """The second phase of every update: the belief learns from a ring of past trials."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    steps: int = 3
    """Gradient steps per update."""
    batch_size: int = 24
    """Trials per gradient step, drawn anew from the ring; 25 in the paper. Devices share them if their number divides
    it, else each takes all."""
    capacity: int = 10_000
    """Trials in the ring; the oldest give way. Every device holds it, and every checkpoint: 4 (2 |obs| + |action| + 2)
    bytes for each step of a trial. 100,000 in the paper."""
    anneal_over: int | None = None
    """Meta-updates over which the step size falls linearly to zero; None keeps it. A belief that goes on to change
    when the policy no longer does is one that the policy does not know."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate")
        checks.at_least_one(self, "steps", "batch_size", "capacity", "anneal_over")


class VariationalState(struct.PyTreeNode):
    """What the two optimisers remember."""

    policy: Any
    """Of the policy's."""
    model: Any
    """Adam's, of encoder and decoders."""
    trials: replay.TaskRings
    """One ring, of flattened `rl.Trajectory`s."""


def variational(
    learner: Learner,
    policy: Learner,
    hyper_trials: Callable[[Trial], Trial],
    trajectories: Callable[[Rollout], rl.Trajectory],
    loss: ModelLoss,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    advantage: rl.Estimator,
    ppo: PolicyGradientConfig,
    config: VariationalConfig = VariationalConfig(),
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds an outer loop for agents whose params are a `policy` and a `model`.

    Args:
      learner: the agent as it acts.
      policy: the same as a policy without memory, on what `hyper_trials` makes of trials; its params are
        `params.policy`, so no gradient of the return reaches the model.
      trajectories: what the model learns from, [n, T, ...] of a round [n, T, E, ...].
      loss: the model's, of one trajectory.
      advantage: estimates the advantages of the last round.
      ppo: the policy's optimiser.
      num_devices: by default as many as divide the tasks of a minibatch.
    """
    ppo.check_divides(num_tasks)
    ppo.check_plan(plan)
    if config.capacity < num_tasks * plan.streams:
        raise ValueError(f"capacity is {config.capacity}; the ring must hold the {num_tasks} trials of an update")
    init_policy, improve_policy = policy_improvement(policy, advantage, ppo)
    init_model, improve_model = model_improvement(loss, _example(family, plan), config)

    def init_opt(params: Any) -> VariationalState:
        return VariationalState(init_policy(params.policy), *init_model(params.model))

    def improve(
        params: Any, state: VariationalState, trials: Trial, keys: Key, step: Array
    ) -> tuple[Any, VariationalState, Metrics]:
        policy, policy_state, metrics = improve_policy(params.policy, state.policy, hyper_trials(trials), keys, step)
        last = jax.tree.map(lambda leaf: leaf[:, -1], trials.rounds)
        sound = jnp.repeat(~guard.faulty_tasks(trials), plan.streams)
        fresh, sound, keys = parallel.gather_tasks((trajectories(last), sound.astype(jnp.float32), keys))
        model, model_state, rings, model_metrics = improve_model(
            params.model, state.model, state.trials, fresh, sound, jax.random.fold_in(keys[0], ppo.epochs), step
        )
        state = VariationalState(policy_state, model_state, rings)
        return params.replace(policy=policy, model=model), state, metrics | model_metrics

    return on_policy(learner, family, plan, num_tasks, init_opt, improve, num_devices, minibatches=ppo.minibatches)


def model_improvement(loss: ModelLoss, example: rl.Trajectory, config: VariationalConfig):
    """Builds the variational phase: fresh trials go into the ring, and the model learns from batches out of it.

    Args:
      example: a trajectory whose values do not matter.

    Returns:
      A function that makes Adam's state and an empty ring from the model's params; and the improvement, (params, Adam's
      state, ring, trajectories [n, T, ...], 1.0 for those to learn from [n], key, updates done) -> (params, Adam's
      state, ring, metrics). What goes in must be the same on every device.
    """
    tx = optax.adam(config.learning_rate)
    flat, unflatten = ravel_pytree(example)
    only = jnp.zeros(1, jnp.int32)  # there is one ring

    def init(params: Params) -> tuple[Any, replay.TaskRings]:
        return tx.init(params), replay.empty_rings(1, config.capacity, flat.size)

    def batch_loss(params: Params, batch: Array, keys: Key) -> tuple[Array, Metrics]:
        each = jax.vmap(lambda row, key: loss(params, unflatten(row), key))(batch, keys)
        return jax.tree.map(jnp.mean, each)

    def improve(
        params: Params,
        opt_state: Any,
        rings: replay.TaskRings,
        fresh: rl.Trajectory,
        sound: Array,
        key: Key,
        step: Array,
    ):
        remaining = remaining_share(step, config.anneal_over)
        rows = jax.vmap(lambda one: ravel_pytree(one)[0])(fresh)
        rings = replay.write(rings, only, rows[None], sound[None])

        def descend(state, key):
            params, opt_state = state
            draw_key, *keys = jax.random.split(key, 1 + config.batch_size)
            batch = replay.draw(rings, only, draw_key, config.batch_size)[0]
            gradient, metrics = parallel.mean_over_shared(
                lambda some: jax.grad(batch_loss, has_aux=True)(params, *some), (batch, jnp.stack(keys))
            )
            change, opt_state = tx.update(gradient, opt_state, params)
            change = jax.tree.map(lambda leaf: leaf * remaining, change)
            return (optax.apply_updates(params, change), opt_state), metrics

        (params, opt_state), metrics = jax.lax.scan(descend, (params, opt_state), jax.random.split(key, config.steps))
        return params, opt_state, rings, jax.tree.map(lambda leaf: leaf[-1], metrics)

    return init, improve


def _example(family: TaskFamily, plan: Plan) -> rl.Trajectory:
    """Makes an empty trajectory of the length of a trial."""
    spec = family.env.spec
    inputs = spec.example_input()
    one = rl.Trajectory(inputs.obs, inputs.prev_action, inputs.prev_reward, inputs.obs, inputs.prev_reward)
    length = plan.episodes * spec.horizon
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), one)
