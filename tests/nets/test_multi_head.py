"""Multi-head networks: a shared trunk that does not read the task ID, and a head for each task."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets, tasks
from jaxmeta.types import Continuous, Discrete, MultiDiscrete, Spec

KEY = jax.random.key(0)
ACTIONS = [Discrete(3), MultiDiscrete((2, 3)), Continuous(2)]


def inputs_of(spec, obs):
    return spec.example_input().replace(obs=obs)


def moved(params):
    """Params away from their initial values, where values are zero and heads are almost alike."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([leaf + jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


def single(params, index):
    """The params of `actor_critic` with one of the heads."""
    own = params["params"]
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[index], tree)  # noqa: E731
    return {
        "params": {
            "MLP_0": own["trunk_policy"],
            "_ActionHead_0": pick(own["heads_policy"]),
            "MLP_1": own["trunk_value"],
            "Dense_0": pick(own["heads_value"]),
        }
    }


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_each_head_on_the_trunk_is_the_network_without_heads(action, num_tasks):
    options = {"hidden": (4, 5), "init_log_std": -0.5, "action_scale": 0.1}
    spec, own = Spec((2 + num_tasks,), action, 4), Spec((2,), action, 4)
    network, alone = nets.multi_head(spec, num_tasks, **options), nets.actor_critic(own, **options, value=True)
    params, obs = moved(network.init(KEY)), jnp.array([0.3, -0.7])
    for index in range(num_tasks):

        def weighed(params, network, spec, obs):
            output = network.apply(params, (), inputs_of(spec, obs))[1]
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(output)), output

        marked = jnp.concatenate([obs, jax.nn.one_hot(index, num_tasks)])
        gradient, output = jax.grad(weighed, has_aux=True)(params, network, spec, marked)
        expected = jax.grad(weighed, has_aux=True)(single(params, index), alone, own, obs)
        chex.assert_trees_all_close((single(gradient, index), output), expected, rtol=1e-5, atol=1e-6)
        # the heads of the other tasks have no gradient
        others = [leaf for other in range(num_tasks) if other != index for leaf in heads(gradient, other)]
        assert not any(leaf.any() for leaf in others)


def heads(params, index):
    return [
        leaf[index] for name, part in params["params"].items() if nets.HEADS in name for leaf in jax.tree.leaves(part)
    ]


def test_heads_start_apart_and_values_at_zero():
    spec = Spec((2 + 3,), Discrete(3), 4)
    params = nets.multi_head(spec, 3, (4,)).init(KEY)["params"]
    kernel = params["heads_policy"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 4, 3) and not np.array_equal(kernel[0], kernel[1])
    assert not params["heads_value"]["kernel"].any()


def test_the_task_id_of_a_dict_chooses_the_head_and_the_encoder_does_not_mix_it():
    family = tasks.with_task_id(tasks.classic_control())
    spec = family.env.spec
    network = nets.multi_head(spec, 2, (4,))
    params = moved(network.init(KEY))
    # the padded observation alone reaches the trunk, whatever the order of the keys
    assert params["network"]["params"]["trunk_policy"]["Dense_0"]["kernel"].shape == (6, 4)
    _, obs = family.env.reset(KEY, jax.tree.map(lambda leaf: leaf[1], family.train_tasks))
    _, first = network.apply(params, (), inputs_of(spec, obs | {"task_id": jnp.array([1.0, 0.0])}))
    _, second = network.apply(params, (), inputs_of(spec, obs))
    assert not np.allclose(first.dist, second.dist) and not np.allclose(first.value, second.value)


@pytest.mark.parametrize(
    "observation", [(3,), {"obs": (4,), "other": (3,)}, jax.ShapeDtypeStruct((8, 8, 3), jnp.uint8)], ids=str
)
def test_an_observation_without_a_task_id_is_refused_in_one_line(observation):
    with pytest.raises(ValueError, match="a multi-head network needs the one-hot ID of 3 tasks") as found:
        nets.multi_head(Spec(observation, Discrete(2), 4), 3)
    assert "\n" not in str(found.value)
