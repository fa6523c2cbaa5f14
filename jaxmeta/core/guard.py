"""Detects non-finite numbers, isolates the tasks that they come from, and counts them.

There are two lines of defence. A trial in which the environment or the policy returns non-finite numbers is emptied
before anything is learned from it: none of its steps is valid, so it contributes nothing to a loss, and means are over
the other tasks. An update that is non-finite all the same, in its gradient or because no task is left, is skipped: the
params stay as they were. After `MAX_SKIPPED` skipped updates in a row all further updates are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.types import Array, Fault, Metrics, TrainState, Trial

LARGEST = 1e18
"""Larger magnitudes count as non-finite: sums of their squares can overflow float32."""
MAX_SKIPPED = 5
"""Skipped updates in a row that end training."""


class NonFiniteError(RuntimeError):
    """Training stopped after `MAX_SKIPPED` non-finite updates in a row; `state` is the one before the first of them."""

    def __init__(self, update: int, state: TrainState, metrics: dict[str, float]):
        super().__init__(
            f"{MAX_SKIPPED} updates in a row were not finite{_blame(metrics)}; the params are those of update {update}"
        )
        self.update, self.state = update, state


NONFINITE = "nonfinite_tasks/"
"""Prefix of the metrics that count non-finite tasks by cause."""


def _blame(metrics: dict[str, float]) -> str:
    """Describes what was non-finite in an update: the number of tasks by cause, else the names of the metrics."""
    tasks = {name.removeprefix(NONFINITE): int(count) for name, count in metrics.items() if name.startswith(NONFINITE)}
    found = [f"the {name.replace('_', ' ')} in {count} tasks" for name, count in tasks.items() if count]
    found = found or [name for name, value in metrics.items() if not np.isfinite(value)]
    if not found:
        return ""
    gradient = not any(count for name, count in tasks.items() if name != "gradient")
    hint = " (optax.adam inside of adaptation needs eps_root > 0 for a gradient of zero)" if gradient else ""
    return f": {', '.join(found)}{hint}"


def with_total(metrics: Metrics) -> Metrics:
    """Adds `nonfinite_tasks`, the sum over causes; no task has two, as those of the source have no weight."""
    counts = [count for name, count in metrics.items() if name.startswith(NONFINITE)]
    return metrics | ({"nonfinite_tasks": sum(counts, jnp.zeros(()))} if counts else {})


def give_up_if_skipped(done: int, state: TrainState, metrics: dict[str, np.ndarray]) -> None:
    """Raises a NonFiniteError if the last updates in a row were skipped.

    Args:
      done: updates until now.
      metrics: of the last updates, [chunk] or [chunk, seeds].
    """
    skipped = metrics["skipped"][-1]
    if has_given_up(skipped):
        worst = np.unravel_index(np.argmax(skipped), np.shape(skipped))
        last = {name: float(rows[-1][worst]) for name, rows in metrics.items()}
        raise NonFiniteError(done - int(np.max(skipped)), state, last)


def has_given_up(skipped: Any) -> bool:
    """Returns whether a run, or any of several parallel runs, has reached `MAX_SKIPPED` skipped updates in a row."""
    return bool(np.max(jax.device_get(skipped)) >= MAX_SKIPPED)


def is_finite(tree, leading: int = 0, logits: bool = False) -> Array:
    """Returns whether all numbers are finite and at most `LARGEST`, bool [...] over the first `leading` axes.

    Args:
      logits: whether minus infinity is allowed, as the logit of a masked action.
    """
    finite: Array | bool = True
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            size = leaf if logits else jnp.abs(leaf)
            finite &= jnp.all(size <= LARGEST, axis=tuple(range(leading, leaf.ndim)))
    return jnp.asarray(finite)


def nonfinite_trials(trials: Trial) -> Array:
    """Returns which of the trials [n, ...] had a fault, bool [n]."""
    fault = trials.rounds.fault
    return jnp.any(fault != Fault.NONE, axis=tuple(range(1, fault.ndim)))


def causes(trials: Trial) -> dict[str, Array]:
    """Classifies the trials [n, ...] by their first fault: bool [n] by cause, at most one of them true per trial."""
    fault = trials.rounds.fault
    by_round = jnp.max(fault, axis=tuple(range(2, fault.ndim)))
    first = jnp.argmax(by_round != Fault.NONE, axis=1)
    cause = jnp.take_along_axis(by_round, first[:, None], axis=1)[:, 0]
    policy = cause == Fault.POLICY
    found = {"environment": cause == Fault.ENVIRONMENT, "policy": policy & (first == 0)}
    return found | ({"adapted_policy": policy & (first > 0)} if by_round.shape[1] > 1 else {})


def empty_nonfinite(trials: Trial) -> Trial:
    """Empties those of the trials [n, ...] that had a fault: all their numbers become zero and no step is valid."""
    return empty(trials, nonfinite_trials(trials))


def empty(trials: Trial, some: Array) -> Trial:
    """Empties the trials [n, ...] where `some` [n] is true; `fault` is kept."""

    def emptied(leaf: Array) -> Array:
        return jnp.where(some.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

    rounds = trials.rounds
    kept = {"reset_key": rounds.reset_key, "fault": rounds.fault}
    return trials.replace(rounds=jax.tree.map(emptied, rounds.replace(reset_key=(), fault=())).replace(**kept))


def kept(output, keep: Array | bool = True) -> tuple[Any, Array]:
    """Zeroes the output of one task unless it is finite and `keep` is true; returns it, and 1.0 if it was kept."""
    keep = is_finite(output) & keep
    return zero_unless(keep, output), keep.astype(jnp.float32)


def zero_unless(keep: Array, output):
    """Zeroes all leaves unless `keep` is true."""
    return jax.tree.map(lambda leaf: jnp.where(keep, leaf, jnp.zeros((), leaf.dtype)), output)


def guarded(
    update: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Wraps an update so that non-finite updates are skipped.

    Where params, optimiser state or a metric would become non-finite, params and optimiser state keep their values. The
    key and the source's state, which is experience, still advance. So does the sampler's state, unless it is non-finite
    itself: the sampler receives which tasks were finite, and must not offer the same ones again. The metric `skipped`
    counts consecutive skipped updates.
    """

    def update_if_finite(state: TrainState, data: Any = ()) -> tuple[TrainState, Metrics]:
        after, metrics = update(state, data)
        finite = _all_isfinite((after.params, after.opt_state, metrics)) & (state.skipped < MAX_SKIPPED)

        def keep_if(good: Array, name: str) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(good, new, old), getattr(after, name), getattr(state, name))

        chosen = {name: keep_if(finite, name) for name in ("params", "opt_state")}
        chosen["sampler"] = keep_if(_all_isfinite(after.sampler), "sampler")
        skipped = jnp.where(finite, 0, state.skipped + 1)
        return after.replace(skipped=skipped, **chosen), metrics | {"skipped": skipped.astype(jnp.float32)}

    return update_if_finite


def _all_isfinite(tree) -> Array:
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers] or [jnp.array(True)]))
