"""A memory of fast weights: what is written under an address is averaged, and read from any other time by that address.

It is linear attention with addresses that sum to one (Schlag et al., 2021, arXiv:2102.11174; Schmidhuber, 1992): a
recurrent state of fixed size that trains in parallel over time. A recurrent cell has to find for every single thing a
unit that keeps it; here what was learned about one address holds for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import MLP, Network, encode_input, policy_and_value
from jaxmeta.types import Array, Carry, Input, Output, Params, Spec


class FastWeights(struct.PyTreeNode):
    """What a stream remembers."""

    before: Array
    """The input of the step before, encoded; zero at first."""
    sums: Array
    """Of what was written under each address, [heads, slots, V]."""
    counts: Array
    """How much was written there, [heads, slots]."""


class _Read(NamedTuple):
    """What is found in tables, of all that was written up to now, this step's included."""

    sums: Array
    """By the address of the query, [..., H, V]."""
    counts: Array
    """By it, [..., H]."""
    tables: Array | None
    """Under every address, sums of its first numbers and the count, [..., H, K, S + 1]; None where S is 0."""


Recall = Callable[[Array, Array, Array], _Read]
"""(key [..., H, K], value [..., H, V], query [..., H, K]) -> what is read."""


class _Associative(nn.Module):
    spec: Spec
    hidden: int
    heads: int
    slots: int
    values: int
    survey: int
    init_log_std: float

    @nn.compact
    def __call__(self, recall: Recall, x: Array, before: Array) -> Output:
        # the two together hold the last transition, and where it led
        seen = MLP((self.hidden,), "relu", 2.0**0.5)(jnp.concatenate([x, before], axis=-1))

        def by_head(name: str, size: int) -> Array:
            return nn.Dense(self.heads * size, name=name)(seen).reshape(*x.shape[:-1], self.heads, size)

        key, query = (jax.nn.softmax(by_head(name, self.slots)) for name in ("key", "query"))
        read = recall(key, by_head("value", self.values), query)
        mean = read.sums / (1.0 + read.counts)[..., None]
        flat = mean.reshape(*x.shape[:-1], -1)
        known = jnp.concatenate([seen, flat, jnp.log1p(read.counts)], axis=-1)
        features = MLP((self.hidden,), "relu", 2.0**0.5)(known)
        if self.survey:
            everywhere = self._look_over(cast(Array, read.tables)).reshape(*x.shape[:-1], -1)
            # nothing at first, and under names of its own: a network that was trained without it can go on with it
            more = MLP((self.hidden,), "relu", 2.0**0.5, name="survey")(jnp.concatenate([features, everywhere], -1))
            features += nn.Dense(self.hidden, False, kernel_init=nn.initializers.zeros, name="survey_out")(more)
        return policy_and_value(features, self.spec, self.init_log_std)

    def _look_over(self, tables: Array) -> Array:
        """Averages over all addresses how much of each number is under them, and it matters less the more there is."""

        def draw(name: str, scale: float) -> Array:
            return self.param(name, nn.initializers.normal(scale), (self.heads, 1, self.survey))

        by_sum, by_mean, bias = draw("by_sum", 0.5), draw("by_mean", 1.0), draw("bias", 1.0)
        sums, counts = tables[..., :-1], tables[..., -1:]
        return jax.nn.soft_sign(sums * (by_sum + by_mean / (1.0 + counts)) + bias).mean(axis=-2)


def _in_step(state: FastWeights, store: list[FastWeights], survey: int) -> Recall:
    """Looks back into the state of a stream, and leaves the next one in `store`."""

    def recall(key: Array, value: Array, query: Array) -> _Read:
        sums = state.sums + key[..., None] * value[:, None, :]
        counts = state.counts + key
        store.append(state.replace(sums=sums, counts=counts))
        tables = jnp.concatenate([sums[..., :survey], counts[..., None]], axis=-1) if survey else None
        return _Read(jnp.einsum("hk,hkv->hv", query, sums), jnp.einsum("hk,hk->h", query, counts), tables)

    return recall


