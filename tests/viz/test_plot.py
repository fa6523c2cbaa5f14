"""Pictures: what is in them, without looking at pixels."""

from __future__ import annotations

import numpy as np
import pytest

from jaxmeta.experiment import histories
from jaxmeta.viz import per_task as per_task_figure
from jaxmeta.viz import plot, tables


def point(mean):
    return {"mean": mean, "stderr": 0.1, "iqm": mean, "ci95": [mean - 0.2, mean + 0.2]}


def evaluation(rounds, episodes, num_seeds=1):
    returns = [[point(r + 0.1 * k) for k in range(episodes)] for r in range(rounds)]
    named = {"algo": "maml", "tasks": "navigation", "num_tasks": 40, "num_seeds": num_seeds, "step": 7}
    return named | {"returns": returns}


def records(updates, num_seeds=1):
    lines = []
    for update in range(1, updates + 1):
        values = {"return/first": 0.0, "return/last": float(update)}
        several = {name: [value - 1, *[value] * (num_seeds - 2), value + 1] for name, value in values.items()}
        lines.append({"update": update, "env_steps": 10.0 * update} | values)
        if num_seeds > 1:
            lines[-1]["seeds"] = several
    return lines


def test_learning_curve_has_both_returns_over_steps():
    (axes,) = plot.learning(records(5), "title").axes
    before, after = axes.get_lines()
    np.testing.assert_allclose(after.get_xdata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(after.get_ydata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(before.get_ydata(), 0)
    assert "steps" in axes.get_xlabel() and "return" in axes.get_ylabel()


def test_learning_curve_of_several_seeds_has_their_interval():
    (axes,) = plot.learning(records(5, num_seeds=3), "title").axes
    assert len(axes.collections) == 2
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [1, 2, 3, 4, 5])


def test_running_mean_keeps_a_constant_and_a_line_inside():
    np.testing.assert_allclose(histories.running_mean(np.ones(9), 5), 1)
    np.testing.assert_allclose(histories.running_mean(np.arange(9.0), 3)[1:-1], np.arange(1, 8))


def test_window_interval_is_the_t_interval_of_the_window():
    values = 1000 + np.random.default_rng(0).normal(size=(9, 5))
    half = histories.window_interval(values[:, 0], 5)
    np.testing.assert_allclose(half[4], histories.t_interval(values[2:7, :1])[0])
    np.testing.assert_allclose(half[0], histories.t_interval(values[:3, :1])[0])  # the window shrinks at the ends


def test_learning_curve_of_one_seed_has_the_interval_of_its_running_mean():
    (axes,) = plot.learning(records(40), "title").axes
    assert len(axes.collections) == 2
    assert any("running mean over 5 updates and its 95 % interval" in text.get_text() for text in axes.texts)


def test_more_agents_than_colours_are_told_apart():
    curve = {"mean": [3.0, 1.0], "ci95": np.array([[2.0, 4.0], [0.5, 1.5]])}
    axes = plot.adaptation_curves({f"agent {index}": curve for index in range(9)}, "title").axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 9


@pytest.mark.parametrize(
    ("rounds", "episodes", "ticks"), [(3, 1, [0, 1, 2]), (1, 4, [1, 2, 3, 4]), (2, 2, [1, 2, 3, 4]), (1, 1, [0])]
)
def test_adaptation_curve_counts_rounds_or_episodes(rounds, episodes, ticks):
    (axes,) = plot.adaptation(evaluation(rounds, episodes), "title").axes
    np.testing.assert_allclose(axes.get_xticks(), ticks)


def test_draw_writes_pictures_even_of_missing_values(tmp_path):
    lines = records(30)
    lines[3]["return/last"] = None
    files = plot.draw(tmp_path, lines, evaluation(2, 1, num_seeds=3))
    assert [file.name for file in files] == ["learning.png", "adaptation.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_bias_and_deviation_are_lines_over_streams():
    curves = {"ratio": ([1, 2], [0.2, 0.1], [3.0, 2.0]), "e-maml": ([1, 2], [1e-8, 0.0], [4.0, 3.0])}
    bias, deviation = tables.bias_and_deviation(curves, "title", "source").axes
    np.testing.assert_allclose(bias.get_lines()[0].get_ydata(), [0.2, 0.1])
    np.testing.assert_allclose(bias.get_lines()[1].get_ydata(), 1e-4)  # rounding, at the bottom
    np.testing.assert_allclose(deviation.get_lines()[1].get_ydata(), [4.0, 3.0])


def test_success_rates_have_an_axis_of_their_own():
    result = evaluation(3, 1)
    axes, second = plot.adaptation(result | {"success": [[point(0.25 * r)] for r in range(3)]}, "title").axes
    np.testing.assert_allclose(second.get_lines()[0].get_ydata(), [0, 0.25, 0.5])
    assert "success" in second.get_ylabel() and "success" in axes.get_legend().get_texts()[-1].get_text()
    assert len(plot.adaptation(result, "title").axes) == 1
    logged = [record | {"success/last": 0.5} for record in records(5)]
    _, second = plot.learning(logged, "title").axes
    np.testing.assert_allclose(second.get_lines()[0].get_ydata(), 0.5)


def per_task(tasks, success=False):
    """An evaluation on a finite set, whose task 1 has the lowest return."""
    named = {"task": 0, "name": "0.5, 0"}
    each = [named | {"task": k, "return": point(-5.0 if k == 1 else float(k))} for k in range(tasks)]
    if success:
        each = [one | {"success": point(0.5)} for one in each]
    return evaluation(1, 1) | {"num_tasks": tasks, "trials_per_task": 7, "per_task": each, "worst_task": 1}


def test_every_task_has_a_point_with_its_interval_and_the_worst_is_marked():
    (axes,) = per_task_figure.returns(per_task(4), "title").axes
    ordinary, worst = axes.containers
    np.testing.assert_allclose(ordinary.lines[0].get_data(), [[0, 2, 3], [0, 2, 3]])
    np.testing.assert_allclose(worst.lines[0].get_data(), [[-5], [1]])
    (bars,) = worst.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0], [[-5.2, 1], [-4.8, 1]])
    assert worst.get_label() == "lowest return" and ordinary.lines[0].get_color() != worst.lines[0].get_color()
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "task 1 (0.5, 0)"
    assert any("4 tasks, 7 trials on each" in text.get_text() for text in axes.texts)


def test_success_by_task_has_a_panel_of_its_own():
    _, success = per_task_figure.returns(per_task(60, success=True), "title").axes
    np.testing.assert_allclose(success.containers[0].lines[0].get_xdata(), 0.5)


def test_draw_adds_the_picture_by_task(tmp_path):
    files = plot.draw(tmp_path, [], per_task(2))
    assert [file.name for file in files] == ["adaptation.png", "per-task.png"] and files[1].stat().st_size > 1000
