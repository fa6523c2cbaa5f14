"""Figures are shown by notebooks."""

from __future__ import annotations

from IPython.core.formatters import DisplayFormatter

from jaxmeta.viz import canvas


def test_a_notebook_shows_a_figure_without_pyplot():
    figure, axes = canvas.titled("a line")
    axes.plot([0, 1])
    shown, _ = DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
