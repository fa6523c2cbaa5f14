"""Regularisation of meta-params: elastic net and weight decay, as the last links of an optimiser.

Both act on the params themselves and not on the gradient, so that an adaptive optimiser does not rescale them. An L1
penalty added to a loss that Adam minimises makes params oscillate around zero; the proximal step here sets them to zero
exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta.config import checks
from jaxmeta.core import paths
from jaxmeta.types import Array, Params


@dataclasses.dataclass(frozen=True)
class RegularisationConfig:
    """Regularisation of params, after the optimiser's step and in proportion to its learning rate."""

    l1: float = 0.0
    """Weight of the L1 penalty Σ |w|; its proximal step sets small params to exactly zero."""
    l2: float = 0.0
    """Weight of the L2 penalty ½ Σ w²; with `l1` it is the elastic net."""
    weight_decay: float = 0.0
    """Decoupled weight decay as in AdamW: w decreases by this times w and the learning rate in every step."""
    on: tuple[str, ...] = ()
    """The regularised params: those with one of these names in their path, such as kernel; by default all."""

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "l1", "l2", "weight_decay")


def regularised(
    tx: optax.GradientTransformation,
    learning_rate: float | optax.Schedule,
    config: RegularisationConfig,
    within: str | None = None,
) -> optax.GradientTransformation:
    """Adds the configured regularisation to an optimiser; without any it returns the optimiser as it is.

    Args:
      within: start of the paths of the params that may be regularised, such as `value/`; by default all may.
    """
    on: paths.Names = config.on
    if within is not None:
        on = lambda path: path.startswith(within) and (not config.on or paths.has_any(path, config.on))  # noqa: E731
    links = [tx]
    if _is_on(config.weight_decay):
        links.append(weight_decay(config.weight_decay, learning_rate, on=on))
    if _is_on(config.l1) or _is_on(config.l2):
        links.append(elastic_net(config.l1, config.l2, learning_rate, on=on))
    return optax.chain(*links) if len(links) > 1 else tx


def _is_on(value: Any) -> bool:
    """Returns whether a weight may differ from zero; a tracer may."""
    return not (isinstance(value, int | float) and value == 0)


def elastic_net(
    l1: float, l2: float, learning_rate: float | optax.Schedule, *, on: paths.Names = ()
) -> optax.GradientTransformation:
    """Builds the proximal step of the elastic net l1 Σ |w| + l2 / 2 Σ w² (Zou and Hastie, 2005).

    It is the last link of a chain, after the learning rate. Params that it sets to zero are exactly zero after
    `optax.apply_updates`.

        tx = optax.chain(optax.adam(1e-3), outer.elastic_net(0.01, 0.0, 1e-3, on=("kernel",)))

    Args:
      learning_rate: that of the optimiser; a schedule is a function of the number of steps taken.
      on: the regularised params, by names in their paths or by a predicate of the path; by default all.

    Raises:
      ValueError: at initialisation, if no param has one of the names in its path.
    """

    def step(update: Array, param: Array, rate: Array) -> Array:
        moved = param + update
        end = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - rate * l1, 0.0) / (1.0 + rate * l2)
        # param + (0 - param) is exactly zero, while param + (end - param) need not be end
        return jnp.where(end == 0.0, -param, end - param)

    return _after_step(step, learning_rate, on)


def weight_decay(
    strength: float, learning_rate: float | optax.Schedule, *, on: paths.Names = ()
) -> optax.GradientTransformation:
    """Builds decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).

    Every step decreases w by `learning_rate * strength * w`. It is a link after the learning rate; the other arguments
    are those of `elastic_net`.
    """
    return _after_step(lambda update, param, rate: update - rate * strength * param, learning_rate, on)


def _after_step(
    step: Callable[[Array, Array, Array], Array], learning_rate: float | optax.Schedule, on: paths.Names
) -> optax.GradientTransformation:
    """Builds a link from a function (update, param, learning rate) -> update of the regularised leaves."""

    def chosen(params: Params) -> Any:
        return paths.named(params, on) if on else jax.tree.map(lambda _: True, params)

    def init(params: Params) -> Any:  # optax's type of a state leaves out records
        chosen(params)
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)) if callable(learning_rate) else optax.EmptyState()

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("params is None; regularisation needs them: tx.update(updates, state, params)")
        if callable(learning_rate):
            rate = learning_rate(state.count)
            state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        else:
            rate = learning_rate
        apply = lambda leaf, param, kept: step(leaf, param, jnp.asarray(rate)) if kept else leaf  # noqa: E731
        return jax.tree.map(apply, updates, params, chosen(params)), state

    return optax.GradientTransformation(init, update)
