"""What tells MAML's relatives from MAML: which params move in an adaptation, and what the outer loop adds."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer, rl
from jaxmeta.algos.gradient.gradient_steps import OuterLoopConfig
from jaxmeta.algos.gradient.update_rule import FIXED, LEARNED
from jaxmeta.core import guard
from jaxmeta.core.rollout import collect
from jaxmeta.experiment import registry
from jaxmeta.outer.kl_penalty import RANGE, adapted_weights
from tests import tiny

FAMILY = tiny.family()
SIZES = {"num_tasks": 2, "streams": 8, "hidden": (4,)}
KEY = jax.random.key(0)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def before_and_after(meta, change=lambda params: params):
    """Adapts once; returns the learned params and the policy's before and after."""
    params = change(meta.learner.init(KEY))

    @jax.jit
    def adapt(params):
        fast = meta.learner.start(params, KEY)
        experience = jm.rollout(meta.learner, params, fast, FAMILY.env, FAMILY.sample(KEY), KEY, streams=8)
        return fast.policy, meta.learner.adapt(params, fast, experience, KEY).policy

    return params, *adapt(params)


@pytest.fixture(scope="module")
def maml():
    return before_and_after(jm.maml(FAMILY, jm.MAMLConfig(**SIZES)))


@pytest.fixture(scope="module")
def trials():
    meta = jm.maml(FAMILY, jm.MAMLConfig(**SIZES))
    params = meta.learner.init(KEY)
    tasks = jax.vmap(FAMILY.sample)(jax.random.split(KEY, 2))
    run = jax.vmap(lambda task, key: collect(meta.learner, params, FAMILY.env, task, key, meta.plan))
    return meta.learner, params, jax.jit(run)(tasks, jax.random.split(KEY, 2))


def test_meta_sgd_begins_as_maml(maml):
    params, _, adapted = before_and_after(jm.meta_sgd(FAMILY, jm.MetaSGDConfig(**SIZES)))
    chex.assert_trees_all_close(adapted, maml[2], rtol=1e-6)
    np.testing.assert_allclose(flat(params.updater), 0.1)


# tests/inner/test_learned.py looks at the others
@pytest.mark.parametrize("name", ["block-diagonal", *map(tiny.slow, ("kronecker", "recurrent"))])
def test_every_learned_rule_begins_as_maml_and_is_learned(name, maml):
    meta = jm.maml(FAMILY, jm.MAMLConfig(**SIZES, inner_optimizer=name, outer_loop="vpg"))
    _, _, adapted = before_and_after(meta)
    chex.assert_trees_all_close(adapted, maml[2], rtol=1e-4, atol=1e-6)
    start = jm.init_state(meta, KEY)
    state, _ = jax.jit(meta.update)(start)
    moved = flat(jax.tree.map(jnp.subtract, state.params.updater, start.params.updater))
    assert np.isfinite(moved).all() and np.abs(moved).max() > 1e-4


@pytest.mark.parametrize("name", [name for name in (*FIXED, *LEARNED) if name != "adam"])
def test_steps_after_the_first_are_scaled_whatever_the_rule(name):
    rule = jm.MAMLConfig(inner_lr=0.2, inner_optimizer=name, later_lr_scale=0.5).rule()
    params = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    tx = rule.tx(rule.init(KEY, params))
    state, steps = tx.init(params), []
    for _ in range(3):
        step, state = tx.update(params, state, params)
        steps.append(step)
    for step, size in zip(steps, (0.2, 0.1, 0.1), strict=True):
        chex.assert_trees_all_close(step, jax.tree.map(lambda leaf, size=size: -size * leaf, params), rtol=1e-5)


