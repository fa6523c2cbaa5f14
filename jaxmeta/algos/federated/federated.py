"""Federated meta-training: FedAvg and Per-FedAvg over clients, each with tasks of its own."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxmeta import inner, outer
from jaxmeta.algos.federated.server import FederatedFields, federate
from jaxmeta.algos.gradient.few_shot import FewShotConfig, few_shot_env
from jaxmeta.algos.gradient.gradient_steps import AdaptationConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class FederatedConfig(FederatedFields, AdaptationConfig):
    """Federated averaging of policy gradients (McMahan et al., 2017, arXiv:1602.05629), and Per-FedAvg."""

    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the local steps."""
    num_tasks: int = 20
    """n, clients per update; with Poisson participation their expected number."""

    def __post_init__(self):
        super().__post_init__()
        if self.normalize_observations:
            raise ValueError(
                "normalize_observations is True; clients send params or gradients only, no statistics of observations"
            )

    def meta_train(self, learner: Learner, family: TaskFamily) -> MetaLearner:
        """Builds the meta-learner on fresh trials."""
        parts = self.update(learner, family, self.num_tasks)
        options: dict[str, Any] = {"aggregate": parts.mean, "tx": parts.tx}
        if self.method == "fedavg":
            end = outer.after_last_round(learner)
            piece = lambda params, trials: outer.gradient_chunk(learner, trials)  # noqa: E731
            improve = outer.reptile(end, piece=piece, **options)
        else:
            plain = outer.PolicyGradientConfig(clip=None, epochs=1)
            improve = outer.policy_gradient(learner, self.advantage(), plain, **options)
        plan = self.plan()
        return federate(parts, learner, family, plan, outer.fresh(learner, family, plan), improve)


@dataclasses.dataclass(frozen=True)
class FewShotFederatedConfig(FederatedFields, FewShotConfig):
    """Federated averaging on supervised tasks (McMahan et al., 2017, arXiv:1602.05629), and Per-FedAvg."""

    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the local steps."""
    num_tasks: int = 25
    """n, clients per update; with Poisson participation their expected number."""

    def meta_train(self, learner: Learner, family: TaskFamily) -> MetaLearner:
        """Builds the meta-learner on the examples of the clients."""
        env, parts = few_shot_env(family), self.update(learner, family, self.num_tasks)
        options: dict[str, Any] = {"aggregate": parts.mean, "tx": parts.tx}
        if self.method == "fedavg":
            end = outer.after_batches(learner, env, self.rounds)
            improve = outer.reptile(end, piece=outer.few_rows, **options)
        else:
            improve = outer.follow_query(learner, env, self.rounds, **options)
        plan = Plan(rounds=self.rounds)
        return federate(parts, learner, family, plan, outer.examples(plan), improve)


@recipe(supervised=FewShotFederatedConfig)
def federated(family: TaskFamily, config: FederatedConfig | FewShotFederatedConfig = FederatedConfig()) -> MetaLearner:
    """Builds federated meta-training: in every update some clients get the params, and the server averages what they
    send back.

    With FedAvg it is Reptile over clients. Per-FedAvg (Fallah et al., 2020, arXiv:2002.07948) is MAML over clients, or
    FOMAML; the Hessian-vector products that the paper approximates are exact here. A new client adapts as in every
    evaluation, by gradient steps on its own data.

        clients = outer.ClientsConfig(number=10_000, participation="poisson")
        private = outer.PrivateConfig(noise_multiplier=1.0, clip=0.5)
        config = jm.FewShotFederatedConfig(method="per-fedavg", num_tasks=200, clients=clients, private=private)
        meta = jm.federated(jm.tasks.sinusoid(), config)

    Raises:
      ValueError: if there are fewer clients than participants.
      extras.MissingExtraError: if there is noise, and dp-accounting is not installed.
    """
    policy, loss = config.problem(family)
    rule = config.rule()
    if config.method == "per-fedavg-fo":
        rule = inner.first_order(rule)
    return config.meta_train(inner.descent(policy, loss, rule), family)
