"""Agents with options: temporally extended actions that an agent chooses, follows and terminates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.core.learner import Learner, by_mode
from jaxmeta.nets import Network, OptionsOutput
from jaxmeta.rl import Advantage, Decision, Estimator
from jaxmeta.types import Array, Carry, Fast, Input, Key, Output, Params, Rollout


class OptionsCarry(struct.PyTreeNode):
    """The carry of an agent with options."""

    key: Key
    option: Array
    """The option of the previous step, int32 scalar; without effect at the start of an episode."""


class OptionsDist(struct.PyTreeNode):
    """`Output.dist` of an agent with options, besides the policy over options, which is in `Output.aux`."""

    action: Any
    """Distribution params of the acting option's policy."""
    stop: Array
    """Logit of terminating the previous option, [...]; 0 where nothing is terminated."""
    asked: Array
    """1.0 where a termination is drawn, [...]; 0.0 at the start of an episode, which has no previous option."""


def options(network: Network, num_options: int) -> Learner:
    """Builds an agent with options that are terminated at any step (Bacon et al., 2017, arXiv:1609.05140).

    At every step the previous option ω' terminates with probability β(s, ω'). If so, or if an episode begins, the
    policy over options draws an option. Then the policy of the option draws the action. `Learner.head`
    evaluates the joint density of termination, option and action. So one policy gradient trains the option policies,
    the terminations and the policy over options. The value of state s after option ω' is
    (1 - β) Q(s, ω') + β Σ_ω π(ω) Q(s, ω), with π the policy over options and Q the values of the network. Gradients
    flow through Q only.

    With one option, a termination has no effect and is not drawn: the agent is a policy with a value.

    Args:
      network: `nets.options`.
      num_options: K.
    """

    def begins(inputs: Input) -> Array:
        return jnp.maximum(inputs.first, inputs.prev_done)

    def asked(inputs: Input) -> Array:
        return (1.0 - begins(inputs)) * (num_options > 1)

    def finish(output: Output, inputs: Input, before: Array, option: Array, decided: Array) -> Output:
        heads: OptionsOutput = output.dist
        asks, chances = asked(inputs), jax.nn.softmax(heads.choose)
        ends = jnp.where(asks > 0, jax.nn.sigmoid(heads.stop[before]), begins(inputs))
        acts = (1.0 - ends) * jax.nn.one_hot(before, num_options) + ends * chances
        value, over_options = (jnp.sum(jax.lax.stop_gradient(some) * output.value) for some in (acts, chances))
        action = jax.tree.map(lambda leaf: leaf[option], heads.actions)
        dist = OptionsDist(action, jnp.where(asks > 0, heads.stop[before], 0.0), asks)
        return Output(dist, value, aux=Decision.of(option, decided, Output(heads.choose, over_options)))

    def act(params: Params, fast: Fast, carry: OptionsCarry, inputs: Input) -> tuple[OptionsCarry, Output]:
        key, stop_key, option_key = jax.random.split(carry.key, 3)
        _, output = network.apply(params, (), inputs)
        stop, choose = output.dist.stop[carry.option], output.dist.choose
        if by_mode():
            stops, chosen = stop > 0, jnp.argmax(choose)
        else:
            stops = jax.random.bernoulli(stop_key, jax.nn.sigmoid(stop))
            chosen = jax.random.categorical(option_key, choose)
        ends = (begins(inputs) > 0) | ((asked(inputs) > 0) & stops)
        option = jnp.where(ends, chosen, carry.option).astype(jnp.int32)
        output = finish(output, inputs, carry.option, option, ends.astype(jnp.float32))
        return OptionsCarry(key, option), output

    def unroll(params: Params, fast: Fast, carry: Carry, experience: Rollout) -> Output:
        decision: Decision = experience.output.aux
        before = jnp.concatenate([carry.option[None], decision.option[:-1]])

        def one(inputs: Input, *drawn: Array) -> Output:
            return finish(network.apply(params, (), inputs)[1], inputs, *drawn)

        return jax.vmap(jax.vmap(one))(experience.inputs, before, decision.option, decision.decided)

    def head(output: Output) -> _Drawing:
        return _Drawing(network.head(output.replace(dist=output.dist.action)), output.dist, output.aux)

    return Learner(
        init=network.init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: OptionsCarry(key, jnp.zeros((), jnp.int32)),
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=head,
        unroll=unroll,
    )


def one_option(network: Network) -> Learner:
    """Builds the policy of one option that never terminates; its params are those of the network and its number.

        each = (jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), params), jnp.arange(4))
        returns = viz.options.policy_returns(inner.one_option(network), each, env, tasks, key)

    Args:
      network: `nets.options`.
    """

    def act(params: tuple[Params, Array], fast: Fast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        theta, option = params
        _, output = network.apply(theta, (), inputs)
        action = jax.tree.map(lambda leaf: leaf[option], output.dist.actions)
        return carry, Output(action, output.value[option])

    return Learner(
        init=lambda key: (network.init(key), jnp.zeros((), jnp.int32)),
        start=lambda params, key: (),
        reset=lambda params, fast, key: (),
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=network.head,
    )


class _Drawing:
    """The distribution of termination, option and action at a step; a sample is the action alone."""

    def __init__(self, action: Any, dist: OptionsDist, decision: Decision):
        self._action, self._stop, self._asked = action, _log_stop(dist.stop), dist.asked
        self._decision, self._choose = decision, jax.nn.log_softmax(decision.output.dist)

    def sample(self, seed: Key) -> Array:
        return self._action.sample(seed=seed)

    def mode(self) -> Array:
        return self._action.mode()

    def log_prob(self, action: Array) -> Array:
        """Computes the log density [...] of an action and of what the agent drew for itself."""
        option, decided = self._decision.option, self._decision.decided
        chosen = jnp.take_along_axis(self._choose, option[..., None], -1)[..., 0]
        ended = decided * self._stop[0] + (1.0 - decided) * self._stop[1]
        return self._action.log_prob(action) + self._asked * ended + decided * chosen

    def kl_divergence(self, other: _Drawing) -> Array:
        """Computes the KL divergence [...] of the distributions that were drawn from at a step."""
        stop = sum(jnp.exp(mine) * (mine - theirs) for mine, theirs in zip(self._stop, other._stop, strict=True))
        choose = jnp.sum(jnp.exp(self._choose) * (self._choose - other._choose), -1)
        return self._action.kl_divergence(other._action) + self._asked * stop + self._decision.decided * choose

    def entropy(self) -> Array:
        """Computes the entropy [...] of the action, and of the option where one was chosen; not of terminations."""
        choose = -jnp.sum(jnp.exp(self._choose) * self._choose, -1)
        return self._action.entropy() + self._decision.decided * choose


def _log_stop(logit: Array) -> tuple[Array, Array]:
    """Returns the log-probabilities of terminating and of going on."""
    return jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)


def deliberating(advantage: Estimator, cost: float) -> Estimator:
    """Subtracts a deliberation cost from the reward where an option terminated (Harb et al., 2018, arXiv:1709.04571).

    Without it options tend to shrink to single steps. The choice at the start of an episode costs nothing.
    """

    def estimate(experience: Rollout) -> Advantage:
        output = experience.output
        terminated = output.dist.asked * output.aux.decided * experience.valid
        return advantage(experience.replace(reward=experience.reward - cost * terminated))

    return estimate
