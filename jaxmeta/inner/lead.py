"""Agents that act through known policies and a new one: a lead policy decides which of them acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import GradientFast, GradientParams
from jaxmeta.inner.hierarchy import HierarchyCarry, deciding, of_option
from jaxmeta.inner.warm_start import as_constants
from jaxmeta.nets import RoundEncoder
from jaxmeta.rl import Advantage, Decision, Estimator, standardize
from jaxmeta.types import Array, Fast, Input, Key, Output, Params, Rollout


class LeadParams(struct.PyTreeNode):
    """Meta-learned params."""

    lead: Params
    """Those of the lead policy."""
    new: Params
    """Those of the meta policy, which makes the new policy of a task."""


class LeadFast(struct.PyTreeNode):
    """What adapts to a task."""

    lead: Fast
    new: Fast


class Led(struct.PyTreeNode):
    """`Output.dist` of an agent with a lead policy."""

    acting: Any
    """Distribution params of the policy that acts."""
    new: Any
    """Those of the new policy, which may not be acting."""


def lead(leader: Learner, new: Learner, library: Sequence[tuple[Learner, Params]], duration: int) -> Learner:
    """Builds an agent in which a lead policy decides, every `duration` steps, who acts: a known policy or the new one.

        leader = inner.proximal(inner.policy(nets.actor_critic(rl.macro_spec(spec, 5, 10), value=True)), advantage)
        new = inner.proximal(inner.policy(nets.actor_critic(spec, value=True)), inner.own_steps(advantage))
        agent = inner.lead(leader, new, library, duration=10)

    Options 0 to K - 1 are the K policies of the library, which are constants of the program, and option K is the new
    policy. Lead policy and new policy adapt after every round: the lead policy on macro-steps, see `deciding`, and the
    new policy on all steps, of which `own_steps` selects those on which it acted. The value of a step is that of the
    new policy, even if a known policy acts: the values of a known policy are those of the task that it was made for.

    The density that `Learner.head` evaluates is that of an action and, at decisions, of the choice.

    Args:
      leader: an agent that acts in `rl.macro_spec(spec, K + 1, duration)`.
      new: an agent whose policy has no memory; its `start` is the meta policy.
      library: agents that neither adapt nor have a memory, with their params; `Output.dist` is like that of `new`.
      duration: steps per decision; it must divide the horizon.
    """
    above, num_known = deciding(leader, duration), len(library)
    known = [(learner, as_constants(theta)) for learner, theta in library]

    def init(key: Key) -> LeadParams:
        lead_key, new_key = jax.random.split(key)
        return LeadParams(leader.init(lead_key), new.init(new_key))

    def start(params: LeadParams, key: Key) -> LeadFast:
        lead_key, new_key = jax.random.split(key)
        return LeadFast(leader.start(params.lead, lead_key), new.start(params.new, new_key))

    def acting(params: LeadParams, fast: LeadFast, inputs: Input, option: Array) -> Output:
        """Returns the distribution of an option, and the value of the new policy."""
        own = new.act(params.new, fast.new, (), inputs)[1]
        dists = [learner.act(theta, (), (), inputs)[1].dist for learner, theta in known]
        dists = jax.tree.map(lambda *leaves: jnp.stack(leaves), *dists, own.dist)
        return Output(Led(of_option(dists, option), own.dist), own.value)

    def act(params: LeadParams, fast: LeadFast, carry: HierarchyCarry, inputs: Input) -> tuple[HierarchyCarry, Output]:
        carry, decision = above.decide(params.lead, fast.lead, carry, inputs)
        return carry, acting(params, fast, inputs, decision.option).replace(aux=decision)

    def unroll(params: LeadParams, fast: LeadFast, carry: HierarchyCarry, experience: Rollout) -> Output:
        one = lambda inputs, option: acting(params, fast, inputs, option)  # noqa: E731
        output = jax.vmap(jax.vmap(one))(experience.inputs, experience.output.aux.option)
        return output.replace(aux=above.unroll(params.lead, fast.lead, carry, experience))

    def adapt(params: LeadParams, fast: LeadFast, experience: Rollout, key: Key) -> LeadFast:
        lead_key, new_key = jax.random.split(key)
        stored = experience.output
        # the ratios of the new policy are to its own distribution, also where another policy acted
        own = Output(stored.dist.new, stored.value, aux=(stored.aux.option == num_known).astype(jnp.float32))
        return LeadFast(
            leader.adapt(params.lead, fast.lead, above.rounds(experience), lead_key),
            new.adapt(params.new, fast.new, experience.replace(output=own), new_key),
        )

    def head(output: Output) -> _Leading:
        return _Leading(new.head(output.replace(dist=output.dist.acting)), leader.head(output.aux.output), output.aux)

    return Learner(
        init=init,
        start=start,
        reset=lambda params, fast, key: above.reset(params.lead, fast.lead, key),
        act=act,
        adapt=adapt,
        head=head,
        unroll=unroll,
    )


class _Leading:
    """The distribution of the action at a step and, at a decision, of the choice; a sample is the action alone."""

    def __init__(self, action: Any, choice: Any, decision: Decision):
        self._action, self._choice, self._decision = action, choice, decision

    def sample(self, seed: Key) -> Array:
        return self._action.sample(seed=seed)

    def mode(self) -> Array:
        return self._action.mode()

    def log_prob(self, action: Array) -> Array:
        """Computes the log density [...] of an action and of the choice at decisions."""
        chosen = self._choice.log_prob(self._decision.option)
        return self._action.log_prob(action) + self._decision.decided * chosen

    def kl_divergence(self, other: _Leading) -> Array:
        """Computes the KL divergence [...] of the distributions that were drawn from at a step."""
        choice = self._choice.kl_divergence(other._choice)
        return self._action.kl_divergence(other._action) + self._decision.decided * choice

    def entropy(self) -> Array:
        """Computes the entropy [...] of the action, and of the choice at decisions."""
        return self._action.entropy() + self._decision.decided * self._choice.entropy()


def own_steps(advantage: Estimator) -> Estimator:
    """Standardises advantages over the steps on which the new policy acted, and sets the others to zero.

    Targets of the values cover all steps. The round is the one that `lead` adapts the new policy to.
    """

    def estimate(experience: Rollout) -> Advantage:
        whole = advantage(experience)
        return Advantage(standardize(whole.advantage, experience.output.aux * experience.valid), whole.target)

    return estimate


class GeneratedParams(struct.PyTreeNode):
    """Params of an agent whose initial policy is generated from the first round."""

    agent: GradientParams
    """Those of the agent; its policy acts in the first round."""
    encoder: Params
    generator: Array
    """Maps the encoded round to a change of the params of the policy, [D, number of params]."""


class GeneratedFast(struct.PyTreeNode):
    """What adapts to a task."""

    agent: GradientFast
    rounds: Array
    """Adaptations so far, int32 scalar."""


def generated(learner: Learner, encoder: RoundEncoder, size: int) -> Learner:
    """Builds an agent whose first adaptation generates its policy from the round, by a hypernetwork.

    The generated params are those of the first round plus a linear function of the encoded round, which is zero at the
    start. Later adaptations are those of the learner, with a new state of its optimiser.

    Args:
      learner: an agent of `descent`, such as `proximal` with `meta_learned`.
      encoder: encodes a round, such as `nets.round_encoder`.
      size: D, length of an encoded round.
    """

    def init(key: Key) -> GeneratedParams:
        agent_key, encoder_key = jax.random.split(key)
        agent = learner.init(agent_key)
        return GeneratedParams(agent, encoder.init(encoder_key), jnp.zeros((size, ravel_pytree(agent.policy)[0].size)))

    def start(params: GeneratedParams, key: Key) -> GeneratedFast:
        return GeneratedFast(learner.start(params.agent, key), jnp.zeros((), jnp.int32))

    def adapt(params: GeneratedParams, fast: GeneratedFast, experience: Rollout, key: Key) -> GeneratedFast:
        flat, unflatten = ravel_pytree(params.agent.policy)

        def generate() -> GradientFast:
            code = encoder.apply(params.encoder, experience)
            policy = unflatten(flat + code @ params.generator)
            return learner.start(params.agent.replace(policy=policy), key)

        agent = jax.lax.cond(
            fast.rounds == 0, generate, lambda: learner.adapt(params.agent, fast.agent, experience, key)
        )
        return GeneratedFast(agent, fast.rounds + 1)

    return learner._replace(
        init=init,
        start=start,
        reset=lambda params, fast, key: learner.reset(params.agent, fast.agent, key),
        act=lambda params, fast, carry, inputs: learner.act(params.agent, fast.agent, carry, inputs),
        adapt=adapt,
        unroll=None,
    )
