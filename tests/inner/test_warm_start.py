"""Warm starts: which known task is chosen, and where the first adaptation ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, similarity
from jaxmeta.core.rollout import collect, replay_fast
from jaxmeta.devices import Execution, everywhere
from jaxmeta.types import Plan
from tests import tiny
from tests.similarity import bowls

KEY = jax.random.key(0)
RATE, ENV = bowls.RATE, bowls.FAMILY.env
KNOWN = jnp.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]])
ZERO = bowls.LEARNER.init(KEY).replace(policy=jnp.zeros(2))
PARAMS = similarity.adapted_params(bowls.LEARNER)
PLAN = Plan(rounds=2)


@pytest.fixture(scope="module")
def library():
    return similarity.library(bowls.LEARNER, ZERO, ENV, KNOWN, KEY, Plan(rounds=1), PARAMS)


@pytest.fixture(scope="module")
def one_entry():
    """A library whose only entry is the learner's own start."""
    start = jax.tree.map(lambda leaf: leaf[None], bowls.LEARNER.start(ZERO, KEY))
    return inner.Library(KNOWN[:1], start, jnp.zeros((1, 2)), PARAMS.name)


def test_a_library_has_the_adapted_state_of_every_task(library):
    np.testing.assert_allclose(library.fast.policy, RATE * KNOWN, rtol=1e-6)
    np.testing.assert_allclose(library.descriptions, RATE * KNOWN, rtol=1e-6)
    assert library.size == 3


def test_the_first_step_starts_from_the_nearest_known_task(library):
    warm = inner.warm_start(bowls.LEARNER, library, PARAMS)
    tasks = KNOWN[jnp.array([2, 0, 1])] + jnp.array([0.3, -0.2])

    @jax.jit
    @jax.vmap
    def trial(task):
        trial = collect(warm, ZERO, ENV, task, KEY, PLAN)
        return trial.rounds.output, replay_fast(warm, ZERO, trial)

    outputs, fast = trial(tasks)
    np.testing.assert_array_equal(fast.entry, [[-1, 2, 2], [-1, 0, 0], [-1, 1, 1]])
    first = (1 - RATE) * RATE * KNOWN[fast.entry[:, 1]] + RATE * tasks
    second = (1 - RATE) * first + RATE * tasks
    np.testing.assert_allclose(fast.fast.policy[:, 0], 0.0)
    np.testing.assert_allclose(fast.fast.policy[:, 1], first, rtol=1e-5)
    np.testing.assert_allclose(fast.fast.policy[:, 2], second, rtol=1e-5)
    # the first round is collected by θ, the others by the adapted policies
    np.testing.assert_allclose(outputs.dist.loc[:, 0], 0.0)
    np.testing.assert_allclose(outputs.dist.loc[:, 1, 0, 0], first, rtol=1e-5)


def test_without_a_first_step_the_first_adaptation_ends_at_the_entry(library):
    warm = inner.warm_start(bowls.LEARNER, library, PARAMS, first_step=False)
    task = KNOWN[1] + 0.3
    fast = jax.jit(lambda: replay_fast(warm, ZERO, collect(warm, ZERO, ENV, task, KEY, PLAN)))()
    np.testing.assert_array_equal(fast.fast.policy[1], library.fast.policy[1])
    np.testing.assert_allclose(fast.fast.policy[2], (1 - RATE) * RATE * KNOWN[1] + RATE * task, rtol=1e-5)


def test_a_library_of_the_start_alone_changes_no_bit(one_entry):
    warm = inner.warm_start(bowls.LEARNER, one_entry, PARAMS)
    trials = [
        jax.jit(lambda key, learner=learner: collect(learner, ZERO, ENV, KNOWN[0] * 0.7, key, PLAN))(KEY)
        for learner in (warm, bowls.LEARNER)
    ]
    for mine, plain in zip(*map(jax.tree.leaves, trials), strict=True):
        assert (mine == plain).all()


