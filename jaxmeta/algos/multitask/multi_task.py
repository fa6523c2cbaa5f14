"""Multi-task PPO and SAC on a finite set of tasks: shared or separate heads, gradient surgery, balanced losses."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.algos.multitask.off_policy import PARTS, off_policy
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.numbered import TASK_ID
from jaxmeta.types import Plan, Spec

ONLY_PPO = ("balance", "activation", "init_log_std", "discount", "trace", "normalize_observations", "scale_rewards")


@dataclasses.dataclass(frozen=True)
class MultiTaskConfig:
    """One agent for a finite set of tasks, which observes the task ID and visits all in every update, by PPO or SAC.

    SAC has a temperature and a replay buffer per task, as the multi-task SAC of Meta-World (Yu et al., 2020,
    arXiv:1910.10897).

    Gradient surgery changes how the gradients of the tasks are combined: PCGrad (Yu et al., 2020, arXiv:2001.06782),
    CAGrad (Liu et al., 2021, arXiv:2110.14048), or the element of minimal norm in their convex hull (MGDA: Désidéri,
    2012; Sener and Koltun, 2018, arXiv:1810.04650).
    """

    network: Literal["conditioned", "heads"] = "conditioned"
    """`conditioned`: one network whose input has the one-hot task ID. `heads`: hidden layers shared by all tasks, which
    do not read the task ID, and output layers for each task, of policy and value or of actor and critics."""
    surgery: Literal["mean", "pcgrad", "cagrad", "min-norm"] = "mean"
    """How the gradients of the tasks are combined, for the params that all tasks share. Those of a head get the mean,
    as they have a gradient from their own task only. With SAC, actor and critics are combined each by itself."""
    c: float = 0.5
    """CAGrad's c: distance of the update from the mean gradient, relative to the norm of the mean gradient."""
    balance: Literal["equal", "uncertainty", "returns"] | tuple[float, ...] = "equal"
    """How PPO weights the tasks against each other. Numbers: a weight for every task, of which only the ratios matter.
    `uncertainty`: the value losses have learned weights, see `outer.balance.by_uncertainty`. `returns`: returns are
    normalised per task (PopArt), see `outer.balance.by_returns`; values then have an output per task, and advantages
    are divided by the task's scale of returns and not standardised per trial."""
    visits: int = 4
    """Trials on every task per update."""
    streams: int = 8
    """Episodes per trial, run in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of each network."""
    action_scale: float | None = None
    """Scale of the actions of a PPO policy, by default 1; the largest absolute action of SAC's actor, by default the
    action limit of the environment."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of PPO's networks; SAC's is relu."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous PPO policy at the start."""
    discount: float = 0.99
    """γ of PPO, within an episode; SAC's is `sac.discount`."""
    trace: float = 0.95
    """λ of generalised advantage estimation, for PPO."""
    normalize_observations: bool = False
    """Whether PPO's observations are normalised by running statistics, which are common to all tasks; the task ID is
    not."""
    scale_rewards: bool = False
    """Whether PPO's rewards are divided by the running standard deviation of discounted returns. Rewards that the
    policy is conditioned on, and reported returns, are not."""
    outer_loop: Literal["ppo", "sac"] = "ppo"
    """Optimiser: on fresh trials, or on replayed ones; SAC needs continuous actions."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=2e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """Used with `outer_loop` ppo. A minibatch has equally many trials on every task, so `minibatches` must divide
    `visits`."""
    sac: outer.SoftActorCriticConfig = outer.SoftActorCriticConfig(temperature=None, reward_scale=1.0)
    """Used with `outer_loop` sac. The replay buffer is that of one task, and a batch has `batch_size` transitions of
    every task."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "visits", "streams")
        checks.positive(self, "action_scale")
        checks.not_negative(self, "c")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        if self.outer_loop == "sac":
            self._check_without_ppo()
        else:
            self._check_balance()
        if self.outer_loop == "ppo" and self.visits % self.ppo.minibatches:
            raise ValueError(
                f"minibatches is {self.ppo.minibatches}; it must divide visits, which is {self.visits}, so that every"
                " gradient step has all tasks"
            )

    def _check_balance(self) -> None:
        if not isinstance(self.balance, str):
            if not self.balance:
                raise ValueError("balance is (); give a weight for every task, or 'equal'")
            if not all(0 < weight < math.inf for weight in self.balance):
                raise ValueError(f"balance is {self.balance}; all weights must be positive and finite")
        elif self.balance != "equal" and not self.ppo.value_weight:
            raise ValueError(
                f"value_weight is {self.ppo.value_weight}; balance {self.balance!r} weighs values: it must be positive"
            )
        if self.balance == "returns" and self.scale_rewards:
            raise ValueError("scale_rewards is True; balance 'returns' has a scale for every task: leave it out")

    def _check_without_ppo(self) -> None:
        """Refuses fields that SAC would ignore."""
        for field in dataclasses.fields(self):
            if field.name in ONLY_PPO and (value := getattr(self, field.name)) != field.default:
                own = " (with sac it is sac.discount)" if field.name == "discount" else ""
                raise ValueError(f"{field.name} is {value!r}; it needs outer_loop ppo{own}")


