"""Agents that adapt by gradient steps on their own experience."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import unroll
from jaxmeta.inner.updaters import Updater, select
from jaxmeta.rl import Estimator, Objective, masked_mean
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Rollout


class GradientParams(struct.PyTreeNode):
    """Meta-learned params."""

    policy: Params
    """The initial params of every task."""
    updater: Params
    """ψ, the learned part of the update rule; `()` if there is none."""


class GradientFast(struct.PyTreeNode):
    """Params and optimiser state that adapt to a task."""

    policy: Params
    opt_state: Any


Loss = Callable[[Params, Rollout], Array]


def gradient(
    policy: Learner, objective: Objective, updater: Updater, advantage: Estimator, zero_at_start: tuple[str, ...] = ()
) -> Learner:
    """Builds an agent that takes one policy-gradient step after every round; see `policy_loss` and `descent`."""
    return descent(policy, policy_loss(policy, objective, advantage), updater, zero_at_start)


def policy_loss(
    policy: Learner,
    objective: Objective,
    advantage: Estimator,
    value_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> Loss:
    """Builds the inner loss of reinforcement learning.

    Args:
      policy: a learner that does not adapt between rounds.
      objective: see `jaxmeta.rl.objectives`. The behaviour log-probabilities are those stored at collection.
      advantage: estimates advantages from one round of one task.
      value_weight: weight of half the squared error of the values that the policy predicts.
      entropy_weight: weight of the entropy bonus.
    """

    def loss(theta: Params, experience: Rollout) -> Array:
        estimate = jax.lax.stop_gradient(advantage(experience))
        behaviour = policy.head(experience.output).log_prob(experience.action)
        output = unroll(policy, theta, (), experience)
        dist = policy.head(output)
        total = objective(dist.log_prob(experience.action), behaviour, estimate.advantage, experience.valid)
        if value_weight:
            error = jnp.square(output.value - estimate.target)
            total += 0.5 * value_weight * masked_mean(error, experience.valid)
        if entropy_weight:
            total -= entropy_weight * masked_mean(dist.entropy(), experience.valid)
        return total

    return loss


def descent(
    policy: Learner,
    loss: Loss,
    updater: Updater,
    zero_at_start: tuple[str, ...] = (),
    differentiate: Callable[[Loss], Callable[[Params, Rollout], Params]] = jax.grad,
    steps: int = 1,
) -> Learner:
    """Builds an agent that takes gradient steps on a loss after every round, by default one.

        policy = inner.policy(nets.actor_critic(spec))
        learner = inner.descent(policy, inner.policy_loss(policy, rl.ratio, rl.linear_baseline()), inner.sgd(0.1))

    Args:
      policy: a learner that does not adapt between rounds, such as `inner.policy(network)`; its params adapt.
      loss: a function of params and a round.
      updater: the update rule. Meta-gradients are backpropagated through it, second-order terms included, unless it is
        wrapped in `first_order`.
      zero_at_start: params with one of these names in their path are set to zero at the start of every task, and are
        not meta-learned.
      differentiate: computes the gradient of the loss; with `mixed_mode` meta-gradients through many steps need less
        memory.
      steps: gradient steps per round, all on the same experience.
    """

    def init(key: Key) -> GradientParams:
        policy_key, updater_key = jax.random.split(key)
        params = policy.init(policy_key)
        return GradientParams(policy=params, updater=updater.init(updater_key, params))

    def start(params: GradientParams, key: Key) -> GradientFast:
        theta = params.policy
        if zero_at_start:
            theta = select(theta, zero_at_start, jnp.zeros_like, lambda leaf: leaf)
        return GradientFast(policy=theta, opt_state=updater.tx(params.updater).init(theta))

    def reset(params: GradientParams, fast: GradientFast, key: Key) -> Carry:
        return policy.reset(fast.policy, (), key)

    def act(params: GradientParams, fast: GradientFast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        return policy.act(fast.policy, (), carry, inputs)

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        tx = updater.tx(params.updater)

        def step(fast: GradientFast, _: None) -> tuple[GradientFast, None]:
            grads = differentiate(loss)(fast.policy, experience)
            update, opt_state = tx.update(grads, fast.opt_state, fast.policy)
            return GradientFast(policy=optax.apply_updates(fast.policy, update), opt_state=opt_state), None

        return step(fast, None)[0] if steps == 1 else jax.lax.scan(step, fast, None, length=steps)[0]

    def unroll_policy(params: GradientParams, fast: GradientFast, carry: Carry, experience: Rollout) -> Output:
        assert policy.unroll is not None
        return policy.unroll(fast.policy, (), carry, experience)

    return Learner(
        init=init,
        start=start,
        reset=reset,
        act=act,
        adapt=adapt,
        head=policy.head,
        unroll=unroll_policy if policy.unroll else None,
    )


def repeated(learner: Learner, steps: int) -> Learner:
    """Adapts `steps` times to the same round, such as by several gradient steps on one demonstration."""
    if steps == 1:
        return learner

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        def step(fast: GradientFast, key: Key) -> tuple[GradientFast, None]:
            return learner.adapt(params, fast, experience, key), None

        return jax.lax.scan(step, fast, jax.random.split(key, steps))[0]

    return learner._replace(adapt=adapt)


def from_scratch(learner: Learner, init: Callable[[Key], Params]) -> Learner:
    """Draws new initial params for every task, so that an agent of `descent` meta-learns only its update rule."""
    return learner._replace(start=lambda params, key: learner.start(params.replace(policy=init(key)), key))
