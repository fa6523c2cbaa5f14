"""Evaluation of each of finitely many tasks: which families have them, and what they are called."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.experiment import assessment, loading, logging
from tests import tiny
from tests.algos.test_multi_task import CONFIG, opposed_goals, salaries

KEY = jax.random.key(0)


def test_families_whose_held_out_tasks_are_the_training_tasks_are_finite():
    assert assessment.finite_tasks(tasks.classic_control()) is not None
    assert assessment.finite_tasks(opposed_goals()).index.shape == (6,)
    assert assessment.finite_tasks(tiny.family()) is None
    assert assessment.finite_tasks(salaries(*range(101))) is None
    # its held-out tasks are others
    assert assessment.finite_tasks(jm.tasks.finite(tiny.family(), 3, 2, KEY)) is None


def test_tasks_are_named_by_kind_or_by_their_numbers():
    names = lambda family: assessment.task_names(family, family.train_tasks)  # noqa: E731
    assert names(tasks.with_task_id(tasks.classic_control())) == ["CartPole", "Acrobot"]
    assert names(salaries(3.0, -1.0)) == ["3", "-1"]
    assert names(opposed_goals())[0] == "0.5, 0"
    long = salaries(1.0, 2.0)._replace(train_tasks=jnp.zeros((2, 5)))
    assert names(long) == ["", ""]


@pytest.fixture(scope="module")
def run():
    """An untrained agent on three tasks that pay 2 times 3, -1 and 2, as if loaded."""
    family = tasks.with_task_id(
        salaries(3.0, -1.0, 2.0)._replace(sample_test=tasks.base.among(jnp.array([3.0, -1, 2])))
    )
    meta = jm.multi_task(family, CONFIG)
    config = jm.RunConfig("multi-task", "navigation", CONFIG, tasks.NavigationConfig(), num_seeds=2)
    state = jm.init_state(meta, KEY, num_seeds=2)
    return loading.Run(None, config, family, meta, state)


def test_every_known_task_is_evaluated_equally_often(run, capsys):
    found = assessment.assess(run, num_tasks=4)
    assert (found["num_tasks"], found["trials_per_task"], found["worst_task"]) == (3, 2, 1)
    assert [one["return"]["mean"] for one in found["per_task"]] == [6.0, -2.0, 4.0]
    assert [one["name"] for one in found["per_task"]] == ["3", "-1", "2"]
    assert found["returns"][0][0]["mean"] == pytest.approx(8 / 3)
    logging.print_evaluation(found)
    printed = capsys.readouterr().out
    assert "return on 3 tasks, 2 trials on each x 2 seeds, taken together" in printed
    assert "lowest mean return is that of task 1 (-1)" in printed
    assert sum("task " in line and "│" in line for line in printed.splitlines()) == 3


def test_a_task_without_a_number_is_the_worst():
    returns = jnp.array([1.0, jnp.nan, -3.0])[:, None, None, None]
    report = jm.Report(returns, jnp.ones_like(returns))
    family = salaries(1.0, 2.0, 3.0)
    assert assessment._by_task(report, family, family.train_tasks)["worst_task"] == 1


def test_one_task_has_a_table_of_its_own():
    family = salaries(5.0)
    report = jm.Report(jnp.full((4, 1, 2, 1), 5.0), jnp.ones((4, 1, 2, 1)))
    found = assessment._by_task(report, family, family.train_tasks)
    assert (len(found["per_task"]), found["trials_per_task"], found["worst_task"]) == (1, 4, 0)
    assert found["per_task"][0]["return"]["ci95"] == [5.0, 5.0]
    assert logging.evaluated_on(found | {"num_seeds": 1}) == "1 task, 4 trials on each"


def test_kinds_are_evaluated_equally_often_and_named():
    two = tasks.several(*(salaries(*amounts) for amounts in ((1.0, 2.0, 3.0, 4.0), (5.0,))))
    known = two.train_tasks
    chosen = assessment.equally_often(known, 3)
    np.testing.assert_array_equal(chosen.kind, [0, 1, 0, 1])
    np.testing.assert_array_equal(chosen.parts[0][::2], [1.0, 3.0])
    assert assessment.task_names(two, known) == ["Salary", "Salary"]
    grouped = tasks.numbered(salaries(1.0, 2.0, 3.0), kinds=[0, 1, 1])
    assert assessment.task_names(grouped, grouped.train_tasks) == ["", ""]


def test_success_is_that_of_the_kinds_that_define_it():
    family = tasks.with_task_id(tasks.classic_control())
    values = jnp.ones((2, 1, 1, 1))
    found = assessment._by_task(jm.Report(values, values, values), family, family.train_tasks)
    assert ["success" in one for one in found["per_task"]] == [False, True]
