"""What all figures share: colours, canvases, and the look of axes."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.viz import PICTURE

# from Okabe and Ito's colour-blind safe palette, distinguishable in greyscale
BEFORE, AFTER, OPTIMUM = "#E69F00", "#0072B2", "#009E73"
LINES = (BEFORE, AFTER, OPTIMUM, "#D55E00", "#CC79A7", "#56B4E9", "#000000")


@functools.cache
def _kind() -> Any:
    """Returns the class of figures; not at import, because matplotlib takes long to import."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows as the value of a cell, even if pyplot was never used in it."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Shown


def figure(size: tuple[float, float]):
    """Makes an empty figure of a size in inches."""
    # not pyplot, which needs a display and keeps every figure in memory
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made = _kind()(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    return made


def titled(title: str):
    """Makes a figure with one pair of axes, and returns both."""
    made = figure((6.4, 4.0))
    axes = made.add_subplot()
    axes.set_title(title, fontweight="bold", loc="left", pad=22)
    plain(axes)
    return made, axes


def plain(axes) -> None:
    """Draws a light grid behind the data, and no frame at the top and at the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def subtitle(axes, text: str) -> None:
    """Writes a line between title and axes."""
    where = {"xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate(text, (0, 1), (0, 6), **where, color="0.35", fontsize=9)
    note.set_in_layout(False)  # a long text must not shrink the axes


def save(figure, file: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(file, dpi=150, format="png", metadata={"Software": PICTURE})


def column(points: list[dict[str, Any]], name: str) -> np.ndarray:
    """Collects a number of every point; None becomes NaN."""
    return np.array([number(point[name]) for point in points])


def number(value: float | None) -> float:
    """Converts None to NaN, which JSON stores as null."""
    return np.nan if value is None else float(value)
