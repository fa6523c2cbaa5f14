"""Macro-steps: the experience of a policy that chooses among options, each of which acts for several steps.

The step at which an option is chosen is a decision. The agent stores it in `Output.aux`, a `Decision`. The functions
here turn a round of environment steps into a round of decisions, which any estimator, objective or learner takes. In
it, action and output are those of the policy over options; reward, `done`, `terminated`, `success` and `next_obs` are
those of all steps up to the next decision; and the previous action and reward are those of the previous decision.
`reset_key` is unchanged: replace it if the policy over options received other keys.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array, Choice, Discrete, Output, Rollout, Spec


class Decision(struct.PyTreeNode):
    """`Output.aux` of an agent that chooses among options; leaves are [T, E, ...] in a round."""

    choice: Choice
    """What the agent drew: the option that acts, int32, and 1.0 at decisions, where it was chosen, else 0.0. The first
    step of an episode is a decision."""
    output: Output
    """The output of the policy over options; only that at decisions is used."""

    @classmethod
    def of(cls, option: Array, decided: Array, output: Output) -> Decision:
        """Stores an option, whether it was chosen at this step, and the output of the policy over options."""
        return cls(Choice(drawn=(option, decided)), output)

    @property
    def option(self) -> Array:
        return self.choice.drawn[0]

    @property
    def decided(self) -> Array:
        return self.choice.drawn[1]


def macro_spec(spec: Spec, num_options: int, duration: int) -> Spec:
    """Returns the spec of a policy that chooses one of the options every `duration` steps.

    Raises:
      ValueError: if there are fewer than two options, or the duration does not divide the horizon.
    """
    if num_options < 2:
        raise ValueError(f"num_options is {num_options}; a choice needs at least 2 options")
    _check_duration(duration, "horizon", spec.horizon)
    return Spec(
        spec.observation, Discrete(num_options), spec.horizon // duration, spec.terminates, success=spec.success
    )


def macro_steps(experience: Rollout, duration: int, discount: float = 1.0) -> Rollout:
    """Summarises a round with a decision every `duration` steps of an episode, [T, E] to [T / duration, E].

    After an early end the next decision is at the start of the next episode. A macro-step is valid if its first step
    is.

    Args:
      duration: steps per decision; it divides the horizon.
      discount: γ of the rewards within a macro-step, the sum of γ^j r_j; by default their sum. Estimators on the result
        have a discount per macro-step: `discount**duration` is that of the whole return.

    Raises:
      ValueError: if the duration does not divide the length of the round.
    """
    length = experience.reward.shape[0]
    _check_duration(duration, "length of the round", length)
    starts = jnp.arange(length) % duration == 0
    decided = jnp.broadcast_to(starts[:, None], experience.reward.shape).astype(jnp.float32)
    return _decisions(experience, decided, discount, every=duration)


def decision_steps(experience: Rollout, discount: float = 1.0) -> Rollout:
    """Summarises a round with decisions at any steps, as with learned terminations; leaves stay [T, E, ...].

    Only decisions are valid steps. `rl.value_baseline(γ, per_step=True)` discounts a decision that took k steps by γ^k.

    Args:
      discount: γ of the rewards up to the next decision, the sum of γ^j r_j; by default their sum.
    """
    return _decisions(experience, experience.output.aux.decided, discount, every=1)


def _decisions(experience: Rollout, decided: Array, discount: float, every: int) -> Rollout:
    """Summarises the steps from each decision [T, E] to the next; keeps every `every`-th row."""
    decision: Decision = experience.output.aux
    reward, success, last = _sums(experience, decided, discount)

    def first(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[::every], tree)

    valid = first(experience.valid * decided)

    def at_last(tree: Any) -> Any:
        streams = jnp.arange(valid.shape[1])
        return jax.tree.map(lambda leaf: leaf[first(last), streams], tree)

    option, reward = first(decision.option), first(reward) * valid
    before_option, before_reward = _previous(option, reward, valid)
    done, terminated = at_last((experience.done, experience.terminated))
    return experience.replace(
        inputs=first(experience.inputs).replace(prev_action=before_option, prev_reward=before_reward),
        action=option,
        next_obs=at_last(experience.next_obs),
        reward=reward,
        valid=valid,
        done=done * valid,
        terminated=terminated * valid,
        output=first(decision.output),
        success=first(success) & (valid > 0),
        fault=first(experience.fault),
    )


def _sums(experience: Rollout, decided: Array, discount: float) -> tuple[Array, Array, Array]:
    """Summarises, for every step, the steps from it up to the next decision or the end of the episode, [T, E] each.

    Returns:
      The discounted sum of rewards, whether any step is a success, and the index of the last valid step.
    """
    # an episode begins with a decision, so nothing crosses its end
    goes_on = 1.0 - jnp.concatenate([decided[1:], jnp.ones_like(decided[:1])])

    def step(following, moment):
        time, reward, success, valid, goes_on = moment
        later_reward, later_success, later_last = following
        later_last = jnp.where(goes_on > 0, later_last, -1)
        own = jnp.where(valid > 0, time, -1)
        total = (
            reward + discount * goes_on * later_reward,
            success | ((goes_on > 0) & later_success),
            jnp.maximum(own, later_last),
        )
        return total, total

    nothing = jnp.zeros_like(experience.reward[0])
    start = (nothing, nothing > 0, jnp.full(nothing.shape, -1, jnp.int32))
    moments = (jnp.arange(len(decided)), experience.reward, experience.success, experience.valid, goes_on)
    _, (reward, success, last) = jax.lax.scan(step, start, moments, reverse=True)
    return reward, success, jnp.maximum(last, 0)


def _previous(option: Array, reward: Array, valid: Array) -> tuple[Array, Array]:
    """Returns option and reward of the previous valid decision, [T, E] each; zero at the first."""

    def step(before, moment):
        *now, valid = moment
        return jax.tree.map(lambda new, old: jnp.where(valid > 0, new, old), tuple(now), before), before

    start = (jnp.zeros_like(option[0]), jnp.zeros_like(reward[0]))
    return jax.lax.scan(step, start, (option, reward, valid))[1]


def _check_duration(duration: int, name: str, length: int) -> None:
    if duration < 1 or length % duration:
        raise ValueError(f"duration is {duration}; it must be at least 1 and divide the {name}, which is {length}")
