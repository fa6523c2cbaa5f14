from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks
from jaxmeta.algos.memory.whole_trials import _effective_length


def test_the_effective_length_is_the_return_of_a_trial_that_pays_one_a_step():
    for discount, length in ((0.9, 7), (0.5, 1), (1.0, 12), (0.0, 5)):
        assert _effective_length(discount, length) == pytest.approx(sum(discount**step for step in range(length)))


@pytest.mark.parametrize("pulls", [2, 8])
def test_the_weight_of_values_means_the_same_for_short_and_long_trials(pulls):
    """With every reward 1, values of zero are wrong by the length of the rest, in its own units by the same."""

    def certain(key):
        return tasks.BanditTask(probability=jnp.ones(2))

    family = tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=pulls))._replace(sample=certain)
    ppo = outer.ActorCriticConfig(epochs=1, value_weight=1.0, max_grad_norm=1e6, learning_rate=1e-3)
    config = jm.RL2Config(num_tasks=4, hidden=4, discount=1.0, trace=1.0, separate_value=False, ppo=ppo)
    heads = {}
    for weight in (1.0, 0.0):
        meta = jm.rl2(family, dataclasses.replace(config, ppo=dataclasses.replace(ppo, value_weight=weight)))
        state, _ = jax.jit(meta.update)(meta.init(jax.random.key(0)))
        (adam,) = [
            leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(leaf, "mu")
        ]
        heads[weight] = [leaf for path, leaf in jax.tree.leaves_with_path(adam.mu) if leaf.shape == (1,)]
    (gradient,) = 10.0 * np.concatenate(heads[1.0])  # Adam's first moment is a tenth of the gradient
    assert heads[0.0][0] == 0.0
    # d/db of the mean over t of (b - (pulls - t) / pulls)^2 / 2 at b = 0
    np.testing.assert_allclose(gradient, -np.mean((pulls - np.arange(pulls)) / pulls), rtol=1e-4)


def test_rl2_with_a_trust_region_needs_its_values_fitted():
    with pytest.raises(ValueError, match="value_steps is 0; it must be at least 1"):
        outer.TrustRegionCriticConfig(value_steps=0)
    with pytest.raises(TypeError, match="it must be a TrustRegionCriticConfig"):
        jm.RL2Config(outer_loop="trpo", trpo=outer.TrustRegionConfig(max_kl=0.02))


def shapes_of_snail(pulls, **fields):
    family = tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=pulls))
    meta = jm.snail(family, jm.SNAILConfig(filters=2, tc_blocks=1, key_size=2, value_size=2, **fields))
    return jax.tree.map(jnp.shape, jax.eval_shape(lambda key: meta.init(key).params, jax.random.key(0)))


def test_snail_may_be_built_for_longer_trials_than_its_first():
    shapes = shapes_of_snail
    assert shapes(4, look_back=9) == shapes(9) == shapes(9, look_back=16) != shapes(4)
    assert shapes(4, layers=3) == shapes(9, layers=3) == shapes(8)


def test_snail_has_keys_and_values_for_each_head():
    def projections(heads):
        layers = shapes_of_snail(4, heads=heads)["params"]["_AttentionBlock_0"]
        return {name: layers[name]["kernel"][-1] for name in ("query", "key", "value")}

    assert projections(1) == {"query": 2, "key": 2, "value": 2}
    assert projections(3) == {"query": 6, "key": 6, "value": 6}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("look_back", "look_back is 0; it must be at least 1"),
        ("layers", "layers is 0"),
        ("heads", "heads is 0"),
        ("init_gain", "init_gain is 0"),
    ],
)
def test_snail_refuses_sizes_of_zero(field, message):
    with pytest.raises(ValueError, match=message):
        jm.SNAILConfig(**{field: 0})


@pytest.mark.parametrize(
    ("config", "field"),
    [(jm.RL2Config, "outer_loop"), (jm.MAMLConfig, "outer_loop"), (jm.MAMLConfig, "inner_objective")],
)
def test_a_misspelt_choice_is_refused(config, field):
    with pytest.raises(ValueError, match=f"{field} is 'tpro'; it must be one of"):
        config(**{field: "tpro"})
