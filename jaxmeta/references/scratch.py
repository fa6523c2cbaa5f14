"""Agents that learn every task from scratch, without any meta-training: baselines for every task family."""

from __future__ import annotations

from jaxmeta import inner, nets, rl
from jaxmeta.core.learner import Learner
from jaxmeta.tasks.base import TaskFamily

__all__ = ["ppo"]


def ppo(
    family: TaskFamily,
    hidden: tuple[int, ...] = (64, 64),
    config: inner.ProximalConfig = inner.ProximalConfig(learning_rate=3e-3),
    discount: float = 0.99,
    trace: float = 0.95,
) -> Learner:
    """Builds the agent that begins every task with a random policy, and improves it by PPO after every round.

        scratch = jm.references.scratch.ppo(family)
        plan = jm.Plan(rounds=9, streams=40)
        report = jm.evaluate(scratch, scratch.init(key), family, tasks, key, plan)

    It has no params. With the same plan it takes as many environment steps on a task as a meta-learned agent.

    Args:
      hidden: widths of the hidden layers, of the policy and of the values.
      config: the gradient steps on a round.
      discount: γ, within an episode.
      trace: λ of generalised advantage estimation.
    """
    policy = inner.policy(nets.actor_critic(family.env.spec, hidden, value=True))
    return inner.proximal(policy, rl.value_baseline(discount, trace), config)
