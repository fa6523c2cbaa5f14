"""MLSH: sub-policies that all tasks share, and a master that is re-initialised on every task."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.hierarchy.use import with_use
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Params, Plan, Spec


@dataclasses.dataclass(frozen=True)
class MasterConfig:
    """The master of a hierarchy, which is re-initialised on every task."""

    cell: Literal["none", "gru", "lstm", "lru", "transformer", "s5", "mamba", "mlstm"] = "none"
    """Memory over macro-steps, see `jm.RL2Config.cell`; none is a memoryless master."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of a memoryless master, of its policy and of its values."""
    state: int = 32
    """Size of the state of a master with memory."""
    random: float = 0.1
    """Probability of a uniformly random choice, as part of the master's distribution."""
    discount: float = 0.99
    """γ per decision."""
    trace: float = 0.98
    """λ of generalised advantage estimation, per decision."""
    ppo: inner.ProximalConfig = inner.ProximalConfig()
    """How the master learns from a round."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "state")
        checks.widths(self, "hidden")
        checks.fraction(self, "random", "discount", "trace")

    def build(self, spec: Spec) -> Learner:
        """Builds the master for a spec of `rl.macro_spec`."""
        if self.cell == "none":
            network = nets.actor_critic(spec, self.hidden, value=True)
        else:
            network = nets.recurrent_actor_critic(spec, self.cell, self.state, length=spec.horizon)
        policy = inner.exploring(inner.memory(network), self.random)
        return inner.proximal(policy, rl.value_baseline(self.discount, self.trace), self.ppo)


@dataclasses.dataclass(frozen=True)
class MLSHConfig:
    """MLSH: meta-learned shared hierarchies (Frans et al., 2018, arXiv:1710.09767).

    Sizes and step sizes of the master are those of OpenAI's code. Its sub-policies take many small steps on the
    experience of 120 processes; here they take few, larger ones.
    """

    num_policies: int = 2
    """Number of sub-policies."""
    duration: int = 10
    """Steps of a macro-step, for which the master chooses a sub-policy; divides the horizon."""
    trials: Literal["in-progress", "whole"] = "in-progress"
    """Layout of an update. `in-progress`: one round on each of tasks of staggered age, as the paper's processes do.
    `whole`: a trial from the first to the last round on every task, `warmup` + 1 times as many steps per update."""
    warmup: int = 9
    """Rounds on a task in which only the master learns; also the rounds of adaptation in evaluation."""
    joint: int = 10
    """Rounds on a task in which the sub-policies learn too, after the warm-up. Whole trials always have one."""
    num_tasks: int = 10
    """Tasks per update."""
    streams: int = 20
    """Episodes per task and round, run in parallel."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of a sub-policy, of its policy and of its values."""
    init_log_std: float = 0.0
    """Log standard deviation of continuous sub-policies at the start."""
    discount: float = 0.99
    """γ of the sub-policies, per step."""
    trace: float = 0.98
    """λ of generalised advantage estimation of the sub-policies, per step."""
    normalize_observations: bool = True
    """Whether observations are normalised by running statistics, which only meta-training changes, as in the paper's
    code. On moving bandits one seed of three collapsed without it."""
    master: MasterConfig = MasterConfig()
    """The master."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(learning_rate=1e-3, epochs=5, value_weight=0.5)
    """The optimiser of the sub-policies."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "duration", "warmup", "joint", "num_tasks", "streams")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        self.ppo.check_divides(self.num_tasks)
        if self.num_policies < 2:
            raise ValueError(f"num_policies is {self.num_policies}; a master needs at least 2 to choose from")
        if self.trials == "in-progress" and self.ppo.minibatches > 1:
            raise ValueError(
                f"ppo.minibatches is {self.ppo.minibatches}; with tasks in progress it must be 1: a minibatch of tasks"
                " in their warm-up would move the sub-policies by the momentum of earlier ones"
            )


def agent(spec: Spec, config: MLSHConfig = MLSHConfig()) -> Learner:
    """Builds the agent of MLSH: its params are sub-policies, and a new master adapts to every task."""
    master = config.master.build(rl.macro_spec(spec, config.num_policies, config.duration))
    return inner.hierarchy(master, _sub_policy(spec, config), config.num_policies, config.duration)


def sub_policies(spec: Spec, config: MLSHConfig, params: Params) -> tuple[Learner, Params]:
    """Returns a sub-policy as an agent by itself, and the params of all K, leaves [K, ...].

    Args:
      params: those of the agent that `mlsh` trains.
    """
    policy = _sub_policy(spec, config)
    if not config.normalize_observations:
        return policy, params.policies
    spread = lambda leaf: jnp.broadcast_to(leaf, (config.num_policies, *leaf.shape))  # noqa: E731
    statistics = jax.tree.map(spread, params.statistics)
    return inner.normalised(policy, spec), rl.NormalisedParams(params.learner.policies, statistics)


def _sub_policy(spec: Spec, config: MLSHConfig) -> Learner:
    return inner.policy(nets.actor_critic(spec, config.hidden, init_log_std=config.init_log_std, value=True))


@recipe
def mlsh(family: TaskFamily, config: MLSHConfig = MLSHConfig()) -> MetaLearner:
    """Builds MLSH (Frans et al., 2018, arXiv:1710.09767).

    On every task a new master learns by PPO, over macro-steps, which sub-policy to follow. The sub-policies learn by
    PPO from rounds after the warm-up, when the master has found those that suit the task. The metrics `use/option_0` to
    `use/option_{K - 1}` are the shares of steps on which each sub-policy acts.

    Raises:
      ValueError: if `config.duration` does not divide the horizon.
    """
    learner = agent(family.env.spec, config)
    sampler, plan = outer.uniform(family), Plan(config.warmup, config.streams)
    improve = outer.policy_gradient(learner, rl.value_baseline(config.discount, config.trace), config.ppo)
    if config.normalize_observations:
        learner, improve = inner.normalised(learner, family.env.spec), outer.with_statistics(improve)
    if config.trials == "whole":
        collected, source = plan, outer.fresh(learner, family, plan)
    else:
        collected = Plan(streams=config.streams)
        source = outer.in_progress(learner, family, collected, config.num_tasks, config.warmup, config.joint)
        sampler = sampler._replace(essential="a task stays for several updates")
        improve = outer.once_warm(improve)
    info = outer.Info(config.num_tasks, collected, spread=config.num_tasks // config.ppo.minibatches)
    return outer.meta_update(learner, plan, sampler, with_use(source, config.num_policies), improve, info)
