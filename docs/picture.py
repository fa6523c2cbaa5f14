"""Composes the picture of the README from the records in `benchmarks/results`: `python docs/picture.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from jaxmeta.viz import canvas

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
STEPS = (
    ("truth", {"color": "0.75", "linewidth": 4}),
    ("before adaptation", {"color": canvas.LINES[0], "linestyle": "--"}),
    ("1 step", {"color": canvas.LINES[1]}),
    ("5 steps", {"color": canvas.LINES[2], "linestyle": "-."}),
    ("10 steps", {"color": canvas.LINES[3], "linestyle": ":"}),
    ("data of the task", {"color": "black", "marker": "^", "linestyle": ""}),
)
"""The lines of `reproduce-sinusoid-predictions.png`."""


def main() -> None:
    """Draws an adaptation curve of MAML beside a trial of it."""
    figure = canvas.figure((10.0, 3.9))
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    rows = json.loads((RESULTS / "reproduce-navigation.json").read_text())["rows"]
    rows = [row for row in rows if row["name"].startswith("navigation/maml step")]
    mean = np.array([row["ours"] for row in rows])
    error = np.abs(np.array([row["ci95"] for row in rows]).T - mean)
    canvas.plain(left)
    left.errorbar(
        range(len(rows)), mean, error, color=canvas.AFTER, marker="o", linewidth=2, capsize=4, label="jaxmeta"
    )
    published = [row["published"] for row in rows]
    left.plot(published, "s--", color=canvas.BEFORE, label="Finn et al., 2017", zorder=1)
    left.set_title("MAML on 2D navigation: return", loc="left", fontweight="bold", fontsize=11)
    left.set_xlabel("gradient steps on a new goal")
    left.set_xticks(range(len(rows)))
    left.legend(frameon=False, loc="lower right")
    drawn = imread(RESULTS / "reproduce-sinusoid-predictions.png")
    right.imshow(drawn[24:486, :722])  # the panel of MAML, without its title
    right.set_axis_off()
    right.set_title("MAML on a new sine wave: predictions", loc="left", fontweight="bold", fontsize=11)
    handles = [right.plot([], [], linewidth=2, label=label)[0] for label, _ in STEPS]
    for handle, (_, style) in zip(handles, STEPS, strict=True):
        handle.set(**style)
    right.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3, frameon=False, fontsize=8)
    figure.savefig(DOCS / "images" / "adaptation.png", dpi=110)


if __name__ == "__main__":
    main()
