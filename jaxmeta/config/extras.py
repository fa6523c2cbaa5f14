"""Imports of optional libraries."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from jaxmeta.config import checks


class MissingExtraError(ImportError, ValueError):
    """An optional library is not installed; the message says what installs it."""


def load(module: str, extra: str) -> Any:
    """Imports a module of an optional library.

    Args:
      module: its full name.
      extra: the extra of jaxmeta that installs it.

    Raises:
      MissingExtraError: if it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{module} cannot be imported ({error}); {command(extra)} installs it") from error


def command(extra: str) -> str:
    """Returns the command that installs an extra."""
    return f'pip install "jaxmeta[{extra}]"'


def check_name(field: str, name: str, known: Iterable[str]) -> None:
    """Raises a ValueError, which suggests a near miss, unless a library knows a name.

    Args:
      field: the config's field that holds it, such as `tasks.env`.
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"{field} is {name!r}, which does not exist; {checks.near_miss(name, known)}")
