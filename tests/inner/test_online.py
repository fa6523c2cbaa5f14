"""Models that adapt online: the closed form of x' = x + b a, the memory of a stream, and planning with it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, testing
from jaxmeta.core.rollout import collect, replay
from jaxmeta.references import linear_adaptation as exact
from jaxmeta.tasks.navigation import MAX_MOVE, Navigation
from jaxmeta.types import Plan
from tests import tiny

PAST, FUTURE, STEPS = 8, 5, 32
EVERY = jnp.ones(PAST)


def linear():
    """A model that predicts θ times the input."""
    return nets.Dynamics(
        inputs=1,
        outputs=1,
        init=lambda key: jnp.zeros(()),
        apply=lambda theta, inputs: nets.Prediction(theta * inputs, jnp.zeros_like(inputs)),
        penalty=lambda theta: jnp.zeros(()),
        probabilistic=False,
    )


def stepping(theta, rate):
    """Params of the linear model, and of the step size of its adaptation."""
    return inner.SteppedParams(jnp.float32(theta), jnp.float32(rate))


def window(seed, sign):
    actions, changes = exact.transitions(jax.random.key(seed), sign, PAST + FUTURE)
    return actions[:PAST], changes[:PAST], actions[PAST:], changes[PAST:]


def error(online, params, past, valid, x, y):
    prediction = inner.predict_after(online, params, (*past, valid), x)
    return nets.prediction_error(prediction, y, jnp.ones(len(x)))


SPEC = tiny.family().env.spec
ONLINE = inner.by_gradient(linear(), PAST, inner.per_parameter(0.1))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_step_of_half_the_inverse_mean_square_adapts_exactly(sign):
    x, y, after, changed = window(0, sign)
    square = float(jnp.mean(x**2))
    best = stepping(0.0, exact.best_step(square))
    np.testing.assert_allclose(ONLINE.adapted(best, ONLINE.read(best, x, y, EVERY)), sign, rtol=1e-5)
    assert error(ONLINE, best, (x, y), EVERY, after, changed) < 1e-10
    other = stepping(0.0, 0.7)
    expected = exact.adapted_loss(0.7, past=square, future=float(jnp.mean(after**2)))
    np.testing.assert_allclose(error(ONLINE, other, (x, y), EVERY, after, changed), expected, rtol=1e-5)


def test_without_a_past_the_loss_is_the_mean_square_of_the_actions():
    x, y, after, changed = window(1, -1.0)
    square = exact.unadapted_loss(float(jnp.mean(after**2)))
    best = stepping(0.0, exact.best_step())
    np.testing.assert_allclose(error(ONLINE, best, (x, y), jnp.zeros(PAST), after, changed), square, rtol=1e-5)
    unadapted = inner.by_gradient(linear(), PAST, inner.per_parameter(0.1), steps=0)
    np.testing.assert_allclose(error(unadapted, best, (x, y), EVERY, after, changed), square, rtol=1e-5)


def meta_trained(steps):
    """Follows the window loss of the linear model from θ = 0.9 and a step size of 0.1."""
    config = outer.WindowConfig(past=PAST, future=FUTURE)
    blank = rl.dynamics_statistics(1, 1)
    online = ONLINE if steps else inner.by_gradient(linear(), PAST, inner.per_parameter(0.1), steps=0)
    loss = outer.window_loss(online.dynamics, functools.partial(inner.predict_after, online), blank, config)
    tx = optax.adam(0.02)

    def stream(key):
        sign_key, key = jax.random.split(key)
        x, y = exact.transitions(key, jax.random.rademacher(sign_key, ()), STEPS)
        return jnp.concatenate([x, y, jnp.ones_like(x)], axis=1)

    def step(state, key):
        params, moments = state
        stream_keys, keys = jax.random.split(key, (2, 32))
        mean = lambda params: jax.vmap(lambda a, b: loss(params, stream(a), b)[0])(stream_keys, keys).mean()  # noqa: E731
        change, moments = tx.update(jax.grad(mean)(params), moments, params)
        return (optax.apply_updates(params, change), moments), None

    start = stepping(0.9, 0.1)
    (params, _), _ = jax.jit(lambda keys: jax.lax.scan(step, (start, tx.init(start)), keys))(
        jax.random.split(jax.random.key(0), 600)
    )
    return params


def best_rate():
    """The step size α that minimises E(1 - 2 α m)² over all windows; m is the mean square of n actions, n <= PAST."""
    sizes = np.minimum(np.arange(STEPS - FUTURE + 1), PAST)
    sizes = sizes[sizes > 0]
    mean, square = exact.MEAN_SQUARE, exact.MEAN_SQUARE**2 + (1 / 5 - 1 / 9) / sizes
    return mean * len(sizes) / (2.0 * square.sum())


def test_meta_training_finds_the_prior_and_the_step_that_adapt():
    params = meta_trained(steps=1)
    assert abs(float(params.model)) < 0.1
    np.testing.assert_allclose(params.updater, best_rate(), rtol=0.05)
    assert 0.8 * exact.best_step() < best_rate() < exact.best_step()  # as m varies between windows
    x, y, after, changed = window(2, -1.0)
    assert error(ONLINE, params, (x, y), EVERY, after, changed) < 0.1 * exact.unadapted_loss()


def test_without_an_adaptation_meta_training_ends_at_the_mean_of_the_tasks():
    assert abs(float(meta_trained(steps=0).model)) < 0.1


def gradients():
    return inner.by_gradient(nets.gaussian_dynamics(3, 2, (4,), probabilistic=False), 3, inner.sgd(0.1))


def memories():
    return inner.by_memory(nets.recurrent_dynamics(3, 2, 4, (4,)))


@pytest.mark.parametrize("build", [gradients, memories])
def test_reading_a_window_equals_observing_its_valid_transitions(build):
    online, key = build(), jax.random.key(0)
    last = 3 if build is gradients else 5

    @jax.jit
    def both(key):
        params = online.dynamics.init(key)
        x, y = jax.random.normal(key, (5, 3)), jax.random.normal(key, (5, 2))
        memory = online.start()
        for index in range(5):
            memory = online.observe(params, memory, x[index], y[index])
        # transitions that do not count have no influence, whatever they hold
        ignored = inner.predict_after(online, params, (x, y, jnp.zeros(5)), x).mean
        none = online.dynamics.apply(online.adapted(params, online.start()), x).mean
        return memory, online.read(params, x[-last:], y[-last:], jnp.ones(last)), ignored, none

    observed, read, ignored, none = both(key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), observed, read)
    np.testing.assert_allclose(ignored, none, rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_the_statistics():
    config, key = outer.WindowConfig(past=3, future=2), jax.random.key(0)
    online = gradients()
    params, stream = jax.jit(online.dynamics.init)(key), jax.random.normal(key, (8, 6)).at[:, -1].set(1.0)

    def loss(statistics, params):
        predict = functools.partial(inner.predict_after, online)
        return outer.window_loss(online.dynamics, predict, statistics, config)(params, stream, key)[0]

    statistics = rl.Statistics(jnp.float32(5.0), (jnp.ones(3), jnp.ones(2)), (2.0 * jnp.ones(3), 3.0 * jnp.ones(2)))
    to_statistics, to_params = jax.jit(jax.grad(loss, (0, 1)))(statistics, params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(to_statistics))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(to_params))


def test_the_gradient_of_the_window_loss_goes_through_the_adaptation():
    x, y, after, changed = window(3, 1.0)
    square, future = float(jnp.mean(x**2)), float(jnp.mean(after**2))
    loss = lambda params: error(ONLINE, params, (x, y), EVERY, after, changed)  # noqa: E731
    gradient = jax.grad(loss)(stepping(0.2, 0.5))
    # θ' - 1 = (θ - 1)(1 - 2 α m), so the error is f (θ - 1)² (1 - 2 α m)²
    shrink = 1.0 - 2.0 * 0.5 * square
    np.testing.assert_allclose(gradient.model, 2.0 * future * (0.2 - 1.0) * shrink**2, rtol=1e-4)
    np.testing.assert_allclose(gradient.updater, -4.0 * future * square * (0.2 - 1.0) ** 2 * shrink, rtol=1e-4)


def test_the_epoch_with_the_lowest_held_out_loss_is_kept():
    """A parameter that every epoch moves by 1: the held-out loss is lowest at 2, and then grows."""
    moved = outer.Improve(lambda params: 0.0, lambda params, state, batch, updates: (params + 1.0, state + 1.0, {}))
    batch = outer.Batch((), jax.random.split(jax.random.key(0), 2), jnp.ones(2))
    for held_out, kept, run in (
        (lambda x: jnp.abs(x - 2.2), 2.0, 5.0),
        (None, 7.0, 7.0),
        (lambda x: 0.0 * x, 7.0, 7.0),
    ):
        improve = outer.best_epoch(moved, held_out, epochs=7, patience=3)
        params, steps, metrics = improve.step(jnp.float32(0.0), jnp.float32(0.0), batch, jnp.int32(0))
        assert (float(params), float(steps), float(metrics["epochs"])) == (kept, run, run)


def test_streams_are_either_learned_from_or_held_out():
    family = known_reward()
    config = dataclasses.replace(tiny.ALGOS["grbal"].windows, epochs=2, held_out=0.5, capacity=16)
    dynamics, plan = nets.gaussian_dynamics(4, 2, (4,), probabilistic=False), Plan(streams=16)
    both = outer.stream_rings(SPEC, dynamics, plan, config, 1)
    agent = jm.grbal(family, tiny.ALGOS["grbal"]).learner
    one = lambda key: collect(agent, agent.init(key), family.env, family.sample(key), key, plan)  # noqa: E731
    trials = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 1))
    (rows, kept), (_, held) = (both[name].rows(trials, ()) for name in ("streams", "held-out"))
    np.testing.assert_array_equal(kept + held, jnp.ones((1, 16)))
    assert 0 < held.sum() < 16
    stream = rows[0, 3].reshape(SPEC.horizon, 7)
    moments = trials.rounds
    np.testing.assert_allclose(stream[:, :2], moments.inputs.obs[0, 0, :, 3])
    np.testing.assert_allclose(stream[:, 4:6], (moments.next_obs - moments.inputs.obs)[0, 0, :, 3])
    np.testing.assert_array_equal(stream[:, 6], moments.valid[0, 0, :, 3])


def known_reward():
    """Navigation whose planners know the reward, which depends on the next observation alone."""
    family = tiny.family()
    return family._replace(planning_reward=lambda obs, action, after: -jnp.sum(jnp.square(after)))


@pytest.mark.parametrize("name", ["grbal", tiny.slow("rebal")])
def test_the_memory_is_of_the_dynamics_where_planners_know_the_reward(name):
    meta = tiny.algo(name, known_reward())
    testing.check_learner(meta.learner, known_reward(), meta.plan, remembers="next-obs")


def test_a_trial_replays_as_it_was_collected_and_actions_do_not_follow_changed_params():
    family = known_reward()
    meta = tiny.algo("grbal", family)
    params, task = meta.learner.init(jax.random.key(0)), family.sample(jax.random.key(1))
    run = lambda params: collect(meta.learner, params, family.env, task, jax.random.key(2), Plan(episodes=2))  # noqa: E731
    trial = jax.jit(run)(params)
    again = jax.jit(lambda params, trial: replay(meta.learner, params, trial))(params, trial)
    np.testing.assert_allclose(again.dist, trial.rounds.output.dist, rtol=1e-5, atol=1e-6)
    assert isinstance(family.env, Navigation)


def test_an_agent_that_has_learned_nothing_explores():
    family = known_reward()
    config = dataclasses.replace(tiny.ALGOS["grbal"], explore=1)
    agent, limit = jm.grbal(family, config).learner, MAX_MOVE
    params, run = (
        agent.init(jax.random.key(0)),
        jax.jit(
            lambda params: jm.rollout(
                agent, params, (), family.env, family.sample(jax.random.key(1)), jax.random.key(2), 8
            )
        ),
    )
    explored = run(params)
    assert jnp.abs(explored.action).max() <= limit
    assert explored.action.std() > 0.4 * limit
    np.testing.assert_array_equal(explored.action, explored.output.aux.drawn)
    learned = params.replace(statistics=params.statistics.replace(count=jnp.float32(1e6)))
    assert not np.array_equal(run(learned).action, explored.action)


def test_an_update_moves_the_statistics_once_and_learns_from_what_it_stored():
    family = known_reward()._replace(env=Navigation(horizon=4))
    config = dataclasses.replace(tiny.ALGOS["grbal"], windows=dataclasses.replace(tiny.ALGOS["grbal"].windows, steps=2))
    meta = jm.grbal(family, config)
    start = meta.init(jax.random.key(0))
    state, metrics = jax.jit(meta.update)(start)
    assert state.params.statistics.count == metrics["env_steps"]
    assert sum(state.source["streams"].written) == config.num_tasks
    moved = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), state.params.model, start.params.model)
    assert max(jax.tree.leaves(moved.model)) > 0 and max(jax.tree.leaves(moved.updater)) > 0
    # Adam knows nothing of the statistics
    assert jax.tree.structure(state.opt_state[1][0].mu) == jax.tree.structure(state.params.model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": {"past": 30, "future": 20}}, r"windows.past \+ windows.future is 50; a stream has only"),
        ({"planner": {"horizon": 50}}, "horizon is 50; a plan must not be longer than an episode"),
        ({"windows": {"capacity": 1}}, "windows.capacity is 1; an update collects 2 streams"),
    ],
)
def test_bad_sizes_are_named(change, message):
    config = tiny.ALGOS["grbal"]
    fields = {name: dataclasses.replace(getattr(config, name), **part) for name, part in change.items()}
    with pytest.raises(ValueError, match=message):
        jm.grbal(tiny.family(), dataclasses.replace(config, **fields))


@pytest.mark.parametrize("name", ["grbal", "rebal"])
def test_discrete_actions_need_random_shooting(name):
    bandit = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=2, num_pulls=3))
    with pytest.raises(ValueError, match="planner is 'mppi', which needs real-valued actions"):
        tiny.algo(name, bandit)
