"""Agents of two levels: a master chooses which of several shared sub-policies acts for the next steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import nets, rl
from jaxmeta.core.learner import Learner, by_mode
from jaxmeta.core.rollout import select
from jaxmeta.types import Array, Carry, Fast, Input, Key, Output, Params, Rollout


class HierarchyParams(struct.PyTreeNode):
    """Params of both levels."""

    master: Params
    policies: Params
    """Those of the K sub-policies, leaves [K, ...]."""


class HierarchyCarry(struct.PyTreeNode):
    """What both levels remember within a stream."""

    key: Key
    """Sub-policies are drawn with it; it is the same for the whole stream."""
    decisions: Array
    """Number of decisions so far, int32 scalar."""
    clock: Array
    """Steps of the current macro-step, from 0 to `duration` - 1, int32 scalar."""
    option: Array
    """The sub-policy that acts, int32 scalar."""
    reward: Array
    """Sum of rewards since the last decision, scalar."""
    master: Carry


class Deciding(NamedTuple):
    """The upper level of an agent, which decides who acts; params and `fast` are those of the master."""

    reset: Callable[[Params, Fast, Key], HierarchyCarry]
    decide: Callable[..., tuple[HierarchyCarry, rl.Decision]]
    """(params, fast, carry, inputs, given=None): chooses an option if it is time to, or takes the `given` one."""
    unroll: Callable[[Params, Fast, HierarchyCarry, Rollout], rl.Decision]
    """The decisions of a round with the same choices and the current outputs of the master."""
    rounds: Callable[[Rollout], Rollout]
    """Returns a round as the master received it, in macro-steps."""


def deciding(master: Learner, duration: int) -> Deciding:
    """Builds the upper level of an agent: a master decides every `duration` steps which option acts.

    The first step of an episode is a decision, also after an early end. At each of its decisions the master receives
    its previous choice and the sum of rewards since then.

    Args:
      master: any agent that acts in `rl.macro_spec(spec, num_options, duration)`; it may be recurrent.
      duration: steps per decision; it must divide the horizon.
    """

    def reset(params: Params, fast: Fast, key: Key) -> HierarchyCarry:
        own, key = jax.random.split(key)
        zero = jnp.zeros((), jnp.int32)
        remembered = master.reset(params, fast, key)
        return HierarchyCarry(own, zero, zero, zero, jnp.zeros(()), remembered)

    def decide(
        params: Params, fast: Fast, carry: HierarchyCarry, inputs: Input, given: Array | None = None
    ) -> tuple[HierarchyCarry, rl.Decision]:
        clock = jnp.where(inputs.prev_done > 0, 0, carry.clock)
        decided = clock == 0
        reward = carry.reward + inputs.prev_reward
        seen = inputs.replace(prev_action=carry.option, prev_reward=reward)
        remembered, output = master.act(params, fast, carry.master, seen)
        if given is None:
            options = master.head(output)
            draw_key = jax.random.fold_in(carry.key, carry.decisions)
            chosen = options.mode() if by_mode() else options.sample(seed=draw_key)
            given = jnp.where(decided, chosen, carry.option).astype(jnp.int32)
        remembered = jax.tree.map(lambda new, old: jnp.where(decided, new, old), remembered, carry.master)
        reward = jnp.where(decided, 0.0, reward)
        clock = (clock + 1) % duration
        carry = HierarchyCarry(carry.key, carry.decisions + decided, clock, given, reward, remembered)
        return carry, rl.Decision.of(given, decided.astype(jnp.float32), output)

    def unroll(params: Params, fast: Fast, carry: HierarchyCarry, experience: Rollout) -> rl.Decision:
        decision: rl.Decision = experience.output.aux

        def step(carry: HierarchyCarry, moment: tuple[Input, Array, Array]) -> tuple[HierarchyCarry, Output]:
            inputs, option, valid = moment
            after, made = jax.vmap(decide, (None, None, 0, 0, 0))(params, fast, carry, inputs, option)
            return select(valid > 0, after, carry), made.output

        moments = (experience.inputs, decision.option, experience.valid)
        _, of_master = jax.lax.scan(step, carry, moments)
        return decision.replace(output=of_master)

    def rounds(experience: Rollout) -> Rollout:
        master_keys = jax.vmap(lambda key: jax.random.split(key)[1])(experience.reset_key)
        return rl.macro_steps(experience, duration).replace(reset_key=master_keys)

    return Deciding(reset, decide, unroll, rounds)


def hierarchy(master: Learner, policy: Learner, num_policies: int, duration: int) -> Learner:
    """Builds an agent in which a master chooses, every `duration` steps, which of K shared sub-policies acts.

        over_policies = inner.policy(nets.actor_critic(rl.macro_spec(spec, 4, 10), value=True))
        master = inner.proximal(over_policies, rl.value_baseline())
        agent = inner.hierarchy(master, inner.policy(nets.actor_critic(spec, value=True)), 4, 10)

    See `deciding` for the decisions. `fast` is that of the master, which adapts on macro-steps (`rl.macro_steps`);
    sub-policies do not adapt. A choice is stored in `Output.aux` as an `rl.Decision`. Given the choices, `Output.dist`
    and `Output.value` depend on the params of the sub-policies alone.

    Args:
      master: any agent that acts in `rl.macro_spec(spec, num_policies, duration)`; it may be recurrent, and it may
        adapt.
      policy: a memoryless policy, such as `inner.policy(network)`. Each sub-policy has params of its own.
      num_policies: K.
      duration: steps per decision; it must divide the horizon.
    """
    above = deciding(master, duration)

    def init(key: Key) -> HierarchyParams:
        master_key, policies_key = jax.random.split(key)
        policies = jax.vmap(policy.init)(jax.random.split(policies_key, num_policies))
        return HierarchyParams(master.init(master_key), policies)

    def outputs(policies: Params, inputs: Input) -> Output:
        """Returns the outputs of all sub-policies at one step, leaves [K, ...]."""
        return jax.vmap(lambda theta: policy.act(theta, (), (), inputs)[1])(policies)

    def act(params: HierarchyParams, fast: Fast, carry: HierarchyCarry, inputs: Input) -> tuple[HierarchyCarry, Output]:
        carry, decision = above.decide(params.master, fast, carry, inputs)
        output = of_option(outputs(params.policies, inputs), decision.option)
        return carry, output.replace(aux=decision)

    def unroll(params: HierarchyParams, fast: Fast, carry: HierarchyCarry, experience: Rollout) -> Output:
        each = jax.vmap(jax.vmap(lambda inputs: outputs(params.policies, inputs)))(experience.inputs)
        chosen = jax.vmap(jax.vmap(of_option))(each, experience.output.aux.option)
        return chosen.replace(aux=above.unroll(params.master, fast, carry, experience))

    return Learner(
        init=init,
        start=lambda params, key: master.start(params.master, key),
        reset=lambda params, fast, key: above.reset(params.master, fast, key),
        act=act,
        adapt=lambda params, fast, experience, key: master.adapt(params.master, fast, above.rounds(experience), key),
        head=policy.head,
        unroll=unroll,
    )


def of_option(outputs: Any, option: Array) -> Any:
    """Takes from leaves [K, ...] the entry of an option, a scalar."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, option, keepdims=False), outputs)


def exploring(policy: Learner, share: float) -> Learner:
    """Mixes uniformly random choices into a policy with discrete actions.

    The mixture is the distribution that `head` returns: log-probabilities are those of the choices as they are made.

    Args:
      share: probability of a random choice, in [0, 1].
    """

    def head(output: Output) -> Any:
        return policy.head(output.replace(dist=nets.mostly(output.dist, share)))

    return policy._replace(head=head)
