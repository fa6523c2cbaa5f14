"""Kinds of similarity against closed forms, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, similarity
from jaxmeta.algos.inference import pearl, varibad
from jaxmeta.core.rollout import collect
from jaxmeta.types import Plan
from tests import tiny
from tests.similarity import bowls

KEY = jax.random.key(0)
TASKS = jax.vmap(bowls.sample)(jax.random.split(jax.random.key(1), 5))
PARAMS = bowls.LEARNER.init(jax.random.key(2))
THETA = np.asarray(PARAMS.policy)


@pytest.fixture(scope="module")
def rounds():
    return similarity.first_rounds(bowls.LEARNER, PARAMS, bowls.FAMILY.env, TASKS, KEY, streams=3)


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def tiny_meta_gradients():
    def loss(params, experience, key):
        start = bowls.LEARNER.start(params, key)
        return bowls.loss(bowls.LEARNER.adapt(params, start, experience, key).policy, experience), ()

    return similarity.meta_gradients(loss)


def kinds():
    probe = similarity.common_inputs(bowls.FAMILY.env.spec, jnp.zeros((4, 2)))
    scaled = -bowls.RATE * distances(np.asarray(TASKS)) / np.sqrt(2)
    return {
        "params": (similarity.adapted_params(bowls.LEARNER), scaled),
        "params after two steps": (similarity.adapted_params(bowls.LEARNER, steps=2), scaled * (2 - bowls.RATE)),
        # the outputs are the mean of an action, which is θ, and a deviation, which is the same for all
        "functions": (similarity.adapted_functions(bowls.LEARNER, probe), scaled / np.sqrt(2)),
        "means": (similarity.adapted_functions(bowls.LEARNER, probe, read=lambda output: output.dist.loc), scaled),
        "steps": (similarity.adaptation_steps(bowls.LEARNER), cosines(np.asarray(TASKS) - THETA)),
        # the meta-gradient is (1 - RATE)² (θ - c)
        "meta-gradients": (tiny_meta_gradients(), cosines(np.asarray(TASKS) - THETA)),
    }


@pytest.mark.parametrize("name", kinds())
def test_kinds_have_their_closed_form_on_quadratics(name, rounds):
    kind, expected = kinds()[name]
    descriptions = similarity.describe(kind, PARAMS, rounds, KEY)
    found = np.asarray(similarity.matrix(kind, descriptions))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (found == found.T).all() and (np.diag(found)[:, None] >= found - 1e-6).all()


def test_a_matrix_follows_the_order_of_its_tasks(rounds):
    kind = similarity.adapted_params(bowls.LEARNER)
    descriptions = similarity.describe(kind, PARAMS, rounds, KEY)
    rows, columns = np.array([3, 1, 4, 0, 2]), np.array([2, 0])
    some = similarity.matrix(kind, descriptions[rows], descriptions[columns])
    np.testing.assert_array_equal(some, similarity.matrix(kind, descriptions)[rows][:, columns])


def test_directions_of_tiny_and_huge_steps():
    kind = similarity.meta_gradients(lambda params, data, key: (jnp.sum(params * data), ()))
    for scale in (1e-30, 1e30):
        one = kind.describe(jnp.zeros(2), jnp.array([3.0, 4.0]) * scale, KEY)
        np.testing.assert_allclose(one, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(kind.describe(jnp.zeros(2), jnp.zeros(2), KEY), jnp.zeros(2))


def test_meta_gradients_of_supervised_tasks():
    meta = tiny.supervised("maml")
    params = meta.learner.init(KEY)
    tasks = jax.vmap(tiny.waves().sample)(jax.random.split(KEY, 2))
    loss = outer.query_loss(meta.learner, tiny.waves().env, rounds=1)
    kind = similarity.meta_gradients(loss)
    one = jax.jit(lambda params: similarity.describe(kind, params, tasks, KEY))(params)
    first = jax.tree.map(lambda leaf: leaf[0], tasks)
    gradient = jax.jit(jax.grad(loss, has_aux=True))(params, first, KEY)[0]
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
    np.testing.assert_allclose(one[0], flat / np.linalg.norm(flat), rtol=1e-5, atol=1e-6)


def test_rank_correlation_ignores_the_scale():
    distance = np.array([[0.0, 1.0], [2.0, 5.0]])
    assert similarity.rank_correlation(-(distance**3), distance) == pytest.approx(1.0)
    assert similarity.rank_correlation(distance, distance) == pytest.approx(-1.0)


def test_an_embedding_of_tasks_orders_them_as_the_similarity_does():
    kind = similarity.adaptation_steps(bowls.LEARNER)
    embed = jax.jit(similarity.embedding(kind, bowls.LEARNER, PARAMS, bowls.FAMILY.env, KEY, streams=2))
    points = np.asarray(jax.vmap(embed)(TASKS))
    assert points.shape == (5, 2)
    np.testing.assert_allclose(points[0], embed(TASKS[0]), rtol=1e-5)
    alike = np.asarray(similarity.matrix(kind, points))
    # of vectors of length 1: |a - b|² = 2 - 2 cos
    np.testing.assert_allclose(np.square(distances(points)), 2 - 2 * alike, atol=1e-5)


def test_beliefs_of_pearl_are_the_encoder_s_posterior():
    family, config = tiny.family(), tiny.ALGOS["pearl"]
    learner, encoder = tiny.algo("pearl").learner, pearl.evidence_encoder(tiny.family(), config)
    params = learner.init(KEY)
    tasks = jax.vmap(family.sample)(jax.random.split(KEY, 2))
    rounds = similarity.first_rounds(learner, params, family.env, tasks, KEY, streams=2)
    found = similarity.describe(similarity.beliefs(learner, encoder), params, rounds, KEY)
    first = jax.tree.map(lambda leaf: leaf[0], rounds)
    fast = learner.adapt(params, learner.start(params, KEY), first, KEY)
    belief = encoder.belief(params.encoder, fast.evidence)
    np.testing.assert_allclose(found[0], np.concatenate([belief.mean, np.sqrt(belief.variance)]), rtol=1e-5)
    with pytest.raises(ValueError, match="encoder is a BeliefEncoder; this learner's belief needs a EvidenceEncoder"):
        similarity.beliefs(learner, varibad.belief_model(family, tiny.ALGOS["varibad"])[0])


def test_beliefs_of_varibad_are_those_after_the_last_transition():
    family, config = tiny.family(), tiny.ALGOS["varibad"]
    learner, encoder = tiny.algo("varibad").learner, varibad.belief_model(tiny.family(), config)[0]
    params = learner.init(KEY)
    trial = collect(learner, params, family.env, family.sample(KEY), KEY, Plan(episodes=2))
    first = jax.tree.map(lambda leaf: leaf[0], trial.rounds)
    found = similarity.beliefs(learner, encoder).describe(params, first, KEY)
    # the agent's own belief at the last step lacks one transition
    before = jax.tree.map(lambda leaf: leaf[-1, 0], first.output.aux)
    carry = learner.reset(params, (), KEY)
    for step in range(len(first.reward)):
        carry, _ = learner.act(params, (), carry, jax.tree.map(lambda leaf, step=step: leaf[step, 0], first.inputs))
    np.testing.assert_allclose(carry.posterior.mean, before.mean, rtol=1e-4, atol=1e-6)
    transition = (first.action[-1, 0], first.reward[-1, 0], first.next_obs[-1, 0])
    _, last = encoder.update(params.model.encoder, carry.state, *transition)
    expected = np.concatenate([last.mean, np.exp(0.5 * last.log_var)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["maml", "rl2", "sac"])
def test_an_agent_without_a_belief_is_refused(name):
    encoder = pearl.evidence_encoder(tiny.family(), tiny.ALGOS["pearl"])
    if name == "sac":
        encoder = jm.nets.no_evidence()
    with pytest.raises(ValueError, match=r"^the learner has params of type .* and no belief over a task variable; .*$"):
        similarity.beliefs(tiny.algo(name).learner, encoder)


def test_bad_input_is_refused_in_one_line():
    spec = bowls.FAMILY.env.spec
    with pytest.raises(ValueError, match="the learner adapts nothing between rounds"):
        similarity.adapted_params(bowls.POINT)
    with pytest.raises(ValueError, match="steps is 0; a similarity of adaptations needs at least 1"):
        similarity.adapted_functions(bowls.LEARNER, similarity.common_inputs(spec, jnp.zeros((1, 2))), steps=0)
    with pytest.raises(ValueError, match="tasks is an empty batch"):
        similarity.first_rounds(bowls.LEARNER, PARAMS, bowls.FAMILY.env, TASKS[:0], KEY)
    with pytest.raises(ValueError, match="describes whole trials"):
        similarity.embedding(tiny_meta_gradients(), bowls.LEARNER, PARAMS, bowls.FAMILY.env, KEY)
