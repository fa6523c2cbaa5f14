"""MIL: one-shot imitation by a gradient step on a demonstration."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets, outer
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.imitation.student import imitating
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.references import experts
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Continuous, Plan, Spec


@dataclasses.dataclass(frozen=True)
class LearnedLossConfig:
    """A learned inner loss: the squared norm of temporal convolutions; see `nets.temporal_loss`."""

    hidden: tuple[int, ...] = (32,)
    """Channels of the hidden convolutions."""
    width: int = 3
    """Steps that a convolution spans."""
    outputs: int = 8
    """Channels of the last convolution."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "width", "outputs")
        checks.widths(self, "hidden")


@dataclasses.dataclass(frozen=True)
class MILConfig(DifferentiatedConfig):
    """MIL: imitate after one demonstration (Finn et al., 2017, arXiv:1709.04905; Yu et al., 2018, arXiv:1802.01557)."""

    inner_lr: float = 0.05
    """Step size of the adaptation."""
    max_inner_step: float | None = 2.0
    """Maximum norm of an inner update, over all params; longer ones are scaled down, and `bounded_steps` in the log is
    their share. None does not clip."""
    inner_steps: int = 1
    """Gradient steps on a demonstration."""
    inner_loss: Literal["actions", "observations"] = "actions"
    """Loss of the adaptation. `actions`: the error of the demonstrated actions. `observations`: a learned loss, which
    does not receive actions."""
    learned_loss: LearnedLossConfig = LearnedLossConfig()
    """Used with `inner_loss` observations."""
    streams: int = 1
    """Demonstrations that are adapted to together; the loss is on as many others."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "swish"] = "relu"
    """Nonlinearity."""
    bias_transformation: int = 10
    """Params that are concatenated to the observation, so that a step can shift the first layer in more directions; 0
    for none."""
    init_log_std: float = -1.0
    """Log standard deviation of a continuous policy at the start, in units of the action limit."""
    num_tasks: int = 32
    """Tasks per update."""
    imitation: outer.ImitationConfig = outer.ImitationConfig()
    """The optimiser of the outer loop."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "inner_steps", "streams", "num_tasks")
        checks.not_negative(self, "bias_transformation")
        checks.widths(self, "hidden")
        if self.inner_loss == "observations" and self.backward == "first-order":
            raise ValueError("backward is first-order; a learned inner loss needs second derivatives (try plain)")

    def plan(self, family: TaskFamily) -> Plan:
        """Returns the layout of a trial: a round of demonstrations, which the agent adapts to, and one of its own."""
        return Plan(rounds=1, streams=self.streams)

    def network(self, spec: Spec) -> nets.Network:
        """Builds the policy."""
        scale = spec.action.limit if isinstance(spec.action, Continuous) else 1.0

        def make(spec: Spec) -> nets.Network:
            return nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, scale)

        if not self.bias_transformation:
            return make(spec)
        return nets.with_context(make, spec, self.bias_transformation)

    def learner(self, spec: Spec) -> Learner:
        """Builds the agent."""
        network = self.network(spec)
        if self.inner_loss == "actions":
            policy, rule = inner.policy(network), self.rule()
            loss = inner.cloning_loss(policy, spec.action)
        else:
            part = self.learned_loss
            criterion = nets.temporal_loss(inner.feature_size(spec), part.hidden, part.width, part.outputs)
            policy, loss = inner.observing(network, criterion, spec)
            rule = inner.adapt_only(self.rule(), "policy")
        return inner.repeated(self.descent(policy, loss, rule), self.inner_steps)


@recipe
def mil(family: TaskFamily, config: MILConfig = MILConfig(), *, expert: outer.Expert | None = None) -> MetaLearner:
    """Builds one-shot imitation (Finn et al., 2017, arXiv:1709.04905), with actions or from observations only.

    On every task of an update an expert demonstrates twice. The agent takes a gradient step on the first demonstration,
    and the outer loss is the negative log-likelihood of the second one, differentiated through the step. With
    `inner_loss` observations the inner loss is learned, too (Yu et al., 2018, arXiv:1802.01557).

    To evaluate the agent, let the expert act in round 0:

        demonstrate = outer.demonstrator(jm.references.experts.planner(family), family.env, meta.plan)
        report = jm.evaluate(meta.learner, state.params, family, tasks, key, meta.plan, demonstrate=demonstrate)

    Demonstrations can also be passed to `update` as data (`jm.Demonstrations`), with at least twice `streams` streams
    per task: the agent never imitates a demonstration that it has adapted to.

    Args:
      expert: demonstrates where there is no data; by default the planner of the family, if it has one.
    """
    spec, plan = family.env.spec, config.plan(family)
    if expert is None:
        expert = experts.planner_or_none(family)
    fresh = None if expert is None else outer.labelled(outer.demonstrating(expert), family, plan)
    source = outer.stored(family, fresh, layout=outer.support_and_query(config.streams, spec.horizon))
    return imitating(config.learner(spec), family, config, source)
