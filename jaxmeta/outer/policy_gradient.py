"""First-order outer optimisation: REINFORCE (VPG) and PPO through the adaptation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import checks, rl
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.outer.kl_penalty import with_kl_penalty
from jaxmeta.outer.leave_out import without_outliers
from jaxmeta.outer.loss import Credit, batch_loss, mean_over_trials, no_credit, trial_loss
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Trial


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig:
    """PPO (Schulman et al., 2017, arXiv:1707.06347); with one epoch and no clipping it is the plain policy gradient."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    epochs: int = 5
    """Passes over the trials of one update."""
    minibatches: int = 1
    """Parts, of whole trials, that a pass is cut into; it divides the number of tasks."""
    clip: float | None = 0.2
    """Half-width of the trusted interval of likelihood ratios; None does not clip."""
    value_weight: float = 0.0
    """Weight of the value loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Meta-gradients longer than this are scaled down to it."""
    anneal_over: int | None = None
    """Meta-updates over which step size and entropy bonus fall linearly to zero; None keeps both."""
    kl_target: float | None = None
    """Mean KL divergence of an update, in every round before the last, that a penalty aims at (ProMP); None has no
    penalty. Its weight is doubled or halved, for each round, when an update exceeds it or stays below by half."""
    kl_weight: float = 5e-4
    """Weight of that penalty at first."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm", "clip", "kl_target", "kl_weight")
        checks.at_least_one(self, "epochs", "minibatches", "anneal_over")
        checks.not_negative(self, "value_weight", "entropy_weight")
        if self.kl_target is not None and self.epochs * self.minibatches == 1:
            raise ValueError(
                f"kl_target is {self.kl_target}; nothing has moved before the only step: take at least 2 epochs"
            )

    def check_divides(self, num_tasks: int) -> None:
        """Raises a ValueError unless the minibatches divide the tasks of an update."""
        if num_tasks % self.minibatches:
            raise ValueError(f"minibatches is {self.minibatches}; it must divide num_tasks, which is {num_tasks}")

    def check_plan(self, plan: Plan) -> None:
        """Raises a ValueError if there is a KL target, but no round that it is for."""
        if self.kl_target is not None and not plan.rounds:
            raise ValueError(
                f"kl_target is {self.kl_target}; the penalty is for rounds before the last, and these trials have one"
            )


def policy_gradient(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    advantage: rl.Estimator,
    config: PolicyGradientConfig = PolicyGradientConfig(),
    num_devices: int | None = None,
    credit: Credit = no_credit,
    max_task_gradient: float | None = None,
) -> MetaLearner:
    """Builds an outer loop that follows the meta-gradient with Adam.

    Args:
      advantage: estimates the advantages of the last round.
      num_devices: by default as many as divide the tasks of a minibatch.
      credit: for the data that was adapted on, such as `standardized_credit`; by default there is none.
      max_task_gradient: see `without_outliers`; by default all tasks count.
    """
    config.check_divides(num_tasks)
    config.check_plan(plan)
    init_opt, improve = policy_improvement(learner, advantage, config, credit)
    if config.kl_target is not None:
        init_opt, improve = with_kl_penalty(learner, init_opt, improve, plan.rounds, config)
    if max_task_gradient is not None:
        improve = without_outliers(learner, advantage, improve, max_task_gradient, credit)
    return on_policy(
        learner,
        family,
        plan,
        num_tasks,
        init_opt,
        improve,
        num_devices,
        minibatches=config.minibatches,
        credited=credit is not no_credit,
    )


def policy_improvement(
    learner: Learner, advantage: rl.Estimator, config: PolicyGradientConfig, credit: Credit = no_credit
) -> tuple[Callable[[Params], Any], Callable[..., tuple[Params, Any, Metrics]]]:
    """Builds what `policy_gradient` does with fresh trials.

    Returns:
      A function that makes the optimiser state from params, and the improvement of both by trials [n, ...], as
      `on_policy` takes it; it also takes `kl_weights`, see `trial_loss`.
    """
    objective = rl.ratio if config.clip is None else rl.clipped(config.clip)
    tx = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5))

    def improve(
        params: Params, opt_state: Any, trials: Trial, keys: Key, step: Array, kl_weights: Array | None = None
    ) -> tuple[Params, Any, Metrics]:
        remaining = remaining_share(step, config.anneal_over)
        loss = trial_loss(
            learner,
            objective,
            advantage,
            kl_weights=kl_weights,
            value_weight=config.value_weight,
            entropy_weight=config.entropy_weight and config.entropy_weight * remaining,
            **credit(trials),
        )
        value_and_grad = jax.value_and_grad(batch_loss(loss), has_aux=True)

        def descend(state, members):
            params, opt_state = state
            batch = jax.tree.map(lambda leaf: leaf[members], trials)
            (_, metrics), gradient = mean_over_trials(learner, lambda some: value_and_grad(params, some), batch)
            change, opt_state = tx.update(gradient, opt_state, params)
            metrics["grad_norm"] = optax.global_norm(gradient)
            change = jax.tree.map(lambda leaf: leaf * remaining, change)
            return (optax.apply_updates(params, change), opt_state), metrics

        def epoch(state, index):
            return jax.lax.scan(descend, state, _shuffled_parts(keys, index, config.minibatches))

        (params, opt_state), metrics = jax.lax.scan(epoch, (params, opt_state), jnp.arange(config.epochs))
        return params, opt_state, jax.tree.map(lambda leaf: leaf[-1, -1], metrics)

    return tx.init, improve


def _shuffled_parts(keys: Key, epoch, parts: int):
    """Deals whole trials into `parts` random parts, [parts, n / parts].

    Every run of `parts` neighbouring trials is dealt one to each part. Trials are independent draws, so this mixes as
    well as a full shuffle, and it does not depend on how the trials are spread over devices.
    """
    draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, epoch)))(keys)
    deal = jnp.argsort(draws.reshape(-1, parts), axis=1)
    return (deal + parts * jnp.arange(deal.shape[0])[:, None]).T
