"""Figures: learning and adaptation curves, trials on grids and in mazes, predictions of sine waves."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

PICTURE = "made by jaxmeta"
"""Metadata of figures; files without it are not overwritten."""


def __getattr__(name: str) -> Any:
    """Imports a module of figures when it is first used, as in `jm.viz.sweeps`."""
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
