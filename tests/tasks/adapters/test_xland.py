"""XLand-MiniGrid as tasks: goals and rules that we draw do in the suite what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, testing
from jaxmeta.tasks.adapters import rulesets
from jaxmeta.tasks.adapters.xland import XLandConfig, xland
from jaxmeta.types import Discrete
from tests import tiny

pytest.importorskip("xminigrid", reason='xminigrid is not installed (pip install "jaxmeta[xland]")')

SMALL = XLandConfig(num_train=6, num_test=3, horizon=4)
KEY = jax.random.key(0)
FORWARD, RIGHT, LEFT, PICK_UP, PUT_DOWN, TOGGLE = range(6)


@pytest.fixture(scope="module")
def family():
    return xland(SMALL)


def test_training_and_held_out_rulesets_are_disjoint(family):
    draw = jax.jit(lambda law, keys: jax.vmap(lambda key: family.encode(law(key)))(keys), static_argnums=0)
    keys = jax.random.split(KEY, 200)
    train, test = (
        {code.tobytes() for code in np.asarray(draw(law, keys))} for law in (family.sample, family.sample_test)
    )
    assert (len(train), len(test)) == (6, 3) and not train & test


def test_the_view_is_one_hot(family):
    spec = family.env.spec
    assert (spec.observation.shape, spec.observation.dtype, spec.action) == ((5, 5, 25), jnp.bool_, Discrete(6))
    _, obs = family.env.reset(KEY, family.sample(KEY))
    obs = np.asarray(obs)
    assert (obs[..., :13].sum(-1) == 1).all() and (obs[..., 13:].sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("env", "cells"),
    [("XLand-MiniGrid-R1-9x9", 81), ("XLand-MiniGrid-R4-13x13", 169), ("XLand-MiniGrid-R6-13x13", 169)],
)
def test_the_horizon_is_the_suites(env, cells):
    assert xland(XLandConfig(env=env, num_train=1, num_test=1)).env.spec.horizon == 3 * cells


BALL, KEY_OBJECT, STAR = (rulesets.BALL, 1), (rulesets.KEY, 5), (rulesets.STAR, 3)


@pytest.fixture(scope="module")
def played():
    """Plays actions on one ruleset in a grid whose only objects are given; returns all steps."""
    family = xland(XLandConfig(num_train=1, num_test=1, horizon=10))
    step = jax.jit(family.env.step)

    def play(goal, rules, objects, actions, pocket=None):
        task = family.sample(KEY).replace(
            goal=jnp.array([*goal, *[0] * (5 - len(goal))], jnp.uint8),
            rules=jnp.array([[*rule, *[0] * (7 - len(rule))] for rule in rules], jnp.uint8),
        )
        task = task.replace(init_tiles=jnp.zeros_like(task.init_tiles))
        state, _ = family.env.reset(KEY, task)
        inner = state.state
        grid = inner.grid
        for place, tile in objects.items():
            grid = grid.at[place].set(jnp.array(tile, jnp.uint8))
        # in row 4, column 4, looking up
        agent = inner.agent.replace(
            position=jnp.full_like(inner.agent.position, 4), direction=inner.agent.direction * 0
        )
        if pocket:
            agent = agent.replace(pocket=jnp.array(pocket, jnp.uint8))
        state = state.replace(state=inner.replace(grid=grid, agent=agent))
        steps = []
        for action in actions:
            state, outcome = step(KEY, state, jnp.int32(action), task)
            steps.append(outcome)
        return steps

    return play


NO_RULE = [(0,)]


def rewarded(steps):
    """Which of the steps end the episode; they pay and succeed."""
    for time, step in enumerate(steps, 1):
        assert step.terminated == step.success == (step.reward > 0)
        if step.terminated:
            np.testing.assert_allclose(step.reward, 1 - 0.9 * time / 10, rtol=1e-6)
    return [bool(step.terminated) for step in steps]


def test_holding_the_goal_pays(played):
    goal = (rulesets.GOALS.hold, *BALL)
    assert rewarded(played(goal, NO_RULE, {(3, 4): BALL}, [TOGGLE, PICK_UP])) == [False, True]
    assert rewarded(played(goal, NO_RULE, {(3, 4): STAR}, [TOGGLE, PICK_UP])) == [False, False]


@pytest.mark.parametrize("way", range(5))
def test_standing_next_to_the_goal_pays(played, way):
    """The first way is any side; the suite then lists up, right, down and left of the agent in some order."""
    goal = (rulesets.GOALS.agent_near[way], *BALL)
    # two steps forward, to row 2: an object at each side of the place where the agent is then
    sides = {(1, 4): 1, (2, 5): 2, (3, 4): 3, (2, 3): 4}
    hits = [
        sides[side]
        for side in ((1, 4), (2, 5), (2, 3))
        if rewarded(played(goal, NO_RULE, {side: BALL}, [FORWARD, FORWARD]))[1]
    ]
    assert hits == {0: [1, 2, 4], 1: [1], 2: [2], 3: [], 4: [4]}[way]


@pytest.mark.parametrize("way", range(5))
def test_putting_two_objects_next_to_each_other_pays(played, way):
    goal = (rulesets.GOALS.objects_near[way], *BALL, *STAR)
    # the ball is put down in row 3, column 4
    sides = {(2, 4): 1, (3, 5): 2, (3, 3): 4}
    hits = [
        number
        for side, number in sides.items()
        if rewarded(played(goal, NO_RULE, {side: STAR}, [PUT_DOWN], pocket=BALL))[0]
    ]
    assert len(hits) == (3 if way == 0 else len(hits)) and len(hits) in (0, 1, 3)


def test_a_rule_makes_what_the_goal_needs(played):
    """The key is not there: the ball becomes one, when the agent comes near it."""
    goal = (rulesets.GOALS.hold, *KEY_OBJECT)
    near = (rulesets.RULES.agent_near[0], *BALL, *KEY_OBJECT)
    actions = [FORWARD, PICK_UP]
    assert rewarded(played(goal, NO_RULE, {(2, 4): BALL}, actions)) == [False, False]
    assert rewarded(played(goal, [near], {(2, 4): BALL}, actions)) == [False, True]
    hold = (rulesets.RULES.hold, *BALL, *KEY_OBJECT)
    assert rewarded(played(goal, [hold], {(3, 4): BALL}, [PICK_UP])) == [True]
    beside = (rulesets.RULES.objects_near[0], *BALL, *STAR, *KEY_OBJECT)
    made = played(goal, [beside], {(2, 4): STAR}, [PUT_DOWN, PICK_UP, FORWARD, PICK_UP], pocket=BALL)
    assert any(rewarded(made))


@pytest.mark.parametrize("benchmark", [*rulesets.LEVELS])
def test_every_benchmark_resets(benchmark):
    """All objects fit into the room, and none is lost."""
    config = XLandConfig(benchmark=benchmark, num_train=20, num_test=1)
    family = xland(config)
    tasks = family.train_tasks
    state, _ = jax.jit(jax.vmap(family.env.reset))(jax.random.split(KEY, 20), tasks)
    placed = (state.state.grid[..., 0] > 2).sum((1, 2))
    np.testing.assert_array_equal(placed, (tasks.init_tiles[..., 0] > 0).sum(1))


@pytest.mark.parametrize("env", ["XLand-MiniGrid-R1-9x8", "MiniGrid-DoorKey-5x5"])
def test_a_wrong_id_on_the_command_line_is_one_line(env, tmp_path, capsys):
    line = ["train", "rl2", "xland", "--tasks.env", env, "--tasks.num-train", "2", "--tasks.num-test", "2"]
    assert cli.main([*line, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"tasks.env is {env!r}, which does not exist; " in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "rl2", "maml"])
def test_updates_are_finite(name, family):
    meta = tiny.algo(name, family)
    seen = []
    see = lambda update, state, metrics: seen.append(metrics)  # noqa: E731
    jm.train(meta, jm.init_state(meta, KEY), 3, chunk=3, callbacks=[see])
    assert seen[-1]["nonfinite_tasks"].sum() == 0 and seen[-1]["env_steps"].sum() > 0


# no trial this short is rewarded, so without an entropy bonus MAML has no gradient
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rl2", "ppo"])
def test_algorithms_hold_the_contract(name, family):
    testing.check_algo(tiny.algo(name, family))
