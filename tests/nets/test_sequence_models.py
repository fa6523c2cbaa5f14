"""Sequence models say the same whether they step or unroll, with and without gaps, and never see the future."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmeta import nets
from jaxmeta.nets import blocks
from jaxmeta.nets.attention import read
from jaxmeta.nets.snail import _AttentionBlock, _parallel
from jaxmeta.types import Discrete, Input, Spec

LENGTH, STREAMS = 13, 3
SPEC = Spec((2,), Discrete(3), horizon=LENGTH)
MODELS = {
    "lru": lambda spec: nets.linear_recurrent_actor_critic(spec, hidden=6, parallel=True),
    "lru-sequential": lambda spec: nets.linear_recurrent_actor_critic(spec, hidden=6, parallel=False),
    "associative": lambda spec: nets.associative_actor_critic(spec, hidden=6, heads=2, slots=3, values=4),
    # chunks that do not fill the stream
    "associative-chunks": lambda spec: nets.associative_actor_critic(spec, 6, heads=2, slots=3, values=4, chunk=5),
    "snail": lambda spec: nets.snail_actor_critic(spec, LENGTH, filters=4, key_size=5, value_size=3, readout=(6,)),
    "snail-heads": lambda spec: nets.snail_actor_critic(spec, LENGTH, 4, key_size=5, value_size=3, heads=2),
    # the convolutions see four steps, attention all
    "snail-shallow": lambda spec: nets.snail_actor_critic(spec, LENGTH, 4, key_size=5, value_size=3, layers=2),
    # attention reaches back over fewer steps than there are
    "transformer": lambda spec: nets.transformer_actor_critic(spec, LENGTH, hidden=8, layers=2),
    "s5": lambda spec: nets.s5_actor_critic(spec, hidden=6, parallel=True),
    "s5-sequential": lambda spec: nets.s5_actor_critic(spec, hidden=6, parallel=False),
    "mamba": lambda spec: nets.mamba_actor_critic(spec, hidden=4, states=3, parallel=True),
    "mamba-sequential": lambda spec: nets.mamba_actor_critic(spec, hidden=4, states=3, parallel=False),
    "mlstm": lambda spec: nets.mlstm_actor_critic(spec, hidden=8, heads=2),
    "snail-short": lambda spec: nets.snail_actor_critic(spec, 5, filters=4, key_size=5, value_size=3),
}


def inputs_of(key, length=LENGTH, streams=STREAMS):
    keys = jax.random.split(key, 3)
    shape = (length, streams)
    obs = jax.random.normal(keys[0], (*shape, 2))
    return Input(
        obs=obs,
        prev_action=jax.random.randint(keys[1], shape, 0, 3),
        prev_reward=jax.random.normal(keys[2], shape),
        prev_done=jnp.zeros(shape),
        prev_next_obs=obs,
        first=jnp.zeros(shape).at[0].set(1.0),
    )


def fresh(network, streams=STREAMS):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (streams, *leaf.shape)), network.initial_state())


def stepping(network, params, inputs, valid):
    """What the engine does: an invalid step speaks, and leaves the carry as it was."""

    def step(carry, moment):
        inputs, valid = moment
        following, output = jax.vmap(network.apply, (None, 0, 0))(params, carry, inputs)
        keep = lambda new, old: jnp.where(valid.reshape(-1, *[1] * (new.ndim - 1)) > 0, new, old)  # noqa: E731
        return jax.tree.map(keep, following, carry), output

    return jax.lax.scan(step, fresh(network, valid.shape[1]), (inputs, valid))[1]


@functools.cache
def loud(model):
    """Params, scaled up so that what is said depends much on what was seen."""
    init = MODELS[model](SPEC).init
    return jax.jit(lambda key: jax.tree.map(lambda leaf: 1.5 * leaf + 0.1, init(key)))(jax.random.key(0))


# with gaps it has whole streams too
WHOLE = pytest.param(False, marks=pytest.mark.slow, id="whole")


@pytest.mark.parametrize("gaps", [WHOLE, pytest.param(True, id="gaps")])
@pytest.mark.parametrize("model", MODELS)
def test_stepping_equals_unrolling(model, gaps):
    network = MODELS[model](dataclasses.replace(SPEC, terminates=gaps))
    params, inputs = loud(model), inputs_of(jax.random.key(1))
    valid = jnp.ones((LENGTH, STREAMS))
    if gaps:  # one stream without a gap, one with two, one that has hardly begun
        valid = valid.at[3:6, 1].set(0.0).at[9, 1].set(0.0).at[1:, 2].set(0.0)
    stepped = jax.jit(lambda: stepping(network, params, inputs, valid))()
    unrolled = jax.jit(lambda: network.unroll(params, fresh(network), inputs, valid))()
    assert unrolled.dist.shape == (LENGTH, STREAMS, 3) and unrolled.value.shape == (LENGTH, STREAMS)
    np.testing.assert_allclose(unrolled.dist, stepped.dist, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(unrolled.value, stepped.value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_outputs_depend_on_the_past_and_not_on_the_future(model):
    network, params = MODELS[model](SPEC), loud(model)
    inputs, valid = inputs_of(jax.random.key(1)), jnp.ones((LENGTH, STREAMS))
    says = jax.jit(lambda reward: network.unroll(params, fresh(network), inputs.replace(prev_reward=reward), valid))
    before = says(inputs.prev_reward).dist
    for time in (0, 5, LENGTH - 1):
        after = says(inputs.prev_reward.at[time, 0].add(1.0)).dist
        np.testing.assert_array_equal(after[:time], before[:time])
        np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
        assert (np.abs(after - before)[time:, 0].max(-1) > 1e-6).all(), "a later step does not see it"


@pytest.mark.parametrize(
    "model, in_parts", [("snail", "snail"), ("snail-heads", "snail-heads"), ("associative", "associative-chunks")]
)
def test_chunked_computation_equals_the_whole(monkeypatch, model, in_parts):
    params, inputs = loud(model), inputs_of(jax.random.key(1))
    valid = jnp.ones((LENGTH, STREAMS)).at[4:7, 0].set(0.0)

    def value_and_gradient(model):
        network = MODELS[model](dataclasses.replace(SPEC, terminates=True))
        loss = lambda params: jnp.sum(network.unroll(params, fresh(network), inputs, valid).value ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    whole = value_and_gradient(model)
    monkeypatch.setattr(blocks, "BLOCK", 4)
    parts = value_and_gradient(in_parts)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["associative", "lru", "snail"])
def test_training_needs_memory_linear_in_the_trial(model):
    length = 1024
    spec = Spec((2,), Discrete(3), horizon=length, terminates=True)
    small = {"lru": lambda: nets.linear_recurrent_actor_critic(spec, hidden=4, parallel=True)}
    small["associative"] = lambda: nets.associative_actor_critic(spec, hidden=4, heads=1, slots=2, values=2)
    small["snail"] = lambda: nets.snail_actor_critic(spec, length, filters=2, key_size=2, value_size=2)
    network = small[model]()
    params = jax.eval_shape(network.init, jax.random.key(0))
    inputs = jax.eval_shape(lambda: inputs_of(jax.random.key(0), length, 1))

    def loss(params, inputs):
        return jnp.sum(network.unroll(params, fresh(network, 1), inputs, jnp.ones((length, 1))).value)

    program = str(jax.make_jaxpr(jax.grad(loss))(params, inputs))
    largest = max(math.prod(map(int, shape.split(","))) for shape in re.findall(r"\w+\[([\d,]+)\]", program))
    assert largest < length**2 / 4


def test_receptive_field_of_snails_convolutions_is_the_whole_trial():
    for length, layers in ((1, 0), (2, 1), (8, 3), (9, 4), (100, 7)):
        state = nets.snail_actor_critic(SPEC, length, tc_blocks=2).initial_state()
        sizes = [ring.shape[0] for ring in state.rings]
        assert sizes == 2 * [2**layer for layer in range(layers)]
        assert sum(sizes) // 2 + 1 >= length
    shallow = nets.snail_actor_critic(SPEC, 100, tc_blocks=2, layers=3).initial_state()
    assert [ring.shape[0] for ring in shallow.rings] == [1, 2, 4, 1, 2, 4] and shallow.keys.shape[1] == 100


def test_initial_gain_scales_the_first_layer_keys_and_queries_only():
    plain, loud = (
        nets.snail_actor_critic(SPEC, 4, filters=4, key_size=5, value_size=3, init_gain=gain).init(jax.random.key(0))
        for gain in (1.0, 2.5)
    )
    gains = jax.tree.map(lambda one, other: float(jnp.linalg.norm(other) / jnp.linalg.norm(one)), plain, loud)
    kernels = {
        "/".join(p.key for p in path[1:-1]): gain
        for path, gain in jax.tree.leaves_with_path(gains)
        if path[-1].key == "kernel"
    }
    louder = {name for name, gain in kernels.items() if np.isclose(gain, 2.5, rtol=1e-5)}
    assert louder == {"Dense_0", "_AttentionBlock_0/query", "_AttentionBlock_0/key"}
    assert all(
        np.isclose(gain, 1.0, rtol=1e-5) or np.isnan(gain) for name, gain in kernels.items() if name not in louder
    )


def test_attention_of_snail_is_a_causal_softmax():
    steps = 5
    query, key, value = (4.0 * jax.random.normal(k, (steps, 3)) for k in jax.random.split(jax.random.key(0), 3))
    seen = jnp.tril(jnp.ones((steps, steps), bool))

    def ours(query, key, value):
        return jax.vmap(read, (0, None, None, 0))(query, key, value, seen)

    def reference(query, key, value):
        one_head = (x[:, None] for x in (query, key, value))
        return jax.nn.dot_product_attention(*one_head, is_causal=True)[:, 0]

    for function in (lambda f: f, lambda f: jax.jacobian(f, (0, 1, 2))):
        results = (jax.jit(function(attend))(query, key, value) for attend in (ours, reference))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), *results)
    assert np.isfinite(ours(10.0 * query, 10.0 * key, value)).all(), "exponentials of large logits overflow"


def test_attention_heads_of_snail_are_independent():
    steps, heads, size = 6, 2, 3
    past = _parallel(jnp.ones(steps), steps, gaps=False)
    x = jax.random.normal(jax.random.key(0), (steps, 4))
    both, one = (_AttentionBlock(number, size, size, 1.0) for number in (heads, 1))
    params = both.init(jax.random.key(1), past, None, x)
    _, together = both.apply(params, past, None, x)
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        _, alone = one.apply(jax.tree.map(lambda leaf, mine=mine: leaf[..., mine], params), past, None, x)
        np.testing.assert_allclose(together[:, 4:][:, mine], alone[:, 4:], rtol=1e-5, atol=1e-6)


def test_states_of_the_lru_are_stable_and_some_are_slow():
    size = np.exp(-np.exp(nets.linear_recurrence._log_decay_init(jax.random.key(0), (64,))))
    assert 0.98 < size.max() < 1.0 and 0.49 < size.min() < 0.7


def test_the_state_of_each_cell_has_its_form():
    (hidden,) = nets.recurrent_actor_critic(SPEC, "gru", 8).initial_state()
    assert hidden.shape == (8,)
    cell, hidden = nets.recurrent_actor_critic(SPEC, "lstm", 8).initial_state()
    assert cell.shape == hidden.shape == (8,)
    assert [leaf.shape for leaf in nets.recurrent_actor_critic(SPEC, "lru", 8).initial_state()] == [(8,), (8,)]


def test_a_trial_without_steps_is_refused():
    with pytest.raises(ValueError, match="length is 0; it must be at least 1"):
        nets.snail_actor_critic(SPEC, 0)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_initial_time_constants_match_the_trial_length(cell):
    """Without further input a unit fades by its own time, from about 2 steps to about the length of the trial."""
    length, size = 100, 64
    network = nets.recurrent_actor_critic(SPEC, cell, size, length=length)
    bias = network.init(jax.random.key(0))["params"]["Dense_0"]["bias"].reshape(-1, size)
    keeps, *others = bias
    steps = 1.0 + np.exp(keeps)  # the mean time of forgetting at the rate 1 - sigmoid(bias)
    assert 2.0 <= steps.min() < 10.0 and 90.0 < steps.max() <= length
    if cell == "lstm":
        np.testing.assert_array_equal(others.pop(0), -keeps)
    np.testing.assert_array_equal(others, np.zeros_like(others))
    # with a trial of one step it is the usual start
    usual = nets.recurrent_actor_critic(SPEC, cell, size).init(jax.random.key(0))["params"]["Dense_0"]["bias"]
    np.testing.assert_array_equal(usual, 0.0)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_no_memory_is_saturated_at_first(cell):
    network = nets.recurrent_actor_critic(SPEC, cell, 32, length=300)
    params, inputs = jax.jit(network.init)(jax.random.key(0)), inputs_of(jax.random.key(1), 300, 4)

    def step(carry, inputs):
        return jax.vmap(network.apply, (None, 0, 0))(params, carry, inputs)[0], None

    state, _ = jax.lax.scan(step, fresh(network, 4), inputs)
    assert 0.1 < np.abs(state[0]).mean() < 1.0


@pytest.mark.parametrize(("cell", "theirs"), [("gru", nn.GRUCell), ("lstm", nn.OptimizedLSTMCell)])
def test_cells_are_those_of_flax(cell, theirs):
    """With the same weights a step leads to the same state."""
    size, names = 5, {"gru": ["iz", "ir", "in"], "lstm": ["if", "ii", "ig", "io"]}[cell]
    drive, recurrent = jax.random.normal(jax.random.key(0), (2, len(names) * size))
    ours = nets.recurrent.CELLS[cell]
    state = tuple(jax.random.normal(jax.random.key(1), (ours.states, size)))
    module = theirs(size)
    # products that are given as biases and as kernels for an input of 1, whatever the state is
    params = jax.tree.map(
        jnp.zeros_like, module.init(jax.random.key(2), module.initialize_carry(jax.random.key(3), (1,)), jnp.ones(1))
    )
    for name, driven, recalled in zip(
        names, jnp.split(drive, len(names)), jnp.split(recurrent, len(names)), strict=True
    ):
        params["params"][name]["kernel"] = driven[None]
        if "bias" in params["params"]["h" + name[1:]]:
            params["params"]["h" + name[1:]]["bias"] = recalled
        else:  # a gate that only adds the two
            params["params"][name]["kernel"] += recalled[None]
    theirs_state, _ = module.apply(params, state if cell == "lstm" else state[0], jnp.ones(1))
    for one, other in zip(ours.advance(state, drive, recurrent), jax.tree.leaves(theirs_state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