@pytest.mark.parametrize("backward", [tiny.slow("rematerialised"), "mixed"])
def test_meta_gradients_that_need_less_memory_are_the_same(backward, trials):
    learner, params, both = trials
    config = jm.MAMLConfig(**SIZES, backward=backward, outer_loop="ppo")
    found, expected = (
        jax.jit(jax.grad(outer.meta_loss(agent, rl.ratio, rl.linear_baseline())))(params, both)
        for agent in (jm.maml(FAMILY, config).learner, learner)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_a_baseline_advantages_are_the_returns(trials):
    _, _, both = trials
    last = _first(_first(both.rounds))
    found = jm.MAMLConfig(baseline="none", discount=0.9).advantage()(last)
    chex.assert_trees_all_equal(found, rl.plain_returns(0.9)(last))
    assert jnp.abs(found.advantage - jm.MAMLConfig(discount=0.9).advantage()(last).advantage).max() > 0.1


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_a_large_kl_penalty_keeps_the_unadapted_policy(weight):
    """Of the steps of an update the first is free, as nothing has moved yet; a heavy penalty takes the others back."""
    ppo = outer.PenalisedConfig(kl_target=0.01, kl_weight=weight, epochs=30, learning_rate=1e-2, clip=None)
    meta = jm.promp(FAMILY, jm.ProMPConfig(**SIZES, ppo=ppo))
    _, metrics = jax.jit(meta.update)(jm.init_state(meta, KEY))
    assert metrics["kl_weight/round_0"] == np.float32(weight)
    assert (metrics["kl/round_0"] < 1e-3) == (weight > 1.0), metrics["kl/round_0"]


@pytest.mark.parametrize("recipe", [jm.fomaml, jm.promp, jm.e_maml])
def test_relatives_of_maml_adapt_like_maml(recipe, maml):
    """All inner losses have the same first derivative; what differs is what the outer loop sees and does."""
    config = {jm.fomaml: jm.FOMAMLConfig, jm.promp: jm.ProMPConfig, jm.e_maml: jm.EMAMLConfig}[recipe]
    chex.assert_trees_all_close(before_and_after(recipe(FAMILY, config(**SIZES)))[2], maml[2], rtol=1e-4, atol=1e-6)


def test_anil_adapts_the_head_alone(maml):
    _, before, after = before_and_after(jm.anil(FAMILY, jm.ANILConfig(**SIZES)))
    before, after, whole = (tree["params"] for tree in (before, after, maml[2]))
    chex.assert_trees_all_equal(after["MLP_0"], before["MLP_0"])
    chex.assert_trees_all_equal(after["_ActionHead_0"], whole["_ActionHead_0"])
    assert np.abs(flat(after["_ActionHead_0"]) - flat(before["_ActionHead_0"])).max() > 1e-3


def test_cavia_adapts_a_context_that_every_task_begins_at_zero():
    meta = jm.cavia(FAMILY, jm.CAVIAConfig(**SIZES, context=3))

    def drifted(params):
        return params.replace(policy=params.policy | {"context": jnp.ones(3)})

    _, before, after = before_and_after(meta, drifted)
    np.testing.assert_array_equal(before["context"], 0.0)
    assert np.abs(after["context"]).min() > 0
    chex.assert_trees_all_equal(after["network"], before["network"])


def test_meta_training_leaves_the_context_alone():
    meta = tiny.algo("cavia")
    state, _ = jax.jit(meta.update)(jm.init_state(meta, KEY))
    np.testing.assert_array_equal(state.params.policy["context"], 0.0)


def batch_of(trials, weight=None):
    size = len(trials.rounds.reward)
    return outer.Batch(trials, jax.random.split(KEY, size), jnp.ones(size) if weight is None else weight)


def credit_of(credit, trials, weight=None):
    return jax.jit(credit)(trials, batch_of(trials, weight).weight)


@pytest.mark.parametrize("nonfinite", [False, True])
def test_unbiased_credit_is_the_distance_from_the_other_tasks(trials, nonfinite):
    _, _, both = trials
    trials = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), both)
    # the third pays more, in its last round
    trials = trials.replace(rounds=trials.rounds.replace(reward=trials.rounds.reward.at[2, -1, 0].add(1.0)))
    returns = np.asarray(trials.rounds.reward[:, -1].sum(1).mean(1))
    left_out = jnp.array([False, nonfinite, False])
    credit = outer.unbiased_credit(rl.plain_returns(), 0.5, num_tasks=3)
    got = credit_of(credit, guard.empty(trials, left_out), 1.0 - left_out)
    others = [[1, 2], [0, 2], [0, 1]] if not nonfinite else [[2], [0], [0]]
    for index in (0, 2):
        found = got["sampling_correction"] * (returns[index] - got["return_baseline"])
        np.testing.assert_allclose(found, 0.5 * (returns[index] - returns[others[index]].mean()), rtol=1e-4, atol=1e-5)


def test_the_credit_has_the_unit_of_the_advantages(trials):
    _, _, both = trials
    standardised, plain = (
        credit_of(jm.EMAMLConfig(num_tasks=2, streams=8, sampling_weight=4.0, baseline=baseline).credit(), both)
        for baseline in ("linear", "none")
    )
    assert plain["sampling_correction"] == 0.5 * 2 / (2 - 1)
    assert abs(standardised["sampling_correction"] - 1.0) > 0.05


