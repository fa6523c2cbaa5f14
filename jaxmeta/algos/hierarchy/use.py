"""Metrics of agents that choose among options: how much each of them acts, and for how long."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices, outer, rl
from jaxmeta.types import Key, Metrics, Params, Trial


def with_use(source: outer.Source, num_options: int) -> outer.Source:
    """Adds the metrics of `option_use` to a source of trials."""

    def next_trials(state: Any, params: Params, draw: outer.Draw, data: Any, keys: Key) -> tuple[Any, Any, outer.Seen]:
        state, batch, seen = source.next(state, params, draw, data, keys)
        return state, batch, seen._replace(metrics=seen.metrics | option_use(seen.outcome, num_options))

    return outer.Source(source.init, next_trials)


def option_use(trials: Trial, num_options: int) -> Metrics:
    """Computes the share of valid steps on which each option acts, `use/option_0` to `use/option_{K - 1}`.

    `use/length` is the mean number of steps between two decisions.

    Args:
      trials: leaves [n, ...], of the tasks on this device; their `Output.aux` is an `rl.Decision`.
      num_options: K.
    """
    decision: rl.Decision = trials.rounds.output.aux
    valid = trials.rounds.valid
    acts = jax.nn.one_hot(decision.option, num_options) * valid[..., None]
    sums = (acts.reshape(-1, num_options).sum(0), valid.sum(), (decision.decided * valid).sum())
    steps, total, decisions = devices.task_sum(sums)
    shares = steps / jnp.maximum(total, 1.0)
    use = {f"use/option_{index}": shares[index] for index in range(num_options)}
    return use | {"use/length": total / jnp.maximum(decisions, 1.0)}
