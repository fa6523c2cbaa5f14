"""Choices that an agent draws for itself are replayed, not drawn again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxmeta import nets, testing
from jaxmeta.core.learner import Learner
from jaxmeta.types import Choice, Output, Plan
from tests import tiny

OPTIONS = 3
SPEC = tiny.family().env.spec


def output_of(params, option):
    loc = params["means"][option]
    return Output(nets.Gaussian(loc, jnp.zeros_like(loc)), value=jnp.zeros(option.shape), aux=Choice(option))


def act(params, fast, key, inputs):
    """Draws an option at every step; the policy of an option moves in its own direction."""
    key, choice_key = jax.random.split(key)
    return key, output_of(params, jax.random.categorical(choice_key, inputs.obs @ params["master"]))


def unmarked(params, fast, key, inputs):
    key, output = act(params, fast, key, inputs)
    return key, output.replace(aux=output.aux.drawn)


def learner(act=act, unroll=None):
    def init(key):
        master, means = jax.random.normal(key, (2, 2, OPTIONS))
        return {"master": master, "means": means.T}

    return Learner(
        init=init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: key,
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=nets.head_for(SPEC.action),
        unroll=unroll,
    )


def replaying(params, fast, carry, experience):
    return output_of(params, experience.output.aux.drawn)


PLAN = Plan(streams=4)


def test_choices_that_are_replayed_pass():
    testing.check_learner(learner(unroll=replaying), tiny.family(), PLAN)


def test_choices_that_are_drawn_again_are_found():
    """With the params that collected, this replay equals the collection: only other params show the difference."""
    with pytest.raises(testing.ContractError, match=r"other params draws \d+% of Choice.drawn again; Learner.unroll"):
        testing.check_learner(learner(), tiny.family(), PLAN)


def test_a_key_in_the_carry_without_a_stored_choice_is_found():
    with pytest.raises(testing.ContractError, match="the carry has a PRNG key, but Output.aux has no types.Choice"):
        testing.check_learner(learner(unmarked), tiny.family(), PLAN)