def test_credit_is_standardised_over_the_tasks(trials):
    _, _, both = trials
    returns = np.asarray(both.rounds.reward[:, -1].sum(1).mean(1))

    got = credit_of(outer.standardized_credit(rl.plain_returns(), 0.5), both)
    np.testing.assert_allclose(got["return_baseline"], returns.mean(), rtol=1e-6)
    np.testing.assert_allclose(got["sampling_correction"], 0.5 / returns.std(), rtol=1e-5)


def test_kl_penalty_is_on_the_unadapted_policy(trials):
    learner, params, both = trials

    @jax.jit
    def loss(params, weight):
        return outer.meta_loss(learner, rl.ratio, rl.plain_returns(), kl_weights=weight[None])(params, both)

    near = jax.tree.map(lambda leaf: leaf + 0.1, params)
    penalty = [loss(at, jnp.array(3.0)) - loss(at, jnp.array(0.0)) for at in (params, near)]
    np.testing.assert_allclose(penalty[0], 0.0, atol=1e-6)

    def divergence(trial):
        first = _first(trial.rounds)
        output = jm.unroll(learner, near, learner.start(near, KEY), first)
        moved = learner.head(first.output).kl_divergence(learner.head(output))
        return rl.masked_mean(moved, first.valid)

    np.testing.assert_allclose(penalty[1], 3.0 * np.mean(jax.jit(jax.vmap(divergence))(both)), rtol=1e-4)


def test_weights_of_the_penalty_follow_the_target():
    config = outer.PenalisedConfig(kl_target=0.01, kl_weight=1e-3)
    moved = jnp.array([0.016, 0.014, 0.007, 0.006])
    weights = adapted_weights(jnp.full(4, 1e-3), moved, config)
    np.testing.assert_allclose(weights, [2e-3, 1e-3, 1e-3, 5e-4], rtol=1e-6)
    for _ in range(50):
        weights = adapted_weights(weights, jnp.array([1.0, 1.0, 0.0, 0.0]), config)
    np.testing.assert_allclose(weights, 1e-3 * np.array([RANGE, RANGE, 1 / RANGE, 1 / RANGE]), rtol=1e-6)


@pytest.fixture(scope="module")
def four(trials):
    """Four trials, the last of which pays what is no number; their gradients' lengths, and a bound among them."""
    learner, params, both = trials
    four = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), both)
    four = four.replace(rounds=four.rounds.replace(reward=four.rounds.reward.at[3].set(jnp.nan)))
    loss = outer.trial_loss(learner, rl.ratio, rl.linear_baseline())
    gradient = jax.jit(jax.vmap(jax.grad(lambda params, trial: loss(params, trial)[0]), (None, 0)))(params, four)
    lengths = np.asarray(jax.vmap(optax.global_norm)(gradient))
    return four, gradient, lengths, float((lengths[0] + lengths[1]) / 2)


@pytest.mark.parametrize("piece", [None, 2])
def test_tasks_with_large_or_nonfinite_gradients_are_masked_and_counted(trials, four, piece):
    learner, params, _ = trials
    four, gradient, lengths, bound = four
    loss = outer.trial_loss(learner, rl.ratio, rl.linear_baseline())
    kept = lengths <= bound
    assert kept.sum() in (1, 2) and not kept[3]
    found = jax.jit(
        lambda batch: outer.masked(bound)(lambda params, trial, key: loss(params, trial), params, batch, piece)
    )(batch_of(four))
    np.testing.assert_array_equal(found.weight, kept)
    expected = jax.tree.map(lambda leaf: np.mean(np.asarray(leaf)[kept], 0), gradient)
    np.testing.assert_allclose(flat(found.gradient), flat(expected), rtol=1e-4, atol=1e-6)
    chex.assert_tree_all_finite(found)
    np.testing.assert_allclose(found.metrics["masked_tasks"], 1 - kept.mean())
    assert found.metrics["nonfinite_tasks/gradient"] == 1.0