def _along(valid: Array, chunk: int, survey: int) -> Recall:
    """Looks back along a stream [T]; a step that is not valid sees itself, and nobody else sees it.

    `chunk` steps are taken together: they read the tables as these were before, and look at each other one by one. Only
    what is looked over is laid out for every step. Time and memory grow as the length of the stream.
    """
    length = valid.shape[0]
    size = min(chunk, length)
    earlier, itself = jnp.tril(jnp.ones((size, size)), -1), jnp.eye(size)

    def cut(steps: Array) -> Array:
        padded = jnp.pad(steps, ((0, -length % size), *((0, 0) for _ in steps.shape[1:])))
        return padded.reshape(-1, size, *steps.shape[1:])

    def first(numbers: Array) -> Array:
        """Takes the numbers that are looked over, and the count."""
        return jnp.concatenate([numbers[..., :survey], numbers[..., -1:]], axis=-1)

    def recall(key: Array, value: Array, query: Array) -> _Read:
        def look_up(tables: Array, steps: Any) -> tuple[Array, tuple[Array, Array | None]]:
            key, value, query, valid = steps
            seen = earlier * (valid > 0) + itself
            match = jnp.einsum("thk,shk->hts", query, key) * seen
            read = jnp.einsum("thk,hkv->thv", query, tables) + jnp.einsum("hts,shv->thv", match, value)
            written = jnp.einsum("s,shk,shv->hkv", jnp.where(valid > 0, 1.0, 0.0), key, value)
            if not survey:
                return tables + written, (read, None)
            at_step = jnp.einsum("ts,shkv->thkv", seen, key[..., None] * first(value)[:, :, None, :])
            return tables + written, (read, first(tables) + at_step)

        counted = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)  # counts are sums of ones
        tables = jnp.zeros((*key.shape[1:], counted.shape[-1]))
        _, found = jax.lax.scan(look_up, tables, jax.tree.map(cut, (key, counted, query, valid)))
        read, tables = jax.tree.map(lambda steps: steps.reshape(-1, *steps.shape[2:])[:length], found)
        return _Read(read[..., :-1], read[..., -1], tables)

    return recall


def _inputs_before(x: Array, valid: Array) -> Array:
    """Returns for every step of a stream the last valid input before it, [T, D]; zero where there is none."""
    times = jnp.arange(len(x))
    latest = jax.lax.cummax(jnp.where(valid > 0, times, -1))
    source = jnp.concatenate([jnp.array([-1]), latest[:-1]])
    return jnp.where((source >= 0)[:, None], x[jnp.maximum(source, 0)], 0.0)


def associative_actor_critic(
    spec: Spec,
    hidden: int = 64,
    heads: int = 4,
    slots: int = 16,
    values: int = 16,
    init_log_std: float = 0.0,
    chunk: int = 32,
    survey: int = 0,
) -> Network:
    """Builds a policy whose memory is tables that it writes to and reads from by soft addresses.

    Args:
      hidden: width of the layers before and after the memory.
      heads: tables.
      slots: addresses of each.
      values: numbers under each address.
      chunk: steps that are looked up together where all of a stream is at hand.
      survey: how many of the numbers are looked over under all addresses at once, too. What is known elsewhere, which
        one address does not tell, decides what exploring is worth.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; at least 1 step is looked up at a time")
    if not 0 <= survey <= values:
        raise ValueError(f"survey is {survey}; it must lie between 0 and the {values} numbers under an address")
    module = _Associative(spec, hidden, heads, slots, values, survey, init_log_std)
    run = cast(Callable[..., Output], module.apply)
    size = encode_input(spec.example_input(), spec).shape[0]

    def initial_state() -> FastWeights:
        return FastWeights(jnp.zeros(size), jnp.zeros((heads, slots, values)), jnp.zeros((heads, slots)))

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        seen, after = encode_input(inputs, spec), []
        output = run(params, _in_step(carry, after, survey), seen, carry.before)
        return after[0].replace(before=seen), output

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        def stream(inputs: Input, valid: Array) -> Output:
            seen = jax.vmap(lambda one: encode_input(one, spec))(inputs)
            return run(params, _along(valid, chunk, survey), seen, _inputs_before(seen, valid))

        return jax.vmap(stream, (1, 1), 1)(inputs, valid)

    return Network(
        init=lambda key: module.init(key, _in_step(initial_state(), [], survey), jnp.zeros(size), jnp.zeros(size)),
        apply=apply,
        initial_state=initial_state,
        head=head_for(spec.action),
        unroll=unroll,
    )