def test_an_undefined_similarity_is_never_the_largest(library):
    broken = library.replace(descriptions=library.descriptions.at[0].set(jnp.nan))
    assert int(broken.most_similar(PARAMS, RATE * KNOWN[0])) == 1
    assert int(broken.replace(descriptions=broken.descriptions * jnp.nan).most_similar(PARAMS, KNOWN[0])) == 0


def test_a_library_works_on_any_devices(library):
    two = everywhere(Execution(devices=2).mesh(2))
    params, library = jax.device_put((ZERO, library), two)
    warm = inner.warm_start(bowls.LEARNER, library, PARAMS)
    apart, alone = (
        jm.evaluate(warm, params, bowls.FAMILY, KNOWN[:2], KEY, PLAN, execution=Execution(devices=count)).returns
        for count in (2, 1)
    )
    np.testing.assert_allclose(apart, alone, rtol=1e-5)


def test_a_warm_start_keeps_the_contract_of_learners(library):
    jm.testing.check_learner(inner.warm_start(bowls.LEARNER, library, PARAMS), bowls.FAMILY, Plan(rounds=2, streams=2))


@pytest.mark.slow
def test_a_warm_start_of_maml_keeps_the_contract_of_learners():
    family, meta = tiny.family(), tiny.algo("maml")
    params = meta.learner.init(KEY)
    known = jax.vmap(family.sample)(jax.random.split(KEY, 2))
    alike = similarity.adaptation_steps(meta.learner)
    library = similarity.library(meta.learner, params, family.env, known, KEY, Plan(rounds=1, streams=3), alike)
    jm.testing.check_learner(inner.warm_start(meta.learner, library, alike), family, Plan(rounds=1, streams=3))


def test_supervised_agents_start_warm_and_are_evaluated():
    family, meta = tiny.waves(), tiny.supervised("maml")
    params = meta.learner.init(KEY)
    known = jax.vmap(family.sample)(jax.random.split(KEY, 3))
    alike = similarity.adapted_params(meta.learner)
    library = similarity.library(meta.learner, params, family.env, known, KEY, Plan(rounds=3), alike)
    warm = inner.warm_start(meta.learner, library, alike)
    # on the known tasks themselves, the first adaptation from the library is the fourth from θ
    longer = jm.evaluate(meta.learner, params, family, known, KEY, Plan(rounds=4)).returns
    found = jm.evaluate(warm, params, family, known, KEY, Plan(rounds=1)).returns
    np.testing.assert_allclose(found[:, 0], longer[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], longer[:, 4], rtol=1e-4)


def test_libraries_that_do_not_fit_are_refused_in_one_line(library):
    none = jax.tree.map(lambda leaf: leaf[:0], library)
    with pytest.raises(ValueError, match=r"^library has 0 known tasks; a warm start needs at least 1$"):
        inner.warm_start(bowls.LEARNER, none, PARAMS)
    steps = similarity.adaptation_steps(bowls.LEARNER)
    with pytest.raises(ValueError, match="'adaptation steps'; the library was described by 'adapted params'"):
        inner.warm_start(bowls.LEARNER, library, steps)
    other = tiny.algo("maml").learner
    with pytest.raises(ValueError, match="^an entry of the library has .*; the state of the learner has .*$"):
        inner.warm_start(other, library, similarity.adapted_params(other))
    with pytest.raises(ValueError, match="the learner has no state that adapts between rounds"):
        inner.warm_start(bowls.POINT, library, PARAMS)
    gradients = similarity.meta_gradients(lambda params, data, key: (jnp.zeros(()), ()))
    with pytest.raises(ValueError, match="similarity is 'meta-gradients', which describes whole trials"):
        inner.warm_start(bowls.LEARNER, library, gradients)
    with pytest.raises(ValueError, match=r"plan.rounds is 0; a library needs at least 1 round"):
        similarity.library(bowls.LEARNER, ZERO, ENV, KNOWN, KEY, Plan(), PARAMS)
    wide = library.replace(descriptions=jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"description of the task has float32\[2\] .* has float32\[5\]"):
        warm = inner.warm_start(bowls.LEARNER, wide, PARAMS)
        jax.eval_shape(lambda: collect(warm, ZERO, ENV, KNOWN[0], KEY, PLAN))