@pytest.mark.parametrize("loop", [tiny.slow("trpo"), "ppo"])
def test_a_masked_update_equals_one_on_the_remaining_tasks(trials, four, loop):
    """Neither a step nor what decides on it sees the others, whatever numbers they hold."""
    learner, params, _ = trials
    four, _, lengths, bound = four
    kept = lengths <= bound
    finite = jax.tree.map(lambda leaf: leaf[kept], four)

    def improve(aggregate):
        if loop == "trpo":
            return outer.trust_region(learner, rl.linear_baseline(), tiny.TRPO, aggregate=aggregate)
        config = outer.PolicyGradientConfig(epochs=1, clip=None)
        return outer.policy_gradient(learner, rl.linear_baseline(), config, aggregate=aggregate)

    ways = []
    for aggregate, some in ((outer.masked(bound), four), (outer.mean(), finite)):
        loop_of = improve(aggregate)
        after, _, metrics = jax.jit(loop_of.step)(params, loop_of.init(params), batch_of(some), jnp.int32(0))
        chex.assert_tree_all_finite((after, metrics))
        ways.append(flat(after) - flat(params))
    assert np.abs(ways[1]).max() > 1e-4
    np.testing.assert_allclose(ways[0], ways[1], rtol=1e-3, atol=1e-3 * np.abs(ways[1]).max())


@pytest.mark.parametrize("loop", ["trpo", "ppo"])
def test_masking_norm_includes_the_credit(trials, loop):
    learner, params, both = trials
    advantage = rl.plain_returns()
    credit = outer.unbiased_credit(advantage, 1e3, num_tasks=2)
    options = credit_of(credit, both)

    def lengths(**options):
        gradient = jax.grad(outer.trial_loss(learner, rl.ratio, advantage, **options), has_aux=True)
        return jax.jit(jax.vmap(lambda trial: optax.global_norm(gradient(params, trial)[0])))(both)

    whole = lengths(**options)
    bound = float(whole.mean())
    assert (lengths() < bound).all()  # without their credit none would be too long
    told = {"credit": credit, "aggregate": outer.masked(bound)}
    if loop == "trpo":
        improve = outer.trust_region(learner, advantage, tiny.TRPO, **told)
    else:
        improve = outer.policy_gradient(learner, advantage, outer.PolicyGradientConfig(epochs=1, clip=None), **told)
    *_, metrics = jax.jit(improve.step)(params, improve.init(params), batch_of(both), jnp.int32(0))
    assert metrics["masked_tasks"] == 1 - np.mean(whole <= bound) == 0.5


def test_a_masked_trial_has_no_loss_and_no_gradient(trials):
    learner, params, both = trials
    loss = outer.trial_loss(learner, rl.ratio, rl.linear_baseline())
    value_and_grad = jax.jit(jax.value_and_grad(lambda trial, params: loss(params, trial)[0], argnums=1))
    broken = both.replace(rounds=both.rounds.replace(reward=both.rounds.reward.at[1].set(jnp.nan)))
    guarded = guard.empty(broken, jnp.array([False, True]))
    one, other = (jax.tree.map(lambda leaf, index=index: leaf[index], guarded) for index in (0, 1))
    chex.assert_trees_all_equal(value_and_grad(one, params), value_and_grad(_first(both), params))
    value, gradient = value_and_grad(other, params)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(flat(gradient), 0.0)


@pytest.mark.parametrize("options", [{"inner_optimizer": "adam"}, {"max_inner_step": 1e-3}, {"dice_decay": 0.5}])
def test_meta_gradients_are_finite_without_rewards(options, trials):
    _, _, both = trials
    config = jm.MAMLConfig(**SIZES, inner_objective="dice", **options)
    meta = jm.maml(FAMILY, config)
    params = meta.learner.init(KEY)
    silent = both.replace(rounds=both.rounds.replace(reward=jnp.zeros_like(both.rounds.reward)))
    loss = outer.trial_loss(meta.learner, rl.ratio, rl.linear_baseline())
    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(params, _first(silent))
    assert np.isfinite(flat(gradient)).all()
    assert metrics.get("bounded_steps", 0.0) == 0.0


def test_log_has_the_share_of_clipped_steps():
    meta = jm.maml(FAMILY, jm.MAMLConfig(**SIZES, max_inner_step=1e-3, outer_loop="vpg"))
    _, metrics = jax.jit(meta.update)(jm.init_state(meta, KEY))
    assert metrics["bounded_steps"] == 1.0


