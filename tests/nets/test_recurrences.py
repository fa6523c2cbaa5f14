"""The recurrences of the residual sequence models beside plain loops, and what their blocks share."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets
from jaxmeta.nets import mamba, mlstm, residual, s5, transformer
from jaxmeta.nets.residual import Steps
from jaxmeta.types import Discrete, Spec
from tests.nets.test_sequence_models import LENGTH, MODELS, SPEC, STREAMS, fresh, inputs_of, loud, stepping

NEW = ("transformer", "s5", "s5-sequential", "mamba", "mamba-sequential", "mlstm")
VALID = np.array([1, 1, 0, 0, 1, 0, 1, 1], np.float32)
"""Steps of a stream, with early ends inside."""
WIDTH = 3


def run(module, state, x, valid=VALID):
    """Returns params and outputs of a mixer on one stream, as numpy arrays."""

    @jax.jit
    def both(state, x, valid):
        steps = Steps(valid, gaps=True)
        params = jax.tree.map(
            lambda leaf: leaf + 0.3 * jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape),
            module.init(jax.random.key(0), state, x, steps),
        )
        return params["params"], *module.apply(params, state, x, steps)

    return jax.tree.map(np.asarray, both(state, x, jnp.asarray(valid)))


def features(seed=1, width=WIDTH):
    return np.asarray(jax.random.normal(jax.random.key(seed), (len(VALID), width)))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def test_s5_is_its_recurrence():
    modes, x = 2, features()
    params, last, outputs = run(s5._S5(modes, parallel=True), jnp.zeros(modes, jnp.complex64), x)
    eigenvalue = -np.exp(params["log_rate"]) + 1j * params["frequency"]
    decay = np.exp(eigenvalue * np.exp(params["log_step"]))
    state, expected = np.zeros(modes, complex), []
    for u, valid in zip(x, VALID, strict=True):
        product = u @ params["input"]["kernel"]
        after = decay * state + (decay - 1.0) / eigenvalue * (product[:modes] + 1j * product[modes:])
        read = np.concatenate([after.real, after.imag]) @ params["output"]["kernel"]
        expected.append(np.asarray(jax.nn.gelu(read + params["direct"] * u)))
        state = after if valid else state
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-5)


def test_the_frequencies_of_s5_are_those_of_the_hippo_matrix():
    num = 4
    index = np.arange(num)
    root = np.sqrt(2.0 * index + 1.0)
    hippo = -np.where(index[:, None] > index, np.outer(root, root), np.diag(index + 1.0))
    # plus ½ root rootᵀ, a correction of rank one, it is normal with eigenvalues of real part -1/2
    eigenvalues = np.linalg.eigvals(hippo + 0.5 * np.outer(root, root))
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-6)
    np.testing.assert_allclose(s5.hippo_frequencies(2), np.sort(eigenvalues.imag)[2:], rtol=1e-6)


def test_the_hold_of_s5_is_the_solution_of_its_differential_equation():
    """With a constant input, two half steps are one step, and many steps end at the fixed point u / -λ."""
    rate, frequency, step = jnp.array([0.5]), jnp.array([2.0]), jnp.array([0.3])
    decay, factor = s5.discretised(rate, frequency, step)
    half_decay, half_factor = s5.discretised(rate, frequency, step / 2)
    np.testing.assert_allclose(half_decay * half_factor + half_factor, factor, rtol=1e-5)
    np.testing.assert_allclose(factor / (1.0 - decay), 1.0 / (0.5 - 2.0j), rtol=1e-5)


def test_mamba_is_its_recurrence():
    channels, states, kernel, x = 2, 3, 3, features()
    start = mamba.Selective(jnp.zeros((kernel - 1, channels)), jnp.zeros((states, channels)))
    params, last, outputs = run(mamba._Mamba(channels, states, kernel, parallel=True), start, x)
    taps = params["taps"] - 1.0 / np.sqrt(kernel)
    state, window, expected = np.zeros((states, channels)), [np.zeros(channels)] * (kernel - 1), []
    for u, valid in zip(x, VALID, strict=True):
        content, gate = np.split(u @ params["input"]["kernel"], 2)
        seen = [*window, content]
        drive = silu(sum(tap * one for tap, one in zip(taps, seen, strict=True)) + params["taps_bias"])
        low, write, query = np.split(drive @ params["select"]["kernel"], [1, 1 + states])
        step = np.log1p(np.exp(low @ params["step"]["kernel"] + params["step"]["bias"]))
        after = np.exp(-step * np.exp(params["log_rate"])) * state + np.outer(write, step * drive)
        expected.append((query @ after + params["direct"] * drive) * silu(gate))
        if valid:
            state, window = after, seen[1:]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last.state, state, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last.window, window, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [8, 3], ids=["one chunk", "chunks"])
def test_mlstm_is_its_recurrence_without_a_stabiliser(chunk, monkeypatch):
    monkeypatch.setattr(mlstm, "CHUNK", chunk)
    heads, width = 2, 4
    size, x = width // heads, features(width=width)
    start = mlstm.Matrices(jnp.zeros((heads, size, size)), jnp.zeros((heads, size)), jnp.zeros(heads))
    params, last, outputs = run(mlstm._MLSTM(heads), start, x)
    memory, normaliser, expected = np.zeros((heads, size, size)), np.zeros((heads, size)), []
    for u, valid in zip(x, VALID, strict=True):
        query, key, value, emit = np.split(u @ params["qkvo"]["kernel"], 4)
        query, key, value = (part.reshape(heads, size) for part in (query / np.sqrt(size), key, value))
        admit, forget = np.split(u @ params["gates"]["kernel"] + params["gates"]["bias"], 2)
        admit, forget = np.exp(admit), sigmoid(forget)
        after = forget[:, None, None] * memory + admit[:, None, None] * key[:, :, None] * value[:, None, :]
        norm = forget[:, None] * normaliser + admit[:, None] * key
        read = np.einsum("hk,hkv->hv", query, after)
        read /= np.maximum(np.abs((query * norm).sum(1)), 1.0)[:, None]
        read /= np.sqrt((read**2).mean(1, keepdims=True) + 1e-6)
        expected.append(sigmoid(emit) * params["scale"] * read.reshape(-1))
        if valid:
            memory, normaliser = after, norm
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    scale = np.exp(last.stabiliser)
    np.testing.assert_allclose(last.memory * scale[:, None, None], memory, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last.normaliser * scale[:, None], normaliser, rtol=1e-5, atol=1e-5)


def test_the_stabiliser_keeps_large_gates_finite():
    """Input gates of e^120 overflow float32 by themselves; of two writes, the last dominates the read."""
    query = key = jnp.ones((2, 1, 1))
    value = jnp.array([1.0, 3.0]).reshape(2, 1, 1)
    start = mlstm.Matrices(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1)), jnp.zeros(1))
    moment = (query, key, value, jnp.array([[100.0], [120.0]]), jnp.full((2, 1), 100.0))
    state, read = mlstm.advance_matrices(start, moment, jnp.ones(2))
    np.testing.assert_allclose(read.ravel(), [1.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(state.stabiliser, [120.0])


def test_attention_of_the_transformer_is_its_loop():
    heads, kv_heads, size, length, x = 4, 2, 2, 3, features(width=8)
    ring = jnp.zeros((kv_heads, length, size))
    start = transformer.KeysAndValues(jnp.zeros((), jnp.int32), ring, ring)
    params, _, outputs = run(transformer._Attention(heads, kv_heads, length), start, x)
    rows, past, expected = x @ params["Dense_0"]["kernel"], [], []
    for row, valid in zip(rows, VALID, strict=True):
        query, key, value = np.split(row, [heads * size, (heads + kv_heads) * size])
        # features turn by the number of valid steps before; with two features there is one pair, of frequency 1
        turn = np.array([[np.cos(len(past)), np.sin(len(past))], [-np.sin(len(past)), np.cos(len(past))]])
        query, key, value = (
            query.reshape(heads, size) @ turn,
            key.reshape(kv_heads, size) @ turn,
            value.reshape(-1, size),
        )
        seen, read = [*past, (key, value)][-length:], []
        for head in range(heads):
            group = head // (heads // kv_heads)
            weights = np.exp([query[head] @ key[group] / np.sqrt(size) for key, _ in seen])
            read.append(
                sum(weight * value[group] for weight, (_, value) in zip(weights, seen, strict=True)) / weights.sum()
            )
        expected.append(np.concatenate(read))
        if valid:
            past.append((key, value))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_rotary_products_depend_on_distances_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 6))
    at = lambda x, position: transformer.rotate(x[None], jnp.array([position]))[0]  # noqa: E731
    for distance in (0, 3, 40):
        near, far = (at(query, start + distance) @ at(key, start) for start in (2, 500))
        np.testing.assert_allclose(near, far, rtol=1e-3)
    np.testing.assert_allclose(at(query, 0), query, rtol=1e-6)
    assert abs(at(query, 3) @ at(key, 0) - query @ key) > 1e-2


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=pytest.mark.slow) if name.endswith("sequential") else name for name in NEW]
)
def test_gradients_of_stepping_and_unrolling_agree(model):
    network = MODELS[model](dataclasses.replace(SPEC, terminates=True))
    params, inputs = loud(model), inputs_of(jax.random.key(1))
    valid = jnp.ones((LENGTH, STREAMS)).at[3:6, 1].set(0.0).at[9, 1].set(0.0)
    weight = jax.random.normal(jax.random.key(2), (LENGTH, STREAMS, 3))

    def loss(run, params):
        output = run(params)
        return jnp.sum(weight * output.dist) + jnp.sum(jnp.square(output.value))

    stepped = jax.jit(jax.grad(lambda params: loss(lambda p: stepping(network, p, inputs, valid), params)))(params)
    unrolled = jax.grad(lambda params: loss(lambda p: network.unroll(p, fresh(network), inputs, valid), params))
    for (path, one), other in zip(
        jax.tree.leaves_with_path(stepped), jax.tree.leaves(jax.jit(unrolled)(params)), strict=True
    ):
        scale = 1.0 + np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("model", ["transformer", "s5", "mamba", "mlstm"])
def test_permuting_streams_permutes_the_outputs(model):
    network = MODELS[model](dataclasses.replace(SPEC, terminates=True))
    params, inputs = loud(model), inputs_of(jax.random.key(1))
    valid, order = jnp.ones((LENGTH, STREAMS)).at[3:6, 1].set(0.0), np.array([2, 0, 1])
    unroll = jax.jit(lambda inputs, valid: network.unroll(params, fresh(network), inputs, valid).dist)
    permuted = unroll(jax.tree.map(lambda leaf: leaf[:, order], inputs), valid[:, order])
    np.testing.assert_array_equal(permuted, unroll(inputs, valid)[:, order])


@pytest.mark.parametrize(("module", "model"), [(mamba, "mamba-sequential"), (mlstm, "mlstm")])
def test_chunks_equal_the_whole(module, model, monkeypatch):
    params, inputs = loud(model), inputs_of(jax.random.key(1))
    valid = jnp.ones((LENGTH, STREAMS)).at[4:7, 0].set(0.0)

    def outputs():
        network = MODELS[model](dataclasses.replace(SPEC, terminates=True))
        return jax.jit(lambda: network.unroll(params, fresh(network), inputs, valid).dist)()

    whole = outputs()
    monkeypatch.setattr(module, "CHUNK", 5)
    np.testing.assert_allclose(outputs(), whole, rtol=1e-5, atol=1e-5)


CARRIES = {  # by cell, floats in the carry of one layer of width 16 for trials of 10 steps, as the table says
    "transformer": 2 * 10 * 16 * 2 // 4 + 1,
    "s5": 16,
    "mamba": 16 * (16 + 3),
    "mlstm": 16**2 // 4 + 16 + 4,
    "lru": 2 * 16,
    "gru": 16,
}


@pytest.mark.parametrize("cell", CARRIES)
def test_the_carry_has_the_size_that_the_table_says(cell):
    layers = 1 if cell == "gru" else 3
    state = nets.recurrent_actor_critic(SPEC, cell, 16, length=10, layers=3).initial_state()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 4 * layers * CARRIES[cell]


def test_the_first_layer_has_the_gain_of_one_hot_inputs():
    spec = Spec((500,), Discrete(3), horizon=4)
    params = jax.jit(nets.s5_actor_critic(spec, hidden=64, layers=1).init)(jax.random.key(0))["params"]
    kernel = params["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel.std() * np.sqrt(len(kernel)), residual.INPUT_GAIN, rtol=0.02)


WRONG = [
    (lambda: nets.transformer_actor_critic(SPEC, 0), "length is 0; it must be at least 1"),
    (lambda: nets.transformer_actor_critic(SPEC, 4, hidden=12), r"hidden is 12; .* needs a multiple of 8 \(try 16\)"),
    (lambda: nets.transformer_actor_critic(SPEC, 4, heads=4, kv_heads=3), "kv_heads is 3; it must divide"),
    (lambda: nets.mlstm_actor_critic(SPEC, hidden=6), "hidden is 6; an mLSTM with 4 heads needs a multiple of 4"),
    (lambda: nets.s5_actor_critic(SPEC, layers=0), "layers is 0; it must be at least 1"),
    (lambda: nets.recurrent_actor_critic(SPEC, "mlstm", readout=(3,)), "cell mlstm has its own output layers"),
    (lambda: nets.recurrent_actor_critic(SPEC, "gpt"), "cell is 'gpt'; known cells: 'gru', .*'mlstm'"),
]


@pytest.mark.parametrize(("build", "message"), WRONG)
def test_sizes_that_do_not_fit_are_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as found:
        build()
    assert "\n" not in str(found.value)


def test_a_context_longer_than_the_transformer_is_refused_before_it_is_compiled():
    network = nets.transformer_actor_critic(SPEC, LENGTH - 1, hidden=8)
    params = jax.eval_shape(network.init, jax.random.key(0))
    inputs, valid = jax.eval_shape(lambda: (inputs_of(jax.random.key(0)), jnp.ones((LENGTH, STREAMS))))
    with pytest.raises(ValueError, match=f"length is 12; a context of {LENGTH} steps is longer than the model's"):
        jax.eval_shape(network.unroll, params, fresh(network), inputs, valid)
