"""Normalisation of observations by running statistics, as a combinator of learners."""

from __future__ import annotations

from jaxmeta.core.learner import Learner, embedded
from jaxmeta.rl import NormalisedParams, initial_statistics, standardised, standardised_rounds
from jaxmeta.types import Input, Spec


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

    def normal_inputs(params: NormalisedParams, inputs: Input) -> Input:
        obs, before = (standardised(params.statistics, obs) for obs in (inputs.obs, inputs.prev_next_obs))
        return inputs.replace(obs=obs, prev_next_obs=before)

    return embedded(
        learner,
        init=lambda key: NormalisedParams(learner.init(key), initial_statistics(spec, last, keys)),
        part=lambda params: params.learner,
        inputs=normal_inputs,
        rounds=lambda params, experience: standardised_rounds(params.statistics, experience),
    )
