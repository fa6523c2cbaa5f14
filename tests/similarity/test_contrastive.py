"""The contrastive loss by hand, and the embedding that it learns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import nets, similarity
from jaxmeta.types import Discrete, Spec
from tests.similarity import bowls

KEY = jax.random.key(0)
SMALL = similarity.ContrastiveConfig(
    size=2, hidden=(8,), num_tasks=8, streams=2, steps=1, epochs=5, minibatches=2, learning_rate=2e-2
)


def test_info_nce_by_hand():
    logits = jnp.array([[2.0, 1.2], [0.0, 1.6]])
    rows = np.log1p(np.exp(1.2 - 2.0)) + np.log1p(np.exp(0.0 - 1.6))
    columns = np.log1p(np.exp(0.0 - 2.0)) + np.log1p(np.exp(1.2 - 1.6))
    np.testing.assert_allclose(similarity.info_nce(logits), (rows + columns) / 4, rtol=1e-6)


def test_views_without_information_cost_the_logarithm_of_the_number_of_tasks():
    np.testing.assert_allclose(similarity.info_nce(jnp.full((5, 5), 7.0)), np.log(5), rtol=1e-6)


def test_a_task_of_weight_zero_is_no_example_and_no_counterexample():
    logits = jax.random.normal(KEY, (4, 4))
    kept = np.array([0, 2, 3])
    broken = logits.at[1].set(jnp.nan).at[:, 1].set(jnp.nan)
    found = similarity.info_nce(broken, jnp.array([1.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, similarity.info_nce(logits[kept][:, kept]), rtol=1e-6)


def test_info_nce_ignores_the_order_of_tasks_and_falls_along_its_gradient():
    logits = jax.random.normal(KEY, (6, 6))
    order = np.array([4, 2, 0, 5, 1, 3])
    loss = similarity.info_nce(logits)
    np.testing.assert_allclose(similarity.info_nce(logits[order][:, order]), loss, rtol=1e-6)
    gradient = jax.grad(similarity.info_nce)(logits)
    step = 1e-1
    fallen = similarity.info_nce(logits - step * gradient) - loss
    np.testing.assert_allclose(fallen, -step * jnp.sum(jnp.square(gradient)), rtol=2e-2)


@pytest.fixture(scope="module")
def meta():
    return similarity.contrastive(bowls.LEARNER, bowls.LEARNER.init(KEY), bowls.FAMILY, SMALL)


def test_training_tells_tasks_apart_and_leaves_the_agent_as_it_is(meta):
    begun = jm.init_state(meta, KEY)
    agent = np.array(begun.params.agent.policy)
    losses = []
    note = lambda update, state, metrics: losses.extend(metrics["loss"])  # noqa: E731
    state = jm.train(meta, begun, 30, chunk=10, callbacks=[note])
    np.testing.assert_array_equal(state.params.agent.policy, agent)
    # there are four tasks in a minibatch
    assert np.mean(losses[-5:]) < 0.5 * np.log(4) < np.mean(losses[:5])
    alike = similarity.learned_embedding(bowls.FAMILY, SMALL, state.params)
    tasks = jnp.array([[2.0, 0.0], [2.0, 0.1], [-2.0, 0.0]])
    rounds = similarity.first_rounds(meta.learner, state.params, bowls.FAMILY.env, tasks, KEY, streams=2)
    found = np.asarray(similarity.matrix(alike, similarity.describe(alike, state.params, rounds, KEY)))
    np.testing.assert_allclose(np.diag(found), 1.0, rtol=1e-5)
    assert found[0, 1] > found[0, 2] and found[0, 1] > found[1, 2]


def rounds_of(spec, length=3, streams=2):
    inputs = spec.example_input()

    def stack(leaf):
        return jnp.broadcast_to(leaf, (length, streams, *leaf.shape))

    made = similarity.common_inputs(spec, jax.tree.map(lambda leaf: stack(leaf)[0], inputs.obs))
    return jax.tree.map(lambda leaf: stack(leaf[0, 0]), made.replace(reset_key=(), output=()))


def test_rounds_of_any_observation_are_embedded_whatever_their_order():
    image = jax.ShapeDtypeStruct((8, 8, 3), jnp.uint8)
    spec = Spec(observation={"image": image, "inventory": (2,)}, action=Discrete(3), horizon=3)
    encoder = nets.round_encoder(spec, size=4, hidden=(5,))
    params = encoder.init(KEY)
    rounds = rounds_of(spec)
    rounds = rounds.replace(reward=jax.random.normal(KEY, (3, 2)), valid=rounds.valid.at[2, 0].set(0.0))
    apply = jax.jit(encoder.apply)
    found = apply(params, rounds)
    assert found.shape == (4,) and np.linalg.norm(found) == pytest.approx(1.0, rel=1e-5)
    turned = jax.tree.map(lambda leaf: leaf[::-1, ::-1], rounds)
    np.testing.assert_allclose(apply(params, turned), found, rtol=1e-4, atol=1e-6)
    # an invalid step has no effect, a valid one has
    np.testing.assert_allclose(apply(params, rounds.replace(reward=rounds.reward.at[2, 0].set(9.0))), found, rtol=1e-5)
    assert np.abs(apply(params, rounds.replace(reward=rounds.reward.at[0, 0].set(9.0))) - found).max() > 1e-3


@pytest.mark.slow
def test_the_outer_loop_keeps_its_contract(meta):
    jm.testing.check_algo(meta)


def test_configs_are_refused_in_one_line():
    for changes, message in (
        ({"streams": 1}, "streams is 1; the two halves of a round need at least 2 streams"),
        ({"minibatches": 3}, "minibatches is 3; it must divide num_tasks, which is 8, into parts of at least 2 tasks"),
        ({"minibatches": 8}, "minibatches is 8; it must divide num_tasks, which is 8, into parts of at least 2 tasks"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be positive"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            dataclasses.replace(SMALL, **changes)
