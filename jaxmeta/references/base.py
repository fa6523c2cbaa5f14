"""The common parts of all references, which are learners without trained params; and agents that act at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.nets.heads import Certain, Gaussian, head_for
from jaxmeta.types import Action, Array, Carry, Continuous, Discrete, Input, Key, Output, Params

# a negligible probability, but finite, so that entropies and KL divergences are finite
NEVER = -1e9
# scores within this distance are equal up to rounding
TIE = 1e-6


def reference(
    num_actions: int,
    reset: Callable[[Key], Carry],
    act: Callable[[Params, Carry, Input], tuple[Carry, Array]],
    init: Callable[[Key], Params] = lambda key: (),
) -> Learner:
    """Builds a learner with discrete actions from two functions, its initial carry and its policy.

    Args:
      reset: key -> the carry at the start of a stream; it holds the key for random choices.
      act: (params, carry, inputs) -> (carry, logits [num_actions]).
      init: key -> params; by default there are none. Use it for tables that are too large to be constants of a
        compiled program.
    """

    def step(params, fast, carry, inputs):
        carry, logits = act(params, carry, inputs)
        return carry, Output(dist=logits, value=jnp.zeros(()))

    return Learner(
        init=init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: reset(key),
        act=step,
        adapt=lambda params, fast, experience, key: fast,
        head=head_for(Discrete(num_actions)),
    )


def certain(action: Callable[[Input], Array]) -> Learner:
    """Builds a learner without memory whose continuous action is a function of the input."""

    def act(params, fast, carry, inputs):
        return carry, Output(dist=action(inputs), value=jnp.zeros(()))

    idle = reference(1, lambda key: (), lambda params, carry, inputs: (carry, jnp.zeros(1)))
    return idle._replace(act=act, head=lambda output: Certain(output.dist))


def undirected(action: Action) -> Learner:
    """Samples actions without regard to anything: uniformly, or normally with the largest action as deviation."""

    def act(params, fast, carry, inputs):
        if isinstance(action, Continuous):
            zero = action.example()
            dist: Any = Gaussian(loc=zero, log_scale=zero + math.log(action.limit))
        else:
            dist = jnp.zeros(action.num if isinstance(action, Discrete) else sum(action.nums))
        return carry, Output(dist=dist, value=jnp.zeros(()))

    return random(1)._replace(act=act, head=head_for(action))


def preferences(num_actions: int, levels: int = 11) -> Learner:
    """Samples actions from a distribution that is drawn for each stream, as in DPT's bandits (arXiv:2306.14892).

    It is (1 - w) p + w e, where p is Dirichlet(1, ..., 1), e puts all mass on a uniform action, and w is uniform on
    `levels` values from 0 to 1. So contexts reach from uniform to a single action.
    """

    def reset(key):
        weight_key, arm_key, share_key = jax.random.split(key, 3)
        weights = jax.nn.softmax(-jax.random.gumbel(weight_key, (num_actions,)))
        arm = jax.nn.one_hot(jax.random.randint(arm_key, (), 0, num_actions), num_actions)
        share = jax.random.randint(share_key, (), 0, levels) / max(levels - 1, 1)
        return jnp.maximum(jnp.log((1.0 - share) * weights + share * arm), NEVER)

    return reference(num_actions, reset, lambda params, carry, inputs: (carry, carry))


def random(num_actions: int) -> Learner:
    """Samples actions uniformly."""
    return reference(num_actions, lambda key: (), lambda params, carry, inputs: (carry, jnp.zeros(num_actions)))


def best(score: Array) -> Array:
    """Returns logits that are uniform over the actions with the highest score [..., A]."""
    return jnp.where(score >= score.max(-1, keepdims=True) - TIE, 0.0, NEVER)


def gamma(key: Key, concentration: Array) -> Array:
    """Samples from gamma distributions with concentrations of at least 1, vectorised, by rejection.

    This is the method of Marsaglia and Tsang (2000), which accepts 19 of 20 proposals. On a CPU `jax.random.gamma`
    samples the elements sequentially, which took six times as long.
    """
    d = concentration - 1.0 / 3.0
    shape = concentration.shape

    def propose(state):
        key, value, accepted = state
        key, normal_key, uniform_key = jax.random.split(key, 3)
        x = jax.random.normal(normal_key, shape)
        cube = (1.0 + x / jnp.sqrt(9.0 * d)) ** 3
        positive = jnp.maximum(cube, jnp.finfo(cube.dtype).tiny)
        chance = 0.5 * x**2 + d - d * positive + d * jnp.log(positive)
        accepts = (cube > 0) & (jnp.log(jax.random.uniform(uniform_key, shape)) < chance)
        return key, jnp.where(accepted, value, d * positive), accepted | accepts

    start = (key, jnp.zeros(shape), jnp.zeros(shape, bool))
    return jax.lax.while_loop(lambda state: ~state[2].all(), propose, start)[1]


def check_sizes(**sizes: int) -> None:
    """Checks that all sizes are at least 1.

    Raises:
      ValueError: with the name of the first that is not.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"references: {name} is {value}; it must be at least 1")


def check_epsilon(epsilon: float) -> None:
    """Checks the probability of a random action.

    Raises:
      ValueError: if it is not above 0 and at most 1.
    """
    if not 0.0 < epsilon <= 1.0:
        raise ValueError(f"references: epsilon is {epsilon}; it must be above 0 and at most 1")
