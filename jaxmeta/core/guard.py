"""What is not finite: found where it arises, kept away from all that is sound, and counted.

There are two lines of defence. A trial in which the environment or the adapted policy says something that is not finite
is emptied before anything is learned from it: no step of it is valid, so it adds exactly nothing to a loss, and the
means are over the other tasks. An update that is not finite all the same, for its gradient or for want of a sound task,
leaves the params as they were; after `MAX_SKIPPED` of them in a row none changes anything any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.types import Array, Fault, Metrics, TrainState, Trial

LARGEST = 1e18
"""What is larger counts as not finite: its square would be."""
MAX_SKIPPED = 5
"""Skipped updates in a row that end training."""


class NonFiniteError(RuntimeError):
    """So many updates in a row were not finite that training has stopped; `state` is that before the first of them."""

    def __init__(self, update: int, state: TrainState, metrics: dict[str, float]):
        super().__init__(
            f"{MAX_SKIPPED} updates in a row were not finite{_blame(metrics)}; the params are those of update {update}"
        )
        self.update, self.state = update, state


FAULTY = "faulty_tasks/"
"""Begins the names of the metrics that count tasks by what was not finite in them."""


def _blame(metrics: dict[str, float]) -> str:
    """Says what was not finite in an update: in how many tasks, or in which metrics if no task stands out."""
    tasks = {name.removeprefix(FAULTY): int(count) for name, count in metrics.items() if name.startswith(FAULTY)}
    found = [f"the {name.replace('_', ' ')} in {count} tasks" for name, count in tasks.items() if count]
    found = found or [name for name, value in metrics.items() if not np.isfinite(value)]
    if not found:
        return ""
    gradient = not any(count for name, count in tasks.items() if name != "gradient")
    hint = " (optax.adam inside of adaptation needs eps_root > 0 for a gradient of zero)" if gradient else ""
    return f": {', '.join(found)}{hint}"


def has_given_up(skipped: Any) -> bool:
    """Whether, of one run or of several in parallel, so many updates in a row were skipped that training ends."""
    return bool(np.max(jax.device_get(skipped)) >= MAX_SKIPPED)


def is_sound(tree, leading: int = 0, logits: bool = False) -> Array:
    """Says whether all numbers are finite and of a size whose square is: [...] over the first `leading` axes.

    Args:
      logits: whether minus infinity is sound too, as the logit of what is never done.
    """
    sound: Array | bool = True
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            size = leaf if logits else jnp.abs(leaf)
            sound &= jnp.all(size <= LARGEST, axis=tuple(range(leading, leaf.ndim)))
    return jnp.asarray(sound)


def faulty_tasks(trials: Trial) -> Array:
    """Says which of the trials [n, ...] had a fault, bool [n]."""
    fault = trials.rounds.fault
    return jnp.any(fault != Fault.NONE, axis=tuple(range(1, fault.ndim)))


def causes(trials: Trial) -> dict[str, Array]:
    """Says what was the first fault of each of the trials [n, ...]: bool [n] by name, at most one of them true."""
    fault = trials.rounds.fault
    by_round = jnp.max(fault, axis=tuple(range(2, fault.ndim)))
    first = jnp.argmax(by_round != Fault.NONE, axis=1)
    cause = jnp.take_along_axis(by_round, first[:, None], axis=1)[:, 0]
    policy = cause == Fault.POLICY
    found = {"environment": cause == Fault.ENVIRONMENT, "policy": policy & (first == 0)}
    return found | ({"adapted_policy": policy & (first > 0)} if by_round.shape[1] > 1 else {})


def empty_faulty(trials: Trial) -> Trial:
    """Empties the trials [n, ...] that had a fault: all their numbers are zero and no step is valid."""
    return empty(trials, faulty_tasks(trials))


def empty(trials: Trial, some: Array) -> Trial:
    """Empties the trials [n, ...] for which `some` [n] is true; `fault` stays as it is."""

    def emptied(leaf: Array) -> Array:
        return jnp.where(some.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

    rounds = trials.rounds
    kept = {"reset_key": rounds.reset_key, "fault": rounds.fault}
    return trials.replace(rounds=jax.tree.map(emptied, rounds.replace(reset_key=(), fault=())).replace(**kept))


def kept(output, keep: Array | bool = True) -> tuple[Any, Array]:
    """Zeroes what one task gives unless it is finite and `keep` holds; returns it and whether it was kept, float32."""
    keep = is_sound(output) & keep
    return zero_unless(keep, output), keep.astype(jnp.float32)


def zero_unless(keep: Array, output):
    """Zeroes all leaves unless `keep` holds."""
    return jax.tree.map(lambda leaf: jnp.where(keep, leaf, jnp.zeros((), leaf.dtype)), output)


def guarded(
    update: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Skips updates that are not finite.

    Where params, optimiser or a metric would no longer be finite, params and optimiser stay as they were. The key goes
    on, and so do the source, which holds experience, and the sampler, which is told which tasks were finite and must
    not offer the same ones again, unless its own state is not finite. The metric `skipped` counts such updates in a
    row.
    """

    def update_if_finite(state: TrainState, data: Any = ()) -> tuple[TrainState, Metrics]:
        after, metrics = update(state, data)
        finite = _is_finite((after.params, after.opt_state, metrics)) & (state.skipped < MAX_SKIPPED)

        def keep_if(good: Array, name: str) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(good, new, old), getattr(after, name), getattr(state, name))

        chosen = {name: keep_if(finite, name) for name in ("params", "opt_state")}
        chosen["sampler"] = keep_if(_is_finite(after.sampler), "sampler")
        skipped = jnp.where(finite, 0, state.skipped + 1)
        return after.replace(skipped=skipped, **chosen), metrics | {"skipped": skipped.astype(jnp.float32)}

    return update_if_finite


def _is_finite(tree) -> Array:
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers] or [jnp.array(True)]))
