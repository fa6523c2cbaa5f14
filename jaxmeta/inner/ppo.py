"""Agents that adapt by PPO, from scratch on every task or from meta-learned params."""

from __future__ import annotations

import dataclasses

import jax
import optax

from jaxmeta.config import checks
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import unroll
from jaxmeta.inner.gradient import GradientFast, GradientParams, Loss, descent, from_scratch, policy_loss
from jaxmeta.inner.updaters import first_order, fixed
from jaxmeta.rl import Estimator, clipped, masked_mean
from jaxmeta.types import Array, Key, Params, Rollout


@dataclasses.dataclass(frozen=True)
class ProximalConfig:
    """PPO with Adam on the experience of one round."""

    learning_rate: float = 0.01
    """Step size of Adam; the default is that of the master of MLSH."""
    steps: int = 10
    """Gradient steps per round, each on the whole round."""
    clip: float = 0.2
    """PPO's ε: likelihood ratios are clipped to [1 - ε, 1 + ε]."""
    value_weight: float = 0.5
    """Weight of half the squared error of the predicted values."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "clip")
        checks.at_least_one(self, "steps")
        checks.not_negative(self, "value_weight", "entropy_weight")


def proximal(
    policy: Learner,
    advantage: Estimator,
    config: ProximalConfig = ProximalConfig(),
    meta_learned: bool = False,
    pull: float = 0.0,
) -> Learner:
    """Builds an agent that improves its policy by PPO after every round (Schulman et al., 2017, arXiv:1707.06347).

        policy = inner.policy(nets.actor_critic(family.env.spec, value=True))
        scratch = inner.proximal(policy, rl.value_baseline())
        report = jm.evaluate(scratch, scratch.init(key), family, tasks, key, jm.Plan(rounds=9, streams=40))

    By default every task begins with params of its own draw, and with zero moments of Adam. The agent then has no
    meta-learned params: it is the baseline that learns every task from scratch, or the master of a hierarchy whose
    other params are meta-learned.

    Args:
      policy: a learner that does not adapt between rounds; its params adapt. It may be recurrent.
      advantage: estimates advantages and the targets of the values from one round.
      meta_learned: whether every task begins with the same, meta-learned params instead. Meta-gradients are
        first-order: the steps of Adam are constants.
      pull: weight, in the loss, of the KL divergence between the adapted policy and that of the meta-learned params, in
        nats per step, as in Distral (Teh et al., 2017, arXiv:1707.04175).

    Raises:
      ValueError: if there is a pull, but no meta-learned params.
    """
    loss = policy_loss(policy, clipped(config.clip), advantage, config.value_weight, config.entropy_weight)
    adam = first_order(fixed(optax.adam(config.learning_rate, eps=1e-5)))
    learner = descent(policy, loss, adam, steps=config.steps)
    pulls = bool(pull) if isinstance(pull, int | float) else True  # one of several that are trained side by side
    if pulls and not meta_learned:
        raise ValueError(f"pull is {pull}; it is towards meta-learned params, so it needs meta_learned True")
    if pulls:

        def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
            near = _pulled(policy, loss, params.policy, experience, pull)
            return descent(policy, near, adam, steps=config.steps).adapt(params, fast, experience, key)

        return learner._replace(adapt=adapt)
    if meta_learned:
        return learner
    return from_scratch(learner, policy.init)._replace(init=lambda key: GradientParams(policy=(), updater=()))


def _pulled(policy: Learner, loss: Loss, towards: Params, experience: Rollout, weight: float) -> Loss:
    """Adds to a loss the mean KL divergence from the policy with the params `towards`, which are constants."""
    there = policy.head(jax.lax.stop_gradient(unroll(policy, towards, (), experience)))

    def near(theta: Params, experience: Rollout) -> Array:
        apart = policy.head(unroll(policy, theta, (), experience)).kl_divergence(there)
        return loss(theta, experience) + weight * masked_mean(apart, experience.valid)

    return near
