"""Option-critic: options, their terminations and the policy over them, learned together by PPO."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.algos.hierarchy.use import with_use
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan, Spec


@dataclasses.dataclass(frozen=True)
class OptionCriticConfig:
    """Option-critic (Bacon et al., 2017, arXiv:1609.05140), with the likelihood ratios of PPO."""

    num_options: int = 4
    """Number of options."""
    masters: Literal["shared", "per-task"] = "shared"
    """`shared`: one policy over options for all tasks. `per-task`: one for each task of a finite set, over options that
    all tasks share and that do not observe the task ID; every update visits all tasks equally often."""
    deliberation_cost: float = 0.1
    """Reward that is subtracted in training whenever an option terminates (Harb et al., 2018, arXiv:1709.04571).
    Reported returns exclude it. Without it options tend to shrink to single steps."""
    num_tasks: int = 16
    """Tasks per update; with masters per-task, the trials of an update, a multiple of the number of tasks."""
    streams: int = 8
    """Episodes per task, run in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the options, of the policy over options, and of the values."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of all three."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    action_scale: float = 1.0
    """Scale of the actions, for environments whose actions are much smaller or larger than 1."""
    discount: float = 0.99
    """γ, within an episode."""
    trace: float = 0.95
    """λ of generalised advantage estimation."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=1e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """The optimiser."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale")
        checks.not_negative(self, "deliberation_cost")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        if self.num_options < 2:
            raise ValueError(f"num_options is {self.num_options}; there must be at least 2 (ppo has one policy)")
        self.ppo.check_divides(self.num_tasks)

    def network(self, spec: Spec, num_tasks: int = 0) -> nets.Network:
        """Builds the network; with masters per-task the observation ends with the ID of as many tasks."""
        shape = (self.hidden, self.activation, self.init_log_std, self.action_scale)
        return nets.options(spec, self.num_options, *shape, num_tasks)

    def plan(self) -> Plan:
        """Returns the layout of a trial."""
        return Plan(streams=self.streams)


@recipe
def option_critic(family: TaskFamily, config: OptionCriticConfig = OptionCriticConfig()) -> MetaLearner:
    """Builds option-critic.

    At every step the acting option may terminate; then the policy over options chooses the next one. One
    policy gradient, of the joint density of termination, option and action, trains the policies of the options, their
    terminations and the policy over options.
    The critic is that of the paper, the value of every option in a state. The metrics are those of
    `use.option_use`: the share of steps of each option, and the mean length of options in steps.

    With `masters` per-task the agent acts in `jm.tasks.with_task_id(family)`.

    Raises:
      ValueError: if there is to be a master per task, and the family has no finite set of training tasks, or their
        number does not divide the trials of an update or of a minibatch.
    """
    num_tasks, sampler = 0, outer.uniform(family)
    if config.masters == "per-task":
        family = tasks.with_task_id(family)
        num_tasks = int(tasks.kinds_of(family.train_tasks).max()) + 1
        sampler = outer.every(family, _visits(num_tasks, config))
    learner, plan = inner.options(config.network(family.env.spec, num_tasks), config.num_options), config.plan()
    advantage = inner.deliberating(rl.value_baseline(config.discount, config.trace), config.deliberation_cost)
    return outer.meta_update(
        learner,
        plan,
        sampler,
        with_use(outer.fresh(learner, family, plan), config.num_options),
        outer.policy_gradient(learner, advantage, config.ppo),
        outer.Info(config.num_tasks, plan, spread=config.num_tasks // config.ppo.minibatches),
    )


def _visits(num_tasks: int, config: OptionCriticConfig) -> int:
    """Returns the trials per task and update; every minibatch has equally many of each task."""
    if config.num_tasks % (num_tasks * config.ppo.minibatches):
        raise ValueError(
            f"num_tasks is {config.num_tasks}; with masters per-task it must be a multiple of the {num_tasks} tasks"
            f" times minibatches, {num_tasks * config.ppo.minibatches}"
        )
    return config.num_tasks // num_tasks
