"""Trains one recipe with several values of its config side by side, in one program."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices
from jaxmeta.config import checks, settings
from jaxmeta.core import guard
from jaxmeta.core.learner import MetaLearner
from jaxmeta.types import Array, Key, Metrics, Params, TrainState


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `sweep` found; V settings, the product of all values, and S seeds of each."""

    config: Any
    """The config that the settings were put into."""
    values: dict[str, np.ndarray]
    """By field, its value in each setting, [V]."""
    metrics: dict[str, np.ndarray]
    """By metric, [V, S, updates]."""
    params: Params
    """Leaves are [V, S, ...]."""

    def setting(self, index: int) -> Any:
        """Returns the config of one setting."""
        return _put(self.config, {name: float(values[index]) for name, values in self.values.items()})

    def final(self, metric: str = "return/last") -> np.ndarray:
        """Averages a metric over the last twentieth of the updates, [V, S]."""
        if metric not in self.metrics:
            raise ValueError(f"metric is {metric!r}; {checks.near_miss(metric, self.metrics)}")
        values = self.metrics[metric]
        return values[..., -max(1, values.shape[-1] // 20) :].mean(-1)

    def best(self, metric: str = "return/last") -> int:
        """Returns the setting with the highest mean of a metric at the end."""
        return int(np.nanargmax(self.final(metric).mean(-1)))


@settings.standard()
def sweep(
    recipe: Callable[[Any, Any], MetaLearner],
    family: Any,
    config: Any,
    values: Mapping[str, Sequence[float]],
    key: Key,
    num_updates: int,
    num_seeds: int = 1,
    progress: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> Sweep:
    """Trains a recipe with all combinations of some values of its config, side by side under `jax.vmap`.

        found = jm.sweep(jm.maml, family, jm.MAMLConfig(), {"inner_lr": [0.03, 0.1, 0.3]}, key, 100, num_seeds=4)
        config = found.setting(found.best())
        figure = sweeps.intervals(found)  # from jaxmeta.viz import sweeps

    One program trains all of them on one device, so memory holds V x S states. Every setting has the same seeds: they
    differ in nothing else. An update that is not finite is skipped in its setting alone (metric `skipped`).

    Args:
      recipe: such as `jm.maml`.
      values: by field, such as "inner_lr" or "trpo.max_kl", the values to try. Only fields of real numbers can be
        swept, and only where the recipe computes with them and does not branch on them.
      progress: called every tenth of the updates with the number of updates and their metrics, leaves [V, S, updates].

    Raises:
      ValueError: if a field does not exist, is not a real number, or decides what the program is; if a value is not
        valid. All but the last are found before anything is compiled.
    """
    for name, value in (("num_updates", num_updates), ("num_seeds", num_seeds)):
        if value < 1:
            raise ValueError(f"sweep: {name} is {value}; it must be at least 1")
    grid = _grid(config, values)
    keys = jax.random.split(key, num_seeds)

    def built(setting: dict[str, Array]) -> MetaLearner:
        return recipe(family, _put(config, setting))

    for name in grid:
        _check_shared(lambda value, name=name: built({name: value}), name)
    params, metrics = _trained(built, grid, keys, num_updates, progress)
    return Sweep(config, grid, metrics, params)


def _trained(
    built: Callable[[dict[str, Array]], MetaLearner],
    grid: dict[str, np.ndarray],
    keys: Key,
    num_updates: int,
    progress: Callable[[int, dict[str, np.ndarray]], None] | None,
) -> tuple[Params, dict[str, np.ndarray]]:
    """Trains every setting with every key [S]; returns the params [V, S, ...] and metrics [V, S, updates]."""
    columns = {name: jnp.array(column, jnp.float32) for name, column in grid.items()}
    chunk = max(1, num_updates // 10)

    def some(setting: dict[str, Array], state: TrainState, count: Array) -> tuple[TrainState, Metrics]:
        update = guard.guarded(built(setting).update)
        form = jax.eval_shape(update, state)[1]
        rows = jax.tree.map(lambda leaf: jnp.zeros((chunk, *leaf.shape), leaf.dtype), form)

        def one(index: Array, sofar: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = update(sofar[0])
            return state, jax.tree.map(lambda rows, row: rows.at[index].set(row), sofar[1], metrics)

        return jax.lax.fori_loop(0, count, one, (state, rows))

    def everywhere(function: Callable[..., Any], seeds: int, shared: int = 0) -> Callable[..., Any]:
        """Maps a function (setting, argument per seed, shared arguments) over seeds and settings."""
        inner = jax.vmap(function, (None, 0, *[None] * shared))
        return devices.compiled(jax.vmap(inner, (0, seeds, *[None] * shared)))

    state = everywhere(lambda setting, key: built(setting).init(key), None)(columns, keys)  # pyright: ignore
    program, records, done = everywhere(some, 0, 1), [], 0
    while done < num_updates:
        count = min(chunk, num_updates - done)
        state, rows = program(columns, state, count)
        records.append({name: row[..., :count] for name, row in jax.device_get(rows).items()})
        done += count
        if progress is not None:
            progress(done, records[-1])
    metrics = {name: np.concatenate([row[name] for row in records], -1) for name in records[0]}
    return state.params, metrics


def _check_shared(built: Callable[[Array], MetaLearner], name: str) -> None:
    """Raises a ValueError if a program cannot serve several values of a field; nothing is compiled."""

    def updated(value: Array, key: Key) -> Any:
        meta = built(value)
        return meta.update(meta.init(key))

    try:
        jax.eval_shape(updated, jax.ShapeDtypeStruct((), jnp.float32), jax.random.key(0))
    except jax.errors.ConcretizationTypeError:
        raise ValueError(
            f"sweep: {name} decides what the program is, so its values cannot share one; train them one after the other"
        ) from None


def _grid(config: Any, values: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Returns the value of every field in every setting, after building the config of each."""
    if not values or not all(len(column) for column in values.values()):
        raise ValueError(f"sweep: values is {dict(values)}; name at least one field, with at least one value")
    for name in values:
        found = _get(config, name)
        if isinstance(found, bool) or not isinstance(found, float):
            raise ValueError(f"sweep: {name} is {found!r}; only fields of real numbers can be swept")
    settings_ = list(itertools.product(*values.values()))
    for one in settings_:
        _put(config, dict(zip(values, map(float, one), strict=True)))
    return {name: np.array(column, float) for name, column in zip(values, zip(*settings_, strict=True), strict=True)}


def _get(config: Any, name: str) -> Any:
    """Returns a field by its path, such as "trpo.max_kl"."""
    for part in name.split("."):
        known = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
        if part not in known:
            raise ValueError(f"sweep: there is no field {name!r}; {checks.near_miss(part, known)}")
        config = getattr(config, part)
    return config


def _put(config: Any, setting: Mapping[str, Any]) -> Any:
    """Returns a config with other values of fields, each by its path."""
    for name, value in setting.items():
        outer, _, rest = name.partition(".")
        config = dataclasses.replace(config, **{outer: _put(getattr(config, outer), {rest: value}) if rest else value})
    return config
