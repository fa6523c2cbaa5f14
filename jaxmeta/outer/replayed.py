"""Minibatches from replay buffers that the tasks of an update share, see `replay` with `by_task=False`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.outer.descend import Minibatches
from jaxmeta.outer.meta_update import Batch
from jaxmeta.rl import replay as rings
from jaxmeta.types import Array, Key

OWN_STREAM = 2**31 - 1
"""Folded into keys here: the epochs of a policy fold their numbers, from 0 on, into the same keys."""


def from_rings(kind: str, unpack: Callable[[Array], Any], steps: int, batch_size: int, strata: int) -> Minibatches:
    """Samples a minibatch of rows from the rings for every gradient step, as many from each stratum.

    Args:
      kind: name of the replay buffers.
      unpack: rows [M, width] -> data of M examples, leaves [M, ...].
      steps: gradient steps per update.
      batch_size: rows per gradient step, a multiple of `strata`.
      strata: number of rings.
    """
    here = batch_size // strata

    def deal(batch: Batch) -> Key:
        count = strata // devices.num_devices()
        keys = jax.vmap(lambda key: jax.random.fold_in(key, OWN_STREAM))(batch.keys[:: len(batch.keys) // count])
        return jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, steps))(keys), 0, 1)

    def take(batch: Batch, keys: Key) -> Batch:
        _, kept = batch.data
        draw_keys, step_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)

        def of_stratum(index: Array, key: Key) -> Array:
            return rings.draw(kept[kind], index[None], key, here)[0]

        rows = jax.vmap(of_stratum)(jnp.arange(len(keys)), draw_keys).reshape(len(keys) * here, -1)
        keys = jax.vmap(lambda key: jax.random.split(key, here))(step_keys).reshape(-1)
        # a stratum whose trials were all non-finite so far has an empty ring: samples from it have weight zero
        weight = jnp.repeat((kept[kind].size > 0).astype(jnp.float32), here)
        return Batch(unpack(rows), keys, weight)

    return Minibatches(deal, take)
