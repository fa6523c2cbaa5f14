"""Action distributions, as arrays that a policy emits and as distrax objects that are built where they are used."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array, Continuous, Discrete, Output


class Gaussian(struct.PyTreeNode):
    """A diagonal Gaussian over action vectors."""

    loc: Array
    """[..., action size]."""
    log_scale: Array
    """[..., action size]."""


def head_for(action: Discrete | Continuous):
    """Returns the function that turns an `Output` into a distrax distribution for an action space.

    Discrete actions read `output.dist` as logits [..., num]; continuous ones as a `Gaussian`.
    """
    # distrax objects must not cross a jit or vmap boundary; and importing it late keeps the import of jaxmeta light
    import distrax

    def categorical(output: Output) -> Any:
        return distrax.Categorical(logits=output.dist)

    def gaussian(output: Output) -> Any:
        return distrax.Independent(distrax.Normal(output.dist.loc, jnp.exp(output.dist.log_scale)), 1)

    return categorical if isinstance(action, Discrete) else gaussian
