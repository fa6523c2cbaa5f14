from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import devices, nets
from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.types import Continuous, Discrete, Spec

DISCRETE = Spec((2,), Discrete(3), horizon=4)
CONTINUOUS = Spec((2,), Continuous(2), horizon=4)


def test_no_previous_action_differs_from_every_action():
    first = DISCRETE.example_input().replace(first=jnp.ones(()))
    later = [DISCRETE.example_input().replace(prev_action=jnp.array(action)) for action in range(3)]
    codes = [np.asarray(nets.encode_input(inputs, DISCRETE)) for inputs in (first, *later)]
    np.testing.assert_array_equal(codes[0], [0, 0, 0, 0, 0, 0, 0, 1])
    assert len({code[2:5].tobytes() for code in codes}) == 4


def test_recurrent_input_includes_reward_action_and_episode_end():
    inputs = CONTINUOUS.example_input().replace(
        obs=jnp.array([1.0, 2.0]), prev_action=jnp.array([3.0, 4.0]), prev_reward=jnp.array(5.0), prev_done=jnp.ones(())
    )
    np.testing.assert_array_equal(nets.encode_input(inputs, CONTINUOUS), [1, 2, 3, 4, 5, 1, 0])


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("make", [nets.actor_critic, nets.recurrent_actor_critic])
def test_the_initial_policy_hardly_depends_on_the_input(make, spec):
    network = make(spec, hidden=(8,)) if make is nets.actor_critic else make(spec, hidden=8)
    params = network.init(jax.random.key(0))
    _, output = network.apply(params, network.initial_state(), spec.example_input().replace(obs=jnp.full(2, 5.0)))
    distribution = network.head(output)
    if spec is DISCRETE:
        np.testing.assert_allclose(distribution.probs, 1 / 3, atol=0.05)
    else:
        np.testing.assert_allclose(distribution.mean(), 0.0, atol=0.1)
        np.testing.assert_allclose(distribution.stddev(), 1.0)


def test_log_prob_is_summed_over_action_dimensions():
    gaussian = nets.Gaussian(loc=jnp.zeros((5, 2)), log_scale=jnp.zeros((5, 2)))
    output = nets.networks.Output(dist=gaussian, value=jnp.zeros(5))
    log_prob = nets.head_for(Continuous(2))(output).log_prob(jnp.ones((5, 2)))
    np.testing.assert_allclose(log_prob, np.full(5, -1.0 - np.log(2 * np.pi)), rtol=1e-6)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell is 'gruu'; known cells: 'gru', 'lstm', 'associative', 'lru', 'transf"):
        nets.recurrent_actor_critic(DISCRETE, cell="gruu")


def test_initial_values_are_zero():
    network = nets.recurrent_actor_critic(DISCRETE, hidden=8)
    inputs = DISCRETE.example_input().replace(obs=jnp.full(2, 5.0))
    _, output = network.apply(network.init(jax.random.key(0)), network.initial_state(), inputs)
    assert output.value == 0.0


@pytest.mark.parametrize("cell", ["gru", "lru"])
def test_scaling_values_does_not_change_the_policy(cell):
    network = nets.recurrent_actor_critic(DISCRETE, cell, hidden=4)
    plain, scaled = _all_ways(network), _all_ways(nets.scale_value(network, 10.0))
    assert len(plain) == len(scaled) == (2 if cell == "lru" else 1)
    for before, after in zip(plain, scaled, strict=True):
        assert np.abs(before.value).max() > 0.01
        np.testing.assert_allclose(after.value, 10.0 * before.value, rtol=1e-6)
        np.testing.assert_array_equal(after.dist, before.dist)


@pytest.mark.parametrize("cell", ["gru", "lru"])
def test_a_separate_value_shares_nothing_with_the_policy(cell):
    network = nets.separate_value(*[nets.recurrent_actor_critic(DISCRETE, cell, hidden=4)] * 2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0)))

    def say(params):
        inputs = DISCRETE.example_input()
        _, output = network.apply(params, network.initial_state(), inputs)
        if network.values is None:
            return output
        # it acts without values: they are for whole streams
        assert output.value == 0.0
        value = network.values(params, jax.tree.map(lambda leaf: leaf[None, None], inputs), jnp.ones((1, 1)))
        return output.replace(value=value[0, 0])

    by_dist = jax.grad(lambda params: jnp.sum(say(params).dist ** 2))(params)
    by_value = jax.grad(lambda params: say(params).value ** 2)(params)
    for gradient, own, other in ((by_dist, "policy", "value"), (by_value, "value", "policy")):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient[own])) > 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient[other]))
    assert (network.unroll is None) == (network.values is None) == (cell == "gru")


def test_a_separate_value_sees_the_context_too():
    def make(spec):
        return nets.separate_value(*[nets.recurrent_actor_critic(spec, "lru", hidden=4)] * 2)

    network = nets.with_context(make, DISCRETE, 3)
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0)))
    inputs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, 1, *leaf.shape)), DISCRETE.example_input())
    valid = jnp.ones((2, 1))
    context = jnp.broadcast_to(params["context"], (2, 1, 3))
    inside, wider = inputs.replace(obs=jnp.concatenate([inputs.obs, context], -1)), Spec((5,), Discrete(3), horizon=4)
    value = network.values(params, inputs, valid)
    assert np.abs(value).min() > 0.01
    np.testing.assert_array_equal(value, make(wider).values(params["network"], inside, valid))


def _all_ways(network):
    """Returns what a network says at its first step, and in its parallel form if it has one."""
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0)))
    state, inputs = network.initial_state(), DISCRETE.example_input().replace(obs=jnp.ones(2))
    stepped = network.apply(params, state, inputs)[1]
    if network.unroll is None:
        return [stepped]
    stream, carry = jax.tree.map(lambda leaf: leaf[None, None], inputs), jax.tree.map(lambda leaf: leaf[None], state)
    return [stepped, network.unroll(params, carry, stream, jnp.ones((1, 1)))]


@pytest.mark.timeout(120, method="thread")  # what hangs in compiled code hears no signal
def test_orthogonal_initialisation_under_vmap_does_not_serialise():
    init, keys = orthogonal(2.0), jax.random.split(jax.random.key(0), 16)

    def draw(_, keys):
        return devices.task_mean(jnp.mean(jax.vmap(lambda key: init(key, (100, 100)))(keys), 0)), ()

    run = jax.jit(lambda keys: devices.over_tasks(draw, (), keys)[0])
    mesh = devices.Execution(devices=2).mesh(16)
    assert mesh.size == 2
    with jax.set_mesh(mesh):
        for _ in range(5):
            mean = jax.block_until_ready(run(keys))
    each = [np.asarray(init(key, (100, 100))) for key in keys]
    np.testing.assert_allclose(mean, np.mean(each, 0), atol=1e-6)
    np.testing.assert_allclose(each[0] @ each[0].T, 4.0 * np.eye(100), atol=1e-4)
