"""Comparisons and random actions that the checks share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import nets
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.contracts import ContractError, require
from jaxmeta.types import (
    UNBOUNDED,
    Continuous,
    Discrete,
    Key,
    MultiDiscrete,
    Output,
    Spec,
)


def traced_alike(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Checks that a function traces to the same program twice; hidden state or random numbers of numpy change it."""

    def trace():
        # in a new function every time: JAX caches traces by function
        program = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
        constants = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(keys_as_data(program.consts))]
        return re.sub("0x[0-9a-f]+", "", str(program)), constants  # without memory addresses

    require(
        trace() == trace(),
        f"{name} changes when it is traced again; it must be pure and take random numbers from its key",
    )


def valid_action(spec: Spec, action: jax.Array, key: Key, obs: Any) -> jax.Array:
    """Replaces an action by one that the action mask of an observation allows, if there is a mask."""
    if spec.action_mask is None or isinstance(spec.action, Continuous):
        return action
    logits = jnp.zeros(spec.action.num if isinstance(spec.action, Discrete) else sum(spec.action.nums))
    output = Output(dist=nets.mask_logits(logits, obs[spec.action_mask], spec), value=jnp.zeros(()))
    return nets.head_for(spec.action)(output).sample(seed=key).astype(jnp.int32)


def random_action(spec: Spec, key: Key) -> jax.Array:
    """Samples an action; continuous ones may exceed the limit, as the environment must clip them."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (), 0, spec.action.num)
    if isinstance(spec.action, MultiDiscrete):
        return jax.random.randint(key, (len(spec.action.nums),), 0, jnp.array(spec.action.nums))
    largest = 2.0 * spec.action.limit if spec.action.limit < UNBOUNDED else 1.0
    return jax.random.uniform(key, (spec.action.size,), minval=-largest, maxval=largest)


def all_close(name: str, tree: Any, other: Any, other_name: str, tolerance: float) -> None:
    """Checks that two trees have equal leaves up to a tolerance; bit for bit if it is 0."""
    for (path, leaf), other_leaf in zip(
        jax.tree.leaves_with_path(keys_as_data(tree)), jax.tree.leaves(keys_as_data(other)), strict=True
    ):
        leaf, other_leaf = np.asarray(leaf), np.asarray(other_leaf)
        if np.allclose(leaf, other_leaf, rtol=tolerance, atol=tolerance, equal_nan=tolerance > 0):
            continue
        worst = np.max(np.abs(leaf.astype(np.float64) - other_leaf.astype(np.float64)))
        where = jax.tree_util.keystr(path) or "its root"
        raise ContractError(f"{name} differs from {other_name} by {worst:.3g} at {where}; allowed is {tolerance:g}")
