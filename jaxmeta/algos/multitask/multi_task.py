"""Multi-task PPO on a finite set of tasks, with shared or separate heads and with gradient surgery."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.numbered import TASK_ID
from jaxmeta.types import Plan, Spec


@dataclasses.dataclass(frozen=True)
class MultiTaskConfig:
    """Multi-task PPO: one agent for a finite set of tasks, which observes the task ID and visits all in every update.

    Gradient surgery changes how the gradients of the tasks are combined: PCGrad (Yu et al., 2020, arXiv:2001.06782),
    CAGrad (Liu et al., 2021, arXiv:2110.14048), or the element of minimal norm in their convex hull (MGDA: Désidéri,
    2012; Sener and Koltun, 2018, arXiv:1810.04650).
    """

    network: Literal["conditioned", "heads"] = "conditioned"
    """`conditioned`: one network whose input has the one-hot task ID. `heads`: hidden layers shared by all tasks, which
    do not read the task ID, and output layers of policy and value for each task."""
    surgery: Literal["mean", "pcgrad", "cagrad", "min-norm"] = "mean"
    """How the gradients of the tasks are combined, for the params that all tasks share. Those of a head get the mean,
    as they have a gradient from their own task only."""
    c: float = 0.5
    """CAGrad's c: distance of the update from the mean gradient, relative to the norm of the mean gradient."""
    visits: int = 4
    """Trials on every task per update."""
    streams: int = 8
    """Episodes per trial, run in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy and of the values."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of both."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    action_scale: float = 1.0
    """Scale of the policy's actions, for environments whose actions are much smaller or larger than 1."""
    discount: float = 0.99
    """γ, within an episode."""
    trace: float = 0.95
    """λ of generalised advantage estimation."""
    normalize_observations: bool = False
    """Whether observations are normalised by running statistics, which are common to all tasks; the task ID
    is not."""
    scale_rewards: bool = False
    """Whether the optimiser's rewards are divided by the running standard deviation of discounted returns. Rewards that
    the policy is conditioned on, and reported returns, are not."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=2e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """The optimiser. A minibatch has equally many trials on every task, so `minibatches` must divide `visits`."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "visits", "streams")
        checks.positive(self, "action_scale")
        checks.not_negative(self, "c")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        if self.visits % self.ppo.minibatches:
            raise ValueError(
                f"minibatches is {self.ppo.minibatches}; it must divide visits, which is {self.visits}, so that every"
                " gradient step has all tasks"
            )


@recipe
def multi_task(family: TaskFamily, config: MultiTaskConfig = MultiTaskConfig()) -> MetaLearner:
    """Builds multi-task PPO on the training tasks of a family, which must be finitely many.

    The agent acts in `jm.tasks.with_task_id(family)`, whose observation ends with the one-hot task ID:

        family = jm.tasks.with_task_id(jm.tasks.classic_control())
        meta = jm.multi_task(family)
        state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), num_updates=40)
        report = jm.evaluate(meta.learner, state.params, family.env, family.train_tasks, key, meta.plan)

    On `jm.tasks.reveal(family)`, or with `--reveal`, the observation has the family's encoding of the task as well,
    which a shared trunk reads.

    Raises:
      ValueError: if the family has no finite set of training tasks, or one task only and there is gradient surgery.
    """
    family = tasks.with_task_id(family)
    size = jax.tree.leaves(family.train_tasks)[0].shape[0]
    if config.surgery != "mean" and size == 1:
        raise ValueError(f"surgery is {config.surgery!r}, but the family has 1 task; it needs at least 2 (try 'mean')")
    policy, plan = inner.policy(_network(family.env.spec, size, config)), Plan(streams=config.streams)
    advantage = rl.value_baseline(config.discount, config.trace)
    improve = outer.policy_gradient(policy, advantage, config.ppo, aggregate=_aggregate(size, config))
    if config.scale_rewards:
        improve = outer.with_scaled_rewards(improve, config.discount)
    learner = policy
    if config.normalize_observations:
        learner = inner.normalised(policy, family.env.spec, last=size, keys=(TASK_ID,))
        improve = outer.with_statistics(improve)
    num_tasks = size * config.visits
    return outer.meta_update(
        learner,
        plan,
        outer.every(family, config.visits),
        outer.fresh(learner, family, plan),
        improve,
        outer.Info(num_tasks, plan, spread=num_tasks // config.ppo.minibatches),
    )


def _network(spec: Spec, num_tasks: int, config: MultiTaskConfig) -> nets.Network:
    shape = (config.hidden, config.activation, config.init_log_std, config.action_scale)
    if config.network == "heads":
        return nets.multi_head(spec, num_tasks, *shape)
    return nets.actor_critic(spec, *shape, value=True)


def _aggregate(num_tasks: int, config: MultiTaskConfig) -> outer.Aggregate:
    """Returns what combines the gradients of the tasks in the params that they share."""
    match config.surgery:
        case "mean":
            return outer.mean()
        case "pcgrad":
            rule = outer.surgery.pcgrad
        case "cagrad":
            rule = outer.surgery.cagrad(config.c)
        case "min-norm":
            rule = outer.surgery.min_norm
    return outer.combined(rule, shared=_is_shared, num_tasks=num_tasks)


def _is_shared(path: str) -> bool:
    return f"/{nets.HEADS}_" not in path
