"""Tasks in the plane, and similarity against distance."""

from __future__ import annotations

import numpy as np

from jaxmeta.viz import similarity

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(12, 2)) * [3.0, 1.0]


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_points_in_a_plane_of_a_larger_space_are_found_again():
    turn, _ = np.linalg.qr(RANDOM.normal(size=(5, 5)))
    found = similarity.principal_components(np.pad(POINTS, ((0, 0), (0, 3))) @ turn + 7.0)
    np.testing.assert_allclose(distances(found), distances(POINTS), atol=1e-9)
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-12)
    assert found[:, 0].var() > found[:, 1].var()


def test_scaling_of_euclidean_distances_equals_the_components():
    found = similarity.classical_scaling(distances(POINTS))
    np.testing.assert_allclose(found, similarity.principal_components(POINTS), atol=1e-6)


def test_a_line_has_no_second_component():
    line = np.array([[0.0], [1.0], [2.0], [5.0]])
    expected = [[-2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [3.0, 0.0]]
    np.testing.assert_allclose(similarity.principal_components(line), expected, atol=1e-12)


def test_pictures_show_what_they_are_given():
    embeddings = {"params": POINTS, "beliefs": POINTS[:, :1]}
    figure = similarity.draw_plane(embeddings, POINTS, ("x", "y"), "title")
    panels = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == ["params", "params", "beliefs", "beliefs"]
    (points,) = panels[1].collections
    np.testing.assert_allclose(points.get_array(), POINTS[:, 1])
    np.testing.assert_allclose(points.get_offsets(), similarity.principal_components(POINTS))
    apart = distances(POINTS)
    figure = similarity.draw_agreement({"params": (-apart, apart)}, "distance (m)", "title")
    (axes,) = figure.axes
    assert axes.get_title() == "params: Spearman 1.000" and axes.get_xlabel() == "distance (m)"
    # exact agreement lies on a line: in every column of the heat map one cell has all pairs
    share = axes.collections[0].get_array()
    assert set(np.unique(share)) <= {0.0, 1.0}
