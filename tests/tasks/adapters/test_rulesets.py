"""Random rulesets: every goal can be reached by the rules, and no ruleset is there twice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jaxmeta.tasks.adapters import rulesets
from jaxmeta.tasks.adapters.xland import XLandConfig


def objects(code):
    """The objects of a goal, or those of a rule and what it makes of them."""
    return tuple(zip(code[1::2], code[2::2], strict=True))


def inputs(rule):
    return objects(rule)[:-1]


def makeable(one):
    """All objects that can be there at some time: what was placed, and what rules make of it."""
    there = set(one.tiles)
    while True:
        made = {objects(rule)[-1] for rule in one.rules if there.issuperset(inputs(rule))}
        if made <= there:
            return there
        there |= made


@pytest.mark.parametrize("name", rulesets.LEVELS)
def test_every_goal_can_be_reached(name):
    level, rng = rulesets.LEVELS[name], random.Random(0)
    most = 2 * (2**level.depth - 1) + level.distractor_rules
    seen = set()
    for _ in range(300):
        one = rulesets.draw(level, rng)
        assert makeable(one).issuperset(objects(one.goal))
        assert len(one.rules) <= most
        seen.add(len(one.rules))
        assert max(max(one.goal), *(max(rule) for rule in one.rules), 0) < rulesets.NUM_IDS
    assert min(seen) == 0 or level.prune < 0.2
    assert max(seen) >= most - 3


def test_without_pruning_rules_are_needed():
    """Nothing that a rule on the way to the goal makes is there from the start."""
    level, rng = rulesets.Level(depth=2, prune=0.0, distractor_rules=0, distractor_objects=3), random.Random(1)
    for _ in range(100):
        one = rulesets.draw(level, rng)
        made = {objects(rule)[-1] for rule in one.rules}
        assert made.isdisjoint(one.tiles) and made.issuperset(objects(one.goal))


def test_goals_are_uniform_over_their_eleven_ways():
    rng = random.Random(2)
    goals = [rulesets.draw(rulesets.LEVELS["trivial"], rng).goal[0] for _ in range(11_000)]
    ways = (1, *rulesets.GOALS.agent_near, *rulesets.GOALS.objects_near)
    np.testing.assert_allclose([goals.count(way) for way in ways], 1000, atol=150)


def test_no_ruleset_is_there_twice():
    goals, rules, tiles = rulesets.different("small", 500, seed=0)
    assert goals.shape == (500, 5) and rules.shape[::2] == (500, 7) and tiles.shape[::2] == (500, 2)
    codes = {(goal.tobytes(), rule.tobytes()) for goal, rule in zip(goals, rules, strict=True)}
    assert len(codes) == 500
    for same, other in zip(rulesets.different("small", 500, seed=0), (goals, rules, tiles), strict=True):
        np.testing.assert_array_equal(same, other)
    assert not np.array_equal(rulesets.different("small", 500, seed=1)[0], goals)


def test_sets_that_cannot_be_disjoint_are_refused():
    most = rulesets.NUM_GOALS
    XLandConfig(benchmark="trivial", num_train=most - 1, num_test=1)
    XLandConfig(benchmark="small", num_train=most, num_test=1)
    with pytest.raises(
        ValueError, match=f"num_test is {most + 1}, but there are only {most} trivial rulesets"
    ) as found:
        XLandConfig(benchmark="trivial", num_train=most, num_test=1)
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_all_trivial_rulesets_are_found():
    assert len(rulesets.different("trivial", rulesets.NUM_GOALS, seed=0)[0]) == rulesets.NUM_GOALS
