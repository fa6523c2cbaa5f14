"""Visualises similarities of tasks: the tasks in the plane, and similarity against true distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmeta.viz import canvas

BINS = 40


def principal_components(descriptions: np.ndarray) -> np.ndarray:
    """Projects descriptions [N, D] on their two directions of largest variance: [N, 2], with mean zero.

    Each component has its largest entry, in absolute value, positive. If D is 1, the second component is zero.
    """
    centred = np.asarray(descriptions, np.float64)
    centred = centred - centred.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    found = (left * sizes)[:, :2]
    return _in_plane(found)


def classical_scaling(distances: np.ndarray) -> np.ndarray:
    """Places tasks in the plane from their distances [N, N] by classical multidimensional scaling: [N, 2].

    Of Euclidean distances it is the same as `principal_components` of the points.
    """
    squared = np.square(np.asarray(distances, np.float64))
    centred = squared - squared.mean(0) - squared.mean(1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    largest = np.argsort(values)[::-1][:2]
    return _in_plane(vectors[:, largest] * np.sqrt(np.maximum(values[largest], 0.0)))


def draw_plane(embeddings: Mapping[str, np.ndarray], codes: np.ndarray, names: tuple[str, ...], title: str) -> Any:
    """Draws tasks in the plane, coloured by their true parameters: a row per similarity, a column per parameter.

    Args:
      embeddings: by similarity, the descriptions of the tasks, [N, D]; see `principal_components`.
      codes: the tasks as vectors, [N, P], such as `family.encode` returns.
      names: names of the P parameters.

    Returns:
      A matplotlib figure.
    """
    rows, columns = len(embeddings), len(names)
    figure = canvas.figure((3.6 * columns, 3.0 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for line, (kind, descriptions) in zip(grid, embeddings.items(), strict=True):
        x, y = principal_components(descriptions).T
        for axes, name, values in zip(line, names, np.asarray(codes).T, strict=True):
            points = axes.scatter(x, y, c=values, s=12, cmap="viridis")
            figure.colorbar(points, ax=axes, label=name)
            axes.set_aspect("equal", "datalim")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(kind, fontsize=9)
    figure.suptitle(title, fontweight="bold", fontsize=10)
    return figure


def draw_agreement(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], distance: str, title: str) -> Any:
    """Draws heat maps of similarity against true distance over all pairs of tasks, one per similarity.

    The colour is the share of pairs among those of about the same distance, so that every column sums to 1. Each is
    titled with Spearman's rank correlation.

    Args:
      pairs: by similarity, the similarities and the true distances, the same shape each.
      distance: what the true distance is, with its unit.

    Returns:
      A matplotlib figure.
    """
    from jaxmeta.similarity import rank_correlation

    figure = canvas.figure((3.4 * len(pairs), 3.4))
    for axes, (name, (alike, apart)) in zip(
        figure.subplots(1, len(pairs), squeeze=False)[0], pairs.items(), strict=True
    ):
        counts, x, y = np.histogram2d(np.ravel(apart), np.ravel(alike), bins=BINS)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)
        axes.pcolormesh(x, y, share.T, cmap="magma_r")
        axes.set_xlabel(distance)
        axes.set_ylabel("similarity")
        axes.set_title(f"{name}: Spearman {rank_correlation(alike, apart):.3f}", fontsize=9)
    figure.suptitle(title, fontweight="bold", fontsize=10)
    return figure


def _in_plane(points: np.ndarray) -> np.ndarray:
    """Pads points [N, at most 2] with zeros to [N, 2], and fixes the signs of the axes."""
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    largest = points[np.abs(points).argmax(0), np.arange(2)]
    return points * np.where(largest < 0, -1.0, 1.0)
