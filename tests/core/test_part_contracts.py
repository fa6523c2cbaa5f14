"""The contracts of single parts accept the parts of the package and say in one line what is wrong with others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmeta import devices, inner, nets, outer, testing
from jaxmeta.inner.updaters import Updater
from tests import tiny

FAMILY = tiny.family()
UPDATERS = {
    "sgd": inner.sgd(0.1),
    "adam": inner.adam(0.1),
    "bounded": inner.bounded(inner.sgd(0.1), 0.05),
    "per-parameter": inner.per_parameter(0.1),
    "kronecker": inner.kronecker(0.1),
    "recurrent": inner.recurrent(nets.coordinatewise_lstm((4,)), inner.sgd(0.1)),
    "adapt-only": inner.adapt_only(inner.sgd(0.1), "head"),
}


def says(message, check, *arguments):
    """Checks that a contract is refused in one line."""
    with pytest.raises(testing.ContractError, match=message) as caught:
        check(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", UPDATERS)
def test_updater_holds_the_contract(name):
    testing.check_updater(UPDATERS[name])


def root_of_square(updates, params=None):
    return jax.tree.map(lambda leaf: -0.1 * jnp.sqrt(jnp.square(leaf)), updates)


def growing():
    return optax.GradientTransformation(lambda params: jnp.zeros(1), lambda updates, state, params: (updates, state[0]))


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (optax.stateless(root_of_square), "meta-gradient of the params.* is not finite where the inner gradient is"),
        (growing(), r"the state after updater.tx.update has float32\[\]"),
        (optax.stateless(lambda updates, params: jax.tree.map(jnp.sum, updates)), "the updates of updater.tx has"),
    ],
)
def test_check_updater_says_what_is_wrong(tx, message):
    says(message, testing.check_updater, Updater(lambda key, params: (), lambda psi: tx))


@pytest.mark.parametrize(
    "aggregate",
    [outer.mean(), outer.masked(5.0), outer.combined(lambda gram, key: jnp.full(len(gram), 1.0 / len(gram)))],
    ids=["mean", "masked", "combined"],
)
def test_aggregate_holds_the_contract(aggregate):
    testing.check_aggregate(aggregate)


def of_one_device(loss, params, batch, piece):
    """A mean that forgets the other devices."""
    value, gradient, metrics = outer.per_task(loss, params, batch, piece)
    weighted = lambda leaf: jnp.tensordot(batch.weight, leaf, 1) / jnp.sum(batch.weight)  # noqa: E731
    return outer.Gradient(*jax.tree.map(weighted, (value, gradient, metrics)), batch.weight)


def without_weights(loss, params, batch, piece):
    """A mean over all tasks."""
    found = outer.mean()(loss, params, batch.replace(weight=jnp.ones_like(batch.weight)), piece)
    return found._replace(weight=batch.weight)


def of_zeros(loss, params, batch, piece):
    """A mean that counts a task of weight zero as one whose gradient is zero."""
    value, gradient, metrics = outer.per_task(loss, params, batch, piece)
    mean = lambda leaf: devices.task_mean(jnp.tensordot(batch.weight, leaf, 1) / len(batch.weight))  # noqa: E731
    return outer.Gradient(*jax.tree.map(mean, (value, gradient, metrics)), batch.weight)


def of_each(loss, params, batch, piece):
    """No aggregate at all."""
    value, gradient, metrics = outer.per_task(loss, params, batch, piece)
    return outer.Gradient(value.mean(), gradient, metrics, batch.weight)


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        (of_one_device, "the aggregate on several devices differs from that on one"),
        (without_weights, "the gradient with another task of weight 0 differs from the gradient"),
        (of_zeros, "the gradient with a task of weight 0 differs from that without this task"),
        (of_each, r"the gradient of the aggregate has float32\[4, 2\] at .*; the params has float32\[2\]"),
    ],
)
def test_check_aggregate_says_what_is_wrong(aggregate, message):
    says(message, testing.check_aggregate, aggregate)


@pytest.mark.parametrize("sampler", [outer.uniform(FAMILY), outer.revisit(FAMILY, 8)], ids=["uniform", "revisit"])
def test_sampler_holds_the_contract(sampler):
    testing.check_sampler(sampler, FAMILY)


def remembering(update):
    """A sampler that draws uniformly, and remembers a score."""
    draws = lambda state, params, keys: (state, outer.uniform(FAMILY).sample((), params, keys)[1])  # noqa: E731
    return outer.Sampler(lambda key: jnp.zeros(()), draws, lambda params, trial: trial.rounds.reward.sum(), update)


def test_check_sampler_accepts_state_that_ignores_nonfinite_tasks():
    keep = lambda state, draw, scores, finite: (state + jnp.where(finite, scores, 0.0).sum(), {})  # noqa: E731
    testing.check_sampler(remembering(keep), FAMILY)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            remembering(lambda state, draw, scores, finite: (state + scores.sum(), {})),
            "the sampler's state is not finite after a task that was not finite",
        ),
        (remembering(lambda state, draw, scores, finite: (scores, {})), r"the state after sampler.update has float32"),
        (
            outer.uniform(FAMILY)._replace(score=lambda params, trial: trial.rounds.reward.sum((0, 1))),
            r"sampler.score gives a score of shape \[1\]; the score of a task is a scalar",
        ),
        (
            outer.uniform(FAMILY)._replace(
                sample=lambda state, params, keys: (
                    state,
                    outer.uniform(FAMILY).sample((), params, keys)[1].replace(weight=jnp.ones(())),
                )
            ),
            r"draw.weight has float32\[\]",
        ),
    ],
)
def test_check_sampler_says_what_is_wrong(sampler, message):
    says(message, testing.check_sampler, sampler, FAMILY)
