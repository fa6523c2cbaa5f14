"""What is not finite: found where it arises, kept away from all that is sound, and counted.

There are two lines of defence. A trial in which the environment or the adapted policy says something that is not finite
is emptied before anything is learned from it: no step of it is valid, so it adds exactly nothing to a loss, and the
means are over the other tasks. An update that is not finite all the same, for its gradient or for want of a sound task,
leaves the params as they were; after `MAX_DROPPED` of them in a row none changes anything any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core import parallel
from jaxmeta.types import Array, Experience, Metrics, TrainState, Trial

LARGEST = 1e18
"""What is larger counts as not finite: its square would be."""
MAX_DROPPED = 5
"""Updates in a row that may come to nothing."""


class NonFiniteError(RuntimeError):
    """So many updates in a row were not finite that training has stopped; `state` is that before the first of them."""

    def __init__(self, update: int, state: TrainState):
        super().__init__(f"{MAX_DROPPED} updates in a row were not finite; the params are those of update {update}")
        self.update, self.state = update, state


def has_given_up(dropped: Any) -> bool:
    """Whether, of one run or of several side by side, so many updates in a row came to nothing that training ends."""
    return bool(np.max(jax.device_get(dropped)) >= MAX_DROPPED)


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
    if isinstance(fault, tuple):  # made by hand
        return jnp.zeros(trials.rounds.reward.shape[0], bool)
    return jnp.any(fault, axis=tuple(range(1, fault.ndim)))


def empty_faulty(trials: Trial) -> Trial:
    """Makes nothing of a trial that had a fault: all its numbers are zero and no step is valid."""
    faulty = faulty_tasks(trials)

    def emptied(leaf: Array) -> Array:
        return jnp.where(faulty.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

    rounds = jax.tree.map(emptied, trials.rounds.replace(reset_key=(), fault=()))
    return trials.replace(rounds=rounds.replace(reset_key=trials.rounds.reset_key, fault=trials.rounds.fault))


def leave_out(trials: Trial, tasks: Array) -> Trial:
    """Treats some of the trials [n, ...], for which `tasks` [n] is true, as if they had a fault."""
    reward, faulty = trials.rounds.reward, faulty_tasks(trials) | tasks
    fault = jnp.broadcast_to(faulty.reshape(-1, *[1] * (reward.ndim - 1)), reward.shape)
    return empty_faulty(trials.replace(rounds=trials.rounds.replace(fault=fault)))


def kept(said, most: Array | bool = True) -> tuple:
    """Keeps what a task says if it is sound, and `most`, which asks for more, holds; else all its numbers are zero.

    Returns:
      That, and whether the task was kept and whether it was sound, float32 scalars: what `mean_over_kept` averages.
    """
    sound = is_sound(said)
    keep = sound & most
    said = jax.tree.map(lambda leaf: jnp.where(keep, leaf, jnp.zeros((), leaf.dtype)), said)
    return said, (keep.astype(jnp.float32), sound.astype(jnp.float32))


def mean_over_kept(function: Callable[..., Any], per_task, num_tasks: int, chunk: int | None = None) -> tuple:
    """Averages `function(one task)`, which returns what `kept` does, over those tasks of all devices that are kept.

    Args:
      per_task: the tasks of this device, leaves [n, ...].
      num_tasks: on all devices.
      chunk: tasks that one device works on side by side; all by default.

    Returns:
      See `over_kept`.
    """

    def mean(some):
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(function)(some))

    said, shares = parallel.mean_over_tasks(mean, per_task, chunk)
    return over_kept(said, shares, num_tasks)


def over_kept(mean, shares: tuple[Array, Array], num_tasks: int) -> tuple:
    """Turns a mean over all tasks, to which those left out add zero, into one over the others.

    Args:
      shares: of the tasks that were kept, and that were sound.

    Returns:
      That mean, exactly as it was if all were kept and not finite if none was; the share that was left out, and the
      number of tasks that were not sound.
    """
    # shares are means of ones, up to rounding
    number, sound = (jnp.round(share * num_tasks) for share in shares)
    mean = parallel.sealed(jax.tree.map(lambda leaf: leaf * (num_tasks / number), mean))
    return mean, 1.0 - number / num_tasks, num_tasks - sound


def sound_share(trials: Trial) -> Array:
    """Returns the part of the trials of all devices that had no fault; exactly 1.0 if none had."""
    faulty = faulty_tasks(trials)
    count, size = parallel.task_sum((jnp.sum(faulty, dtype=jnp.float32), jnp.float32(faulty.size)))
    return 1.0 - count / size


def guarded(
    update: Callable[[TrainState], tuple[TrainState, Metrics]],
) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    """Keeps an update from changing what it would spoil.

    Where params, optimiser or a metric would no longer be finite, params and optimiser stay as they were; the key goes
    on, and so does experience. The metric `dropped` says how many updates in a row that has now happened to.
    """

    def update_if_finite(state: TrainState) -> tuple[TrainState, Metrics]:
        after, metrics = update(state)
        learned = (after.params, after.opt_state)
        finite = _is_finite((learned, metrics)) & (state.dropped < MAX_DROPPED)

        def choose(new, old):
            if isinstance(new, Experience):
                return new  # it is sound, and as large as memory allows: no second copy
            return jnp.where(finite, new, old)

        params, opt_state = jax.tree.map(choose, learned, (state.params, state.opt_state), is_leaf=_is_experience)
        dropped = jnp.where(finite, 0, state.dropped + 1)
        after = after.replace(params=params, opt_state=opt_state, dropped=dropped)
        return after, metrics | {"dropped": dropped.astype(jnp.float32)}

    return update_if_finite


def _is_finite(tree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree, is_leaf=_is_experience) if not _is_experience(leaf)]
    numbers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers]))


def _is_experience(node) -> bool:
    return isinstance(node, Experience)
