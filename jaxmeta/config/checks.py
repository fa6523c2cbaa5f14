"""Checks of config fields. The message names the field, its value, and what would be right.

A number may be a tracer, as under `jax.vmap` over a step size: then only its type is checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

import jax
import numpy as np
from jax.core import Tracer

AN_EPISODE = "an episode needs at least 1 step"
A_TRIAL = "a trial needs at least 1 episode"


def positive(config: Any, *names: str) -> None:
    """Raises a ValueError unless all named fields are above zero."""
    _check(config, names, lambda value: value > 0, "it must be positive")


def not_negative(config: Any, *names: str) -> None:
    """Raises a ValueError unless all named fields are at least zero."""
    _check(config, names, lambda value: value >= 0, "it must not be negative")


def at_least_one(config: Any, *names: str) -> None:
    """Raises a ValueError unless all named fields are at least one."""
    _check(config, names, lambda value: value >= 1, "it must be at least 1")


def fraction(config: Any, *names: str) -> None:
    """Raises a ValueError unless all named fields lie in [0, 1]."""
    _check(config, names, lambda value: 0 <= value <= 1, "it must lie in [0, 1]")


def widths(config: Any, name: str) -> None:
    """Raises a ValueError unless every layer of a network has at least one unit."""
    if any(width < 1 for width in getattr(config, name)):
        raise ValueError(f"{name} is {getattr(config, name)}; a layer needs at least 1 unit")


def near_miss(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Returns the hint of a message about an unknown name: the nearest known one, else all, after `otherwise`."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"{otherwise} {', '.join(known)}"


def choice(config: Any, name: str, *choices: str) -> None:
    """Raises a ValueError unless a field is one of the choices."""
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(choices)}")


def finite(config: Any) -> None:
    """Raises a TypeError if a field does not have its declared type.

    It raises a ValueError if one is NaN or infinite, or is not one of the choices of its `Literal` type.
    """
    declared_types(config)
    for name, kind in _hints(type(config)).items():
        options = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is Literal]
        value = getattr(config, name, None)
        if options and isinstance(value, str):
            choice(config, name, *(word for option in options for word in typing.get_args(option)))
    names = [field.name for field in dataclasses.fields(config) if _is_number(getattr(config, field.name))]
    _check(config, names, math.isfinite, "it must be finite")


def task_sizes(config: Any, **needs: str) -> None:
    """Raises a ValueError unless all named sizes of a task family are at least one, with the given reason.

        checks.task_sizes(config, horizon=checks.AN_EPISODE, num_arms="a bandit needs at least 1")

    It raises a TypeError if any field does not have its declared type.
    """
    declared_types(config, "tasks.")
    for name, need in needs.items():
        if getattr(config, name) < 1:
            raise ValueError(f"tasks.{name} is {getattr(config, name)}; {need}")


def declared_types(config: Any, prefix: str = "") -> None:
    """Raises a TypeError if a field of a config does not have its declared type; the message begins with `prefix`."""
    hints = _hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints.get(field.name, Any)
        if not _fits(value, kind):
            hint = f" (try ({value},))" if typing.get_origin(kind) is tuple and _fits(value, int) else ""
            given = _article(type(value).__name__) if dataclasses.is_dataclass(value) else repr(value)
            raise TypeError(f"{prefix}{field.name} is {given}; it must be {_name(kind)}{hint}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:  # a config defined inside a function may refer to its local types
        return {}


def _fits(value: Any, kind: Any) -> bool:
    """Returns whether a value has a declared type; an integer is also a number, and a list also a tuple."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) for part in parts)  # `choice` checks the value
    if origin is tuple:
        each = parts[:1] * len(value) if isinstance(value, tuple | list) and parts[-1] is ... else parts
        return isinstance(value, tuple | list) and len(each) == len(value) and all(map(_fits, value, each))
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return value.shape == () and jax.numpy.issubdtype(value.dtype, jax.numpy.number)
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _name(kind: Any) -> str:
    """Names a declared type in a message."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_name, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        return "a tuple of " + {int: "integers", float: "numbers"}.get(parts[0], _name(parts[0]))
    known = {int: "an integer", float: "a number", bool: "True or False", str: "a string", type(None): "None"}
    return known.get(kind) or _article(getattr(kind, "__name__", str(kind)))


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _check(config: Any, names, holds, remedy: str) -> None:
    for name in names:
        value = getattr(config, name)
        # None means a default set elsewhere; the value of a tracer is not known
        if value is None or isinstance(value, Tracer):
            continue
        if not holds(value):
            raise ValueError(f"{name} is {value}; {remedy}")
