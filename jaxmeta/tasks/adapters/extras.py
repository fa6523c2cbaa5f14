"""Imports of optional libraries."""

from __future__ import annotations

import importlib
from typing import Any


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