RULES = {
    **{name: (name, {}) for name, config in tiny.ALGOS.items() if isinstance(config, OuterLoopConfig)},
    **{f"maml-{rule}": ("maml", {"inner_optimizer": rule}) for rule in (*FIXED, *LEARNED)},
    "maml-rematerialised": ("maml", {"backward": "rematerialised"}),
}
LOOPS = [(loop, rule) for loop in ("trpo", "ppo", "vpg") for rule in RULES]
LOOPS += [("promp", f"maml-{rule}") for rule in (*FIXED, *LEARNED)]


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "rule"), LOOPS)
def test_every_outer_loop_moves_every_inner_rule(loop, rule):
    name, changes = RULES[rule]
    changes = changes | {"trpo": tiny.TRPO} | ({"outer_loop": loop} if loop != "promp" else {})
    name = name if loop != "promp" else "promp"
    factory, _ = registry.ALGOS[name].load()
    meta = factory(FAMILY, dataclasses.replace(tiny.ALGOS[name], **changes))
    start = meta.init(KEY)
    state, metrics = jax.jit(meta.update)(start)
    moved = flat(jax.tree.map(jnp.subtract, state.params, start.params))
    assert np.isfinite(moved).all() and np.abs(moved).max() > 0
    assert all(jnp.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_inner_step", 0.0), ("max_task_gradient", -1.0), ("dice_decay", 2.0)],
)
def test_bad_configs_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value};"):
        jm.MAMLConfig(**{field: value})


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (jm.MetaSGDConfig, {"inner_optimizer": "adam"}, "inner_optimizer is 'adam'; it must be one of per-parameter"),
        (jm.ProMPConfig, {"rounds": 0}, "rounds is 0; it must be at least 1"),
        (jm.MAMLConfig, {"inner_optimizer": "rmsprop"}, "inner_optimizer is 'rmsprop'; it must be one of sgd, adam"),
        (jm.MAMLConfig, {"dice_decay": 0.5}, "dice_decay is 0.5; it needs inner_objective dice"),
        (jm.EMAMLConfig, {"inner_objective": "dice"}, "inner_objective is 'dice'; it must be one of log_prob"),
        (jm.EMAMLConfig, {"sampling_weight": 0.0}, "sampling_weight is 0.0; it must be positive"),
        (jm.MAMLConfig, {"backward": "mixed"}, "backward is 'mixed'; trpo .*try rematerialised"),
        (jm.MAMLConfig, {"baseline": "none", "trace": 0.9}, "trace is 0.9; with baseline none it must be 1"),
        (outer.PenalisedConfig, {"epochs": 1}, "epochs is 1; .* at least 2"),
        (jm.ReptileConfig, {"inner_optimizer": "kronecker"}, "inner_optimizer is 'kronecker'; .* one of sgd, adam"),
        (jm.IMAMLConfig, {"inner_optimizer": "recurrent"}, "inner_optimizer is 'recurrent'; .* one of sgd, adam"),
        (jm.FewShotIMAMLConfig, {"later_lr_scale": 0.5}, "later_lr_scale is 0.5; .* it must be 1"),
        (jm.EMAMLConfig, {"num_tasks": 1}, "num_tasks is 1; the credit is standardised over tasks"),
        (jm.IMAMLConfig, {"inner_objective": "dice"}, "inner_objective is 'dice'; .* one of ratio, log_prob"),
        (jm.MAMLConfig, {"activation": "gelu"}, "activation is 'gelu'; it must be one of"),
        (jm.FewShotMAMLConfig, {"activation": "gelu"}, "activation is 'gelu'; it must be one of"),
    ],
)
def test_fields_without_effect_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"trpo": outer.TrustRegionCriticConfig()}, "a TrustRegionConfig"),
        ({"ppo": outer.ActorCriticConfig()}, "a PolicyGradientConfig"),
        ({"ppo": outer.PenalisedConfig()}, "a PolicyGradientConfig"),
    ],
)
def test_a_policy_without_values_takes_no_config_of_values_or_penalties(fields, right):
    with pytest.raises(TypeError, match=f"it must be {right}"):
        jm.MAMLConfig(**fields)


@pytest.mark.parametrize(
    ("family", "config", "right"),
    [(tiny.waves(), jm.MAMLConfig(), "FewShotMAMLConfig"), (FAMILY, jm.FewShotMAMLConfig(), "MAMLConfig")],
)
def test_the_config_of_other_tasks_is_refused(family, config, right):
    with pytest.raises(ValueError, match=f"config is a {type(config).__name__}; on tasks of .* it must be a {right}"):
        jm.maml(family, config)
