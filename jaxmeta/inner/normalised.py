"""Normalisation of observations by running statistics, as a combinator of learners."""

from __future__ import annotations

from typing import Any

from jaxmeta.core.learner import Learner
from jaxmeta.rl import NormalisedParams, initial_statistics, standardised, standardised_rounds
from jaxmeta.types import Carry, Fast, Input, Key, Output, Rollout, Spec


def normalised(learner: Learner, spec: Spec, *, last: int = 0, keys: tuple[str, ...] = ()) -> Learner:
    """Builds an agent whose observations are normalised by statistics in its params.

        agent = inner.normalised(learner, family.env.spec)
        improve = outer.with_statistics(outer.policy_gradient(learner, rl.value_baseline()))

    All functions of the agent inside receive observations with zero mean and unit variance, clipped to ±`rl.CLIP`. The
    statistics are the same for all tasks. Only `outer.with_statistics` changes them: they are constant during a trial
    and in evaluation, an inner loop does not adapt them, and no gradient flows to them.

    Args:
      learner: any agent; it keeps its `fast` and its carry.
      spec: the spaces of the environment. Integer and boolean observations are not normalised.
      last: numbers at the end of a plain observation that are not normalised, such as a one-hot task ID.
      keys: keys of a dict observation that are not normalised.
    """

    def start(params: NormalisedParams, key: Key) -> Fast:
        return learner.start(params.learner, key)

    def reset(params: NormalisedParams, fast: Fast, key: Key) -> Carry:
        return learner.reset(params.learner, fast, key)

    def act(params: NormalisedParams, fast: Fast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        obs, before = (standardised(params.statistics, obs) for obs in (inputs.obs, inputs.prev_next_obs))
        return learner.act(params.learner, fast, carry, inputs.replace(obs=obs, prev_next_obs=before))

    def adapt(params: NormalisedParams, fast: Fast, experience: Rollout, key: Key) -> Fast:
        return learner.adapt(params.learner, fast, standardised_rounds(params.statistics, experience), key)

    def unroll(params: NormalisedParams, fast: Fast, carry: Carry, experience: Rollout) -> Output:
        parallel: Any = learner.unroll
        return parallel(params.learner, fast, carry, standardised_rounds(params.statistics, experience))

    return Learner(
        init=lambda key: NormalisedParams(learner.init(key), initial_statistics(spec, last, keys)),
        start=start,
        reset=reset,
        act=act,
        adapt=adapt,
        head=learner.head,
        unroll=None if learner.unroll is None else unroll,
    )
