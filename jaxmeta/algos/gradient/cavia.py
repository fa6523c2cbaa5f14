"""CAVIA: adapts a few context inputs of the policy, whose weights are shared by all tasks."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, nets
from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot


@dataclasses.dataclass(frozen=True)
class CAVIAConfig(SecondOrderConfig):
    """Fast context adaptation (Zintgraf et al., 2019, arXiv:1810.03642)."""

    inner_lr: float = 1.0
    context: int = 5
    """Number of context parameters."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "context")

    def policy(self, family: TaskFamily) -> Learner:
        """Builds a policy with a context as an additional input, which is zero at the start of a task."""

        def network(spec):
            return nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, self.action_scale)

        return inner.policy(nets.with_context(network, family.env.spec, self.context))


@dataclasses.dataclass(frozen=True)
class FewShotCAVIAConfig(OnQueryConfig, DifferentiatedConfig):
    """CAVIA on supervised tasks (Zintgraf et al., 2019, arXiv:1810.03642)."""

    inner_lr: float = 1.0
    context: int = 5
    """Number of context parameters, additional inputs of the network."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "context")

    def network(self, env: FewShot) -> nets.Predictor:
        """Builds the network with context parameters as additional inputs."""
        return nets.perceptron(env.size, env.outputs, self.hidden, self.activation, self.context)


@recipe(supervised=FewShotCAVIAConfig)
def cavia(family: TaskFamily, config: CAVIAConfig | FewShotCAVIAConfig = CAVIAConfig()) -> MetaLearner:
    """Builds an agent that adapts its context φ by φ' = -α ∇_φ L(θ, φ = 0); the outer loop improves θ."""
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, inner.adapt_only(config.rule(), "context"), zero_at_start=("context",))
    return config.meta_train(learner, family)
