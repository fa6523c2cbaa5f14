"""Checks of config fields. The message names the field, its value, and what would be right."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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


def choice(config: Any, name: str, *choices: str) -> None:
    """Raises a ValueError unless a field is one of the choices."""
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(choices)}")


def finite(config: Any) -> None:
    """Raises a ValueError if any field of a config is NaN or infinite."""
    names = [field.name for field in dataclasses.fields(config) if isinstance(getattr(config, field.name), float)]
    _check(config, names, math.isfinite, "it must be finite")


def task_sizes(config: Any, **needs: str) -> None:
    """Raises a ValueError unless all named sizes of a task family are at least one; the values say what needs that."""
    for name, need in needs.items():
        if getattr(config, name) < 1:
            raise ValueError(f"tasks.{name} is {getattr(config, name)}; {need}")


def _check(config: Any, names, holds, remedy: str) -> None:
    for name in names:
        value = getattr(config, name)
        # None stands for a default that is found elsewhere
        if value is not None and not holds(value):
            raise ValueError(f"{name} is {value}; {remedy}")
