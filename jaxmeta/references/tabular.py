"""Finite MDPs with a fixed horizon: exact values, and classical algorithms as learners.

The setting is that of RL² (Duan et al., 2016, arXiv:1611.02779): S states, A actions, undiscounted episodes of H steps
from a start state, and normal rewards with variance 1 around a mean per state and action. The observation is the
one-hot state. The learners use the true prior, N(1, 1) for mean rewards and Dir(1, ..., 1) for transitions, and plan at
the start of every episode.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.nets.heads import mostly
from jaxmeta.references.base import best, check_epsilon, check_sizes, gamma, random, reference
from jaxmeta.types import Array, Input, Key

__all__ = [
    "Experience",
    "beb",
    "epsilon_greedy",
    "optimal_q",
    "optimal_value",
    "optimistic_psrl",
    "oracle",
    "psrl",
    "random",
    "random_value",
    "ucrl2",
]


def optimal_q(reward: Array, transition: Array, horizon: int) -> Array:
    """Solves a known MDP by value iteration.

    Args:
      reward: mean rewards, [S, A].
      transition: probabilities of the next state, [S, A, S].

    Returns:
      Q-values of the optimal policy by step of the episode, [horizon, S, A].
    """
    return _backward(lambda value: reward + transition @ value, reward.shape[0], horizon)


def optimal_value(reward: Array, transition: Array, horizon: int, start: int = 0) -> Array:
    """Computes the optimal expected return of an episode of a known MDP; see `optimal_q` for the arguments."""
    return optimal_q(reward, transition, horizon)[0, start].max()


def random_value(reward: Array, transition: Array, horizon: int, start: int = 0) -> Array:
    """Computes the expected return of an episode under uniform actions; see `optimal_q` for the arguments."""
    reward, transition = reward.mean(1), transition.mean(1)
    return jax.lax.fori_loop(0, horizon, lambda _, value: reward + transition @ value, jnp.zeros_like(reward))[start]


def oracle(num_states: int, num_actions: int, horizon: int) -> Learner:
    """Builds the optimal agent that knows the MDP, by value iteration, for `jm.tasks.reveal(family)`."""
    check_sizes(num_states=num_states, num_actions=num_actions, horizon=horizon)

    def act(params, time: Array, inputs: Input):
        time = jnp.where((inputs.first + inputs.prev_done) > 0, 0, time + 1)
        state, tables = inputs.obs[:num_states], inputs.obs[num_states:]
        reward, transition = jnp.split(tables, [num_states * num_actions])
        reward = reward.reshape(num_states, num_actions)
        q = optimal_q(reward, transition.reshape(num_states, num_actions, num_states), horizon)
        return time, best(state @ q[time])

    return reference(num_actions, lambda key: jnp.zeros((), jnp.int32), act)


class Experience(struct.PyTreeNode):
    """The statistics of a stream, and the current plan."""

    visits: Array
    """Number of rewards observed per state and action, [S, A]."""
    reward_sum: Array
    """Their sum, [S, A]."""
    moves: Array
    """Number of transitions observed, [S, A, S]; the last step of an episode has a reward only."""
    state: Array
    """State in which the last action was taken, int32."""
    time: Array
    """Number of steps in this episode, int32."""
    episode: Array
    """Number of episodes started, int32."""
    q: Array
    """Q-values of the plan for this episode, [H, S, A]."""
    key: Key

    @property
    def mean_reward(self) -> Array:
        """Posterior mean of the mean rewards, [S, A]; the prior counts as one reward of 1."""
        return (1.0 + self.reward_sum) / (1.0 + self.visits)

    @property
    def mean_transition(self) -> Array:
        """Posterior mean of the transition probabilities, [S, A, S]; the prior counts as one move to each state."""
        moves = self.moves + 1.0
        return moves / moves.sum(-1, keepdims=True)

    def update(self, inputs: Input) -> Experience:
        """Counts the previous step, from `inputs`, and advances time and episode."""
        state = jnp.argmax(inputs.obs).astype(jnp.int32)
        seen = 1.0 - inputs.first
        begins = (inputs.first + inputs.prev_done) > 0
        before = (self.state, inputs.prev_action)
        return self.replace(
            visits=self.visits.at[before].add(seen),
            reward_sum=self.reward_sum.at[before].add(seen * inputs.prev_reward),
            moves=self.moves.at[(*before, state)].add(seen * (1.0 - inputs.prev_done)),
            state=state,
            time=jnp.where(begins, 0, self.time + 1),
            episode=self.episode + begins,
        )


COUNTS = ("visits", "reward_sum", "moves")
"""The fields of `Experience` that plans depend on."""
Planner = Callable[[Experience, Key], Array]
"""(experience, key) -> Q-values of an episode, [H, S, A]."""


def epsilon_greedy(num_states: int, num_actions: int, horizon: int, epsilon: float = 0.1) -> Learner:
    """Acts optimally for the posterior mean, and with probability `epsilon` uniformly."""
    check_epsilon(epsilon)

    def planner(experience, key):
        return optimal_q(experience.mean_reward, experience.mean_transition, horizon)

    return _planning(num_states, num_actions, horizon, planner, epsilon)


def psrl(num_states: int, num_actions: int, horizon: int) -> Learner:
    """Posterior sampling: acts optimally for an MDP sampled from the posterior in each episode (Strens, 2000)."""
    return _planning(
        num_states, num_actions, horizon, lambda experience, key: optimal_q(*_posterior_draw(experience, key), horizon)
    )


def optimistic_psrl(num_states: int, num_actions: int, horizon: int, num_draws: int = 5) -> Learner:
    """Plans with the best of several posterior samples, separately for each state, action and step.

    This is a simplified OPSRL (Agrawal and Jia, 2017, arXiv:1705.07041).
    """
    check_sizes(num_draws=num_draws)

    def planner(experience, key):
        reward, transition = jax.vmap(_posterior_draw, (None, 0))(experience, jax.random.split(key, num_draws))
        return _backward(lambda value: (reward + transition @ value).max(0), num_states, horizon)

    return _planning(num_states, num_actions, horizon, planner)


def beb(num_states: int, num_actions: int, horizon: int, bonus: float = 1.0) -> Learner:
    """Plans with the posterior mean and an exploration bonus (Kolter and Ng, 2009).

    Args:
      bonus: added to the mean reward, divided by 1 + visits.
    """

    def planner(experience, key):
        reward = experience.mean_reward + bonus / (1.0 + experience.visits)
        return optimal_q(reward, experience.mean_transition, horizon)

    return _planning(num_states, num_actions, horizon, planner)


def ucrl2(num_states: int, num_actions: int, horizon: int, confidence: float = 0.1) -> Learner:
    """Plans with the best plausible MDP, as in UCRL2 (Jaksch, Ortner and Auer, 2010).

    Rewards and transitions are the best ones within confidence regions around their posterior means. The regions are
    those of UCRL2 (with a failure probability of 1 / steps) scaled by `confidence`: in trials as short as those of RL²
    the worst-case regions would contain all MDPs. Unlike UCRL2 it plans in every episode.
    """
    pairs = num_states * num_actions

    def planner(experience, key):
        seen = jnp.maximum(experience.visits, 1.0)
        steps = jnp.maximum(experience.visits.sum(), 1.0)
        width = confidence * jnp.sqrt(7.0 * jnp.log(2.0 * pairs * steps**2) / (2.0 * seen))
        distance = confidence * jnp.sqrt(14.0 * num_states * jnp.log(2.0 * num_actions * steps**2) / seen)
        reward = experience.mean_reward + width
        return _backward(
            lambda value: reward + _best_expectation(value, experience.mean_transition, distance), num_states, horizon
        )

    return _planning(num_states, num_actions, horizon, planner)


def _planning(num_states: int, num_actions: int, horizon: int, planner: Planner, epsilon: float = 0.0) -> Learner:
    """Builds a learner that plans at the start of each episode and acts on the plan."""
    check_sizes(num_states=num_states, num_actions=num_actions, horizon=horizon)

    def reset(key):
        zero = jnp.zeros((), jnp.int32)
        pairs = jnp.zeros((num_states, num_actions))
        moves = jnp.zeros((num_states, num_actions, num_states))
        q = jnp.zeros((horizon, num_states, num_actions))
        return Experience(pairs, pairs, moves, state=zero, time=zero, episode=zero, q=q, key=key)

    def act(params, experience, inputs):
        experience = experience.update(inputs)
        key = jax.random.fold_in(experience.key, experience.episode)

        def plan(state: tuple[Array, Array]) -> tuple[Array, Array]:
            # the loop state is used, so that the compiler does not hoist the planning out of the loop
            counts = {name: jnp.where(state[0], getattr(experience, name), 0.0) for name in COUNTS}
            return jnp.array(False), planner(experience.replace(**counts), jnp.where(state[0], key, experience.key))

        # a loop of at most one iteration: under vmap a `cond` would plan at every step, this only at episode starts
        _, q = jax.lax.while_loop(lambda state: state[0], plan, (experience.time == 0, experience.q))
        logits = best(q[experience.time, experience.state])
        return experience.replace(q=q), mostly(logits, epsilon) if epsilon else logits

    return reference(num_actions, reset, act)


def _backward(backup: Callable[[Array], Array], num_states: int, horizon: int) -> Array:
    """Runs backups, values [S] to Q-values [S, A], backwards from the end of an episode: [horizon, S, A]."""

    def step(value, _):
        q = backup(value)
        return q.max(-1), q

    return jax.lax.scan(step, jnp.zeros(num_states), length=horizon, reverse=True)[1]


def _posterior_draw(experience: Experience, key: Key) -> tuple[Array, Array]:
    """Samples mean rewards [S, A] and transition probabilities [S, A, S] from the posterior."""
    reward_key, transition_key = jax.random.split(key)
    noise = jax.random.normal(reward_key, experience.visits.shape) / jnp.sqrt(1.0 + experience.visits)
    weight = gamma(transition_key, experience.moves + 1.0)
    return experience.mean_reward + noise, weight / weight.sum(-1, keepdims=True)


def _best_expectation(value: Array, transition: Array, distance: Array) -> Array:
    """Maximises the expected value [S, A] over transition distributions within an L1 ball.

    Args:
      value: [S].
      transition: centres of the balls, [S, A, S].
      distance: radii of the balls, [S, A].
    """
    order = jnp.argsort(value)  # the worst state first
    sorted_transition, sorted_value = transition[..., order], value[order]
    # probability mass is moved to the best state, from the worst states first
    moved = jnp.minimum(distance / 2.0, 1.0 - sorted_transition[..., -1])
    removable = sorted_transition.at[..., -1].set(0.0)
    before = jnp.cumsum(removable, -1) - removable
    removed = jnp.clip(moved[..., None] - before, 0.0, removable)
    return (sorted_transition - removed) @ sorted_value + moved * sorted_value[-1]
