"""Fast weights: an associative memory that averages the values written under each key.

It is linear attention with keys normalised by softmax (Schlag et al., 2021, arXiv:2102.11174; Schmidhuber, 1992): a
recurrent state of fixed size that trains in parallel over time. A recurrent cell must learn a separate unit for
everything it stores; here the weights for reading and writing are shared by all keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.blocks import scan_chunks
from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import MLP, Network, encode_input, policy_and_value
from jaxmeta.nets.observations import any_observation
from jaxmeta.types import Array, Carry, Input, Output, Params, Spec


class FastWeights(struct.PyTreeNode):
    """The recurrent state of one stream of experience; values have V entries."""

    before: Array
    """The encoded input of the previous step; zero at the first step."""
    sums: Array
    """Sum of the values written to each slot, [heads, slots, V]."""
    counts: Array
    """Sum of the write weights of each slot, [heads, slots]."""


Recall = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(key [..., H, K], value [..., H, V], query [..., H, K]) -> the read sums [..., H, V] and counts [..., H], over all
steps up to and including this one."""


class _Associative(nn.Module):
    spec: Spec
    hidden: int
    heads: int
    slots: int
    values: int
    init_log_std: float

    @nn.compact
    def __call__(self, recall: Recall, x: Array, before: Array) -> Output:
        # together they contain the last transition and its next observation
        seen = MLP((self.hidden,), "relu", 2.0**0.5)(jnp.concatenate([x, before], axis=-1))

        def by_head(name: str, size: int) -> Array:
            return nn.Dense(self.heads * size, name=name)(seen).reshape(*x.shape[:-1], self.heads, size)

        key, query = (jax.nn.softmax(by_head(name, self.slots)) for name in ("key", "query"))
        sums, counts = recall(key, by_head("value", self.values), query)
        mean = sums / (1.0 + counts)[..., None]
        flat = mean.reshape(*x.shape[:-1], -1)
        features = MLP((self.hidden,), "relu", 2.0**0.5)(jnp.concatenate([seen, flat, jnp.log1p(counts)], axis=-1))
        return policy_and_value(features, self.spec, self.init_log_std)


def _in_step(state: FastWeights, store: list[FastWeights]) -> Recall:
    """Builds the recurrent form: reads from the state of a stream, and appends the next state to `store`."""

    def recall(key: Array, value: Array, query: Array) -> tuple[Array, Array]:
        sums = state.sums + key[..., None] * value[:, None, :]
        counts = state.counts + key
        store.append(state.replace(sums=sums, counts=counts))
        return jnp.einsum("hk,hkv->hv", query, sums), jnp.einsum("hk,hk->h", query, counts)

    return recall


def _along(valid: Array, chunk: int) -> Recall:
    """Builds the parallel form along a stream [T]; an invalid step reads its own value, and no other step reads it.

    Steps are processed in chunks: a chunk reads the tables of all earlier chunks, and attends within itself. Time and
    memory are linear in the length of the stream.
    """
    size = min(chunk, valid.shape[0])
    earlier, itself = jnp.tril(jnp.ones((size, size)), -1), jnp.eye(size)

    def look_up(tables: Array, steps: Any, valid: Array) -> tuple[Array, Array]:
        key, value, query = steps
        match = jnp.einsum("thk,shk->hts", query, key) * (earlier * (valid > 0) + itself)
        read = jnp.einsum("thk,hkv->thv", query, tables) + jnp.einsum("hts,shv->thv", match, value)
        written = jnp.einsum("s,shk,shv->hkv", jnp.where(valid > 0, 1.0, 0.0), key, value)
        return tables + written, read

    def recall(key: Array, value: Array, query: Array) -> tuple[Array, Array]:
        counted = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)  # counts are sums of ones
        tables = jnp.zeros((*key.shape[1:], counted.shape[-1]))
        _, read = scan_chunks(look_up, tables, (key, counted, query), valid, chunk)
        return read[..., :-1], read[..., -1]

    return recall


def _inputs_before(x: Array, valid: Array) -> Array:
    """Returns for every step of a stream the last valid input before it, [T, D]; zero if there is none."""
    times = jnp.arange(len(x))
    latest = jax.lax.cummax(jnp.where(valid > 0, times, -1))
    source = jnp.concatenate([jnp.array([-1]), latest[:-1]])
    return jnp.where((source >= 0)[:, None], x[jnp.maximum(source, 0)], 0.0)


@any_observation
def associative_actor_critic(
    spec: Spec,
    hidden: int = 64,
    heads: int = 4,
    slots: int = 16,
    values: int = 16,
    init_log_std: float = 0.0,
    chunk: int = 32,
) -> Network:
    """Builds a recurrent policy with fast weights as its memory.

    Args:
      hidden: width of the layers before and after the memory.
      heads: number of tables.
      slots: slots per table, the length of keys and queries.
      values: length of the values.
      chunk: chunk length of the parallel form, in steps.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    module = _Associative(spec, hidden, heads, slots, values, init_log_std)
    run = cast(Callable[..., Output], module.apply)
    size = encode_input(spec.example_input(), spec).shape[0]

    def initial_state() -> FastWeights:
        return FastWeights(jnp.zeros(size), jnp.zeros((heads, slots, values)), jnp.zeros((heads, slots)))

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        seen, after = encode_input(inputs, spec), []
        output = run(params, _in_step(carry, after), seen, carry.before)
        return after[0].replace(before=seen), output

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        def stream(inputs: Input, valid: Array) -> Output:
            seen = jax.vmap(lambda one: encode_input(one, spec))(inputs)
            return run(params, _along(valid, chunk), seen, _inputs_before(seen, valid))

        return jax.vmap(stream, (1, 1), 1)(inputs, valid)

    return Network(
        init=lambda key: module.init(key, _in_step(initial_state(), []), jnp.zeros(size), jnp.zeros(size)),
        apply=apply,
        initial_state=initial_state,
        head=head_for(spec.action),
        unroll=unroll,
    )
