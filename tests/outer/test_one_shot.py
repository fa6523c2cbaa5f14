"""One-shot imitation: support and query are different demonstrations, and meta-training finds the exact step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, outer
from jaxmeta.core.learner import Learner
from jaxmeta.nets import Gaussian, head_for
from jaxmeta.types import Continuous, Output
from tests.inner.test_demonstration import FAMILY, GAIN, LIMIT, PLAN, demonstration, expert, linear
from tests.outer.test_imitation import draw_of


def source_of(family, layout=None, teacher=None):
    fresh = outer.labelled(outer.demonstrating(teacher or expert()), family, PLAN)
    return fresh if layout is None else outer.stored(family, fresh, layout=layout)


def test_the_demonstration_that_is_imitated_is_not_the_one_adapted_to():
    source = source_of(FAMILY)
    draw, keys = draw_of(FAMILY, 3), jax.random.split(jax.random.key(1), 3)
    _, batch, _ = jax.jit(lambda: source.next((), (), draw, (), keys))()
    obs, action = batch.trial.rounds.inputs.obs[..., 0, 0], batch.trial.rounds.action[..., 0, 0]  # [N, 2, T]
    assert (obs[:, 0, 0] != obs[:, 1, 0]).all()
    np.testing.assert_allclose(action, GAIN * (draw.tasks[:, None, None] - obs), rtol=1e-5)  # of the same task
    np.testing.assert_array_equal(batch.label[..., 0, 0], action[:, 1])


def test_the_expert_does_not_adapt_between_demonstrations():
    teacher = expert()
    counting = Learner(
        init=lambda key: (),
        start=lambda params, key: jnp.zeros(()),
        reset=teacher.learner.reset,
        act=lambda params, fast, carry, inputs: (carry, Output(dist=fast[None], value=jnp.zeros(()))),
        adapt=lambda params, fast, experience, key: fast + 1.0,
        head=teacher.learner.head,
    )
    source = source_of(FAMILY, teacher=outer.Expert(counting, ()))
    keys = jax.random.split(jax.random.key(1), 1)
    _, batch, _ = source.next((), (), draw_of(FAMILY, 1), (), keys)
    assert (batch.trial.rounds.action == 0.0).all()


def stored_lines(streams: int, episodes: int = 1) -> jm.Demonstrations:
    """Two tasks, in which the action of stream i is i everywhere."""
    one = jax.tree.map(lambda leaf: jnp.stack([jnp.concatenate([leaf] * episodes)] * 2), demonstration(1.0, 0))
    wide = jax.tree.map(lambda leaf: jnp.repeat(leaf, streams, axis=2), one.replace(reset_key=(), output=()))
    keys = jax.random.split(jax.random.key(0), (2, streams))
    wide = wide.replace(action=jnp.broadcast_to(jnp.arange(streams)[:, None], wide.action.shape), reset_key=keys)
    return jm.Demonstrations.of(wide, FAMILY.env.spec)


def test_stored_demonstrations_are_split_without_overlap():
    source = source_of(FAMILY, outer.support_and_query(streams=2, horizon=4))
    keys = jax.random.split(jax.random.key(2), 20)
    _, batch, _ = source.next((), (), draw_of(FAMILY, 20), stored_lines(5), keys)
    drawn = np.asarray(batch.trial.rounds.action[:, :, 0, :, 0]).reshape(20, 4)  # support, then query
    assert all(len(set(row)) == 4 for row in drawn)
    assert set(drawn.ravel()) == set(range(5))
    np.testing.assert_array_equal(batch.label[:, 0, :, 0], drawn[:, 2:])


@pytest.mark.parametrize(
    ("streams", "episodes", "message"),
    [(1, 1, "1 streams per task; adapting to 1 and imitating 1 others needs 2"), (2, 3, "3 episodes per stream")],
)
def test_too_few_demonstrations_of_a_task_are_refused_in_one_line(streams, episodes, message):
    meta = jm.mil(FAMILY, jm.MILConfig(num_tasks=1, hidden=()), expert=expert())
    state = jm.init_state(meta, jax.random.key(0))
    with pytest.raises(ValueError, match=message) as caught:
        jm.train(meta, state, 1, data=stored_lines(streams, episodes))
    assert "\n" not in str(caught.value)


def test_a_learned_loss_needs_second_derivatives():
    with pytest.raises(ValueError, match="backward is first-order; a learned inner loss"):
        jm.MILConfig(inner_loss="observations", backward="first-order")


def test_meta_training_finds_the_exact_step():
    """From a wrong gain and a wrong step size: a = -k s + b, of which one step on b is exact, with step 1/2."""

    def act(params, fast, carry, inputs):
        loc = params["shift"] - params["gain"] * inputs.obs
        return carry, Output(dist=Gaussian(loc=loc, log_scale=jnp.zeros(1)), value=jnp.zeros(()))

    action = Continuous(1, LIMIT)
    policy = linear()._replace(
        act=act, head=head_for(action), init=lambda key: {"gain": jnp.float32(0.2), "shift": jnp.array([1.0])}
    )
    rule = inner.adapt_only(inner.per_parameter(0.1 * LIMIT**2), "shift")
    learner = inner.descent(policy, inner.cloning_loss(policy, action), rule)
    config = outer.ImitationConfig(learning_rate=0.05, anneal_over=400, max_grad_norm=10.0)
    improve, info = outer.imitate(learner, config), outer.Info(num_tasks=16, plan=PLAN, spread=16)
    meta = outer.meta_update(learner, PLAN, outer.uniform(FAMILY), source_of(FAMILY), improve, info)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 400, chunk=400)
    params = jax.device_get(state.params)
    assert params.policy["gain"] == pytest.approx(GAIN, abs=0.01)
    assert params.updater["shift"][0] / LIMIT**2 == pytest.approx(0.5, abs=0.01)
    fast = learner.adapt(params, learner.start(params, jax.random.key(0)), demonstration(2.0, 3), jax.random.key(0))
    assert fast.policy["shift"][0] == pytest.approx(2.0 * GAIN, abs=0.05)