@recipe
def multi_task(family: TaskFamily, config: MultiTaskConfig = MultiTaskConfig()) -> MetaLearner:
    """Builds multi-task PPO or SAC on the training tasks of a family, which must be finitely many.

    The agent acts in `jm.tasks.with_task_id(family)`, whose observation ends with the one-hot task ID:

        family = jm.tasks.with_task_id(jm.tasks.classic_control())
        meta = jm.multi_task(family)
        state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), num_updates=40)
        report = jm.evaluate(meta.learner, state.params, family.env, family.train_tasks, key, meta.plan)

    Tasks of one kind count as one task, see `jm.tasks.numbered`. SAC's agent is evaluated by the mode of its actor.

    On `jm.tasks.reveal(family)`, or with `--reveal`, the observation has the family's encoding of the task as well,
    which a shared trunk reads.

    Raises:
      ValueError: if the family has no finite set of training tasks, or one task only and there is gradient surgery or a
        balance, or another number of tasks than there are weights, or actions are not continuous and the outer loop is
        SAC.
    """
    family = tasks.with_task_id(family)
    size = int(tasks.kinds_of(family.train_tasks).max()) + 1
    _check_size(size, config)
    aggregate = _aggregate(size, config)
    if config.outer_loop == "sac":
        heads = size if config.network == "heads" else None
        networks = nets.soft_actor_critic(family.env.spec, 0, config.hidden, config.action_scale, heads)
        return off_policy(networks, family, config.visits, config.streams, config.sac, aggregate)
    policy, plan = inner.policy(_network(family.env.spec, size, config)), Plan(streams=config.streams)
    advantage = rl.value_baseline(config.discount, config.trace, normalize=config.balance != "returns")
    balance = _balance(size, advantage, config)
    improve = outer.policy_gradient(policy, advantage, config.ppo, aggregate=aggregate, balance=balance)
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
        outer.every(family, config.visits, None if isinstance(config.balance, str) else config.balance),
        outer.fresh(learner, family, plan),
        improve,
        outer.Info(num_tasks, plan, spread=num_tasks // config.ppo.minibatches),
    )


def _check_size(num_tasks: int, config: MultiTaskConfig) -> None:
    for name, plain in (("surgery", "mean"), ("balance", "equal")):
        value = getattr(config, name)
        if value != plain and num_tasks == 1:
            raise ValueError(f"{name} is {value!r}, but the family has 1 task; it needs at least 2 (try {plain!r})")
    if not isinstance(config.balance, str) and len(config.balance) != num_tasks:
        raise ValueError(
            f"balance is {config.balance}, but the family has {num_tasks} tasks; give a weight for every task"
        )


def _network(spec: Spec, num_tasks: int, config: MultiTaskConfig) -> nets.Network:
    shape = (config.hidden, config.activation, config.init_log_std, config.action_scale or 1.0)
    if config.network == "heads":
        network = nets.multi_head(spec, num_tasks, *shape)
    elif config.balance == "returns":
        network = nets.multi_head(spec, num_tasks, *shape, policy_heads=False)
    else:
        network = nets.actor_critic(spec, *shape, value=True)
    if config.balance == "uncertainty":
        return nets.beside(network, **{outer.balance.LOG_VARIANCE: jnp.zeros(num_tasks)})
    return network


def _balance(num_tasks: int, advantage: rl.Estimator, config: MultiTaskConfig) -> outer.balance.Balance | None:
    match config.balance:
        case "equal":
            return None
        case "uncertainty":
            return outer.balance.by_uncertainty(num_tasks, lambda params: params[outer.balance.LOG_VARIANCE])
        case "returns":
            return outer.balance.by_returns(num_tasks, advantage)
    return outer.balance.given(num_tasks)


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
    if config.outer_loop == "sac":  # a gradient step has one entry per task
        return outer.combined(rule, shared=_is_shared, parts=PARTS)
    return outer.combined(rule, shared=_is_shared, num_tasks=num_tasks)


def _is_shared(path: str) -> bool:
    return f"/{nets.HEADS}_" not in f"/{path}"
