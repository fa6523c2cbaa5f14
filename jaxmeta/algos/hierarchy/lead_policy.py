"""Lead and meta policy: a library of known policies, a new policy for each task, and a lead policy that chooses between
them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.hierarchy.use import with_use
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan, Spec

CODE = 16
"""Length of an encoded round, from which the hypernetwork generates params."""


@dataclasses.dataclass(frozen=True)
class LeadPolicyConfig:
    """Lead and meta policy over a library of known policies, which stay as they are.

    A task begins with a new policy, made by the meta policy, and with a lead policy. Both adapt by PPO after every
    round. The lead policy decides for every macro-step who acts.
    """

    meta_policy: Literal["reptile", "maml", "hypernetwork"] = "reptile"
    """How a new policy is made and meta-learned. `reptile`: lead and new policy begin with common params, which move
    towards the adapted ones. `maml`: the same start, and a first-order meta-gradient of the last round's return.
    `hypernetwork`: after the first round the new policy is generated from it; the meta-gradient is as with maml."""
    duration: int = 5
    """Steps of a macro-step, for which the lead policy decides who acts; divides the horizon."""
    rounds: int = 4
    """Adaptations per trial. Reptile adapts once more in meta-training, to the last round."""
    num_tasks: int = 10
    """Tasks per update."""
    streams: int = 20
    """Episodes per task and round, run in parallel."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of the new policy, of its policy and of its values."""
    lead_hidden: tuple[int, ...] = (32, 32)
    """The same of the lead policy."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous new policy at the start."""
    random: float = 0.1
    """Probability that who acts is chosen uniformly at random, as a part of the lead policy's distribution."""
    pull: float = 0.1
    """Weight of the KL divergence between a task's lead policy and the common one, in the loss of the lead policy."""
    discount: float = 0.99
    """γ per step, and per macro-step of the lead policy."""
    trace: float = 0.95
    """λ of generalised advantage estimation, per step, and per macro-step of the lead policy."""
    lead: inner.ProximalConfig = inner.ProximalConfig()
    """How the lead policy adapts to a round."""
    new: inner.ProximalConfig = inner.ProximalConfig(learning_rate=3e-3)
    """How the new policy adapts to a round."""
    reptile: outer.ReptileConfig = outer.ReptileConfig()
    """Used with `meta_policy` reptile."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(learning_rate=1e-3, epochs=5, value_weight=0.5)
    """Used with the other meta policies."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "duration", "rounds", "num_tasks", "streams")
        checks.not_negative(self, "pull")
        checks.fraction(self, "random", "discount", "trace")
        checks.widths(self, "hidden")
        checks.widths(self, "lead_hidden")
        self.ppo.check_divides(self.num_tasks)


@recipe
def lead_policy(
    family: TaskFamily, config: LeadPolicyConfig = LeadPolicyConfig(), *, library: Sequence[outer.Expert] = ()
) -> MetaLearner:
    """Builds an agent with a lead policy over a library and a new policy, and its meta-training.

        goals = [jm.tasks.FourRoomsConfig(goals=(goal,)) for goal in jm.tasks.four_rooms.HALLWAYS]
        library = [outer.Expert(meta.learner, state.params), ...]  # of jm.ppo on each of these
        meta = jm.lead_policy(jm.tasks.four_rooms(), library=library)

    A library from `outer.specialists`, the policies of a multi-task agent, makes it a multi-task hierarchy: base
    policies by multi-task learning, composed by meta-learning. The metrics `use/option_0` to `use/option_{K - 1}` are
    the shares of steps on which the K policies of the library act, and `use/option_{K}` that of the new policy.

    Args:
      library: agents on tasks with the same observations and actions, with their params. They neither adapt nor have a
        memory, nor observe more than the new policy.

    Raises:
      ValueError: if the library is empty, one of its agents does not fit, or `config.duration` does not divide the
        horizon.
    """
    learner, plan = agent(family.env.spec, library, config), Plan(config.rounds, config.streams)
    if config.meta_policy == "reptile":
        piece = lambda params, trials: outer.gradient_chunk(learner, trials)  # noqa: E731
        parts, improve = 1, outer.reptile(outer.after_last_round(learner, _with_adapted), config.reptile, piece)
    else:
        parts, advantage = config.ppo.minibatches, rl.value_baseline(config.discount, config.trace)
        improve = outer.policy_gradient(learner, advantage, config.ppo)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        with_use(outer.fresh(learner, family, plan), len(library) + 1),
        improve,
        outer.Info(config.num_tasks, plan, spread=config.num_tasks // parts),
    )


def agent(spec: Spec, library: Sequence[outer.Expert], config: LeadPolicyConfig = LeadPolicyConfig()) -> Learner:
    """Builds the agent that `lead_policy` trains; raises a ValueError as it does."""
    policy = inner.policy(nets.actor_critic(spec, config.hidden, init_log_std=config.init_log_std, value=True))
    _check_library(library, policy, spec)
    advantage = rl.value_baseline(config.discount, config.trace)
    above = nets.actor_critic(rl.macro_spec(spec, len(library) + 1, config.duration), config.lead_hidden, value=True)
    leader = inner.exploring(inner.policy(above), config.random)
    lead = inner.proximal(leader, advantage, config.lead, meta_learned=True, pull=config.pull)
    new = inner.proximal(policy, inner.own_steps(advantage), config.new, meta_learned=True)
    if config.meta_policy == "hypernetwork":
        new = inner.generated(new, nets.round_encoder(spec, CODE), CODE)
    return inner.lead(lead, new, [(known.learner, known.params) for known in library], config.duration)


def _with_adapted(params: inner.LeadParams, fast: inner.LeadFast) -> inner.LeadParams:
    """Returns the params with the adapted lead policy and new policy."""
    return inner.LeadParams(params.lead.replace(policy=fast.lead.policy), params.new.replace(policy=fast.new.policy))


def _check_library(library: Sequence[outer.Expert], policy: Learner, spec: Spec) -> None:
    """Raises a ValueError unless a library has a policy, and all can act in place of another one."""
    if not library:
        raise ValueError("library is empty; a lead policy needs at least 1 known policy (try --library runs/first)")
    right = _distribution(policy, jax.eval_shape(policy.init, jax.random.key(0)), spec)
    assert right is not None
    for index, known in enumerate(library):
        name = f"library[{index}]"
        if known.observe is not None:
            raise ValueError(f"{name} observes the task, but the new policy does not; use agents that do not")
        try:
            found = _distribution(known.learner, known.params, spec)
        except Exception as error:
            brief = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{name} cannot act on these tasks, which have observations {spec.observation} and {spec.action}:"
                f" {brief}"
            ) from None
        if found is None:
            raise ValueError(f"{name} adapts or has a memory; a library needs policies that do neither (try ppo)")
        if found != right:
            there, here = next((one, other) for one, other in zip(found, right, strict=True) if one != other)
            raise ValueError(
                f"{name} has actions with {there}; here they are {here} of {spec.action}; use agents with the same"
            )


def _distribution(learner: Learner, params: Any, spec: Spec) -> tuple[str, Any] | None:
    """Returns kind and form of an agent's action distribution; None if the agent adapts or has a memory."""
    key, kinds = jax.random.key(0), []

    def first(params: Any) -> Any:
        fast = learner.start(params, key)
        carry = learner.reset(params, fast, key)
        output = learner.act(params, fast, carry, spec.example_input())[1]
        kinds.append(type(learner.head(output)).__name__)
        return (fast, carry), output.dist

    state, dist = jax.eval_shape(first, params)
    forms = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), dist)
    return None if jax.tree.leaves(state) else (kinds[0], forms)
