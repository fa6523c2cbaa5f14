"""Random rulesets of XLand-MiniGrid (Nikulin et al., 2023, arXiv:2312.12044), as integers.

The procedure is that of the suite's generator, with the settings of its benchmarks, and so is the encoding. A ruleset
is a goal, production rules and initial objects. Rules are drawn backwards from the goal: each makes an object of the
level above out of fresh ones. Distractors are objects and rules that the goal does not need. Nothing is downloaded: the
suite's own benchmarks are files that the same procedure made with other random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

BALL, SQUARE, PYRAMID, GOAL, KEY, HEX, STAR = 3, 4, 5, 6, 7, 11, 12
MOVABLE = (BALL, SQUARE, PYRAMID, KEY, STAR, HEX)
"""Kinds of objects that the agent can pick up."""
COLORS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 11)
"""All but black, which is the floor's."""
FLOOR = (1, 7)
"""What an object that a rule removes is replaced by."""
NUM_GOALS = 60 + 5 * 70 + 5 * 70 * 60
"""Different goals: hold an object; be next to one, in 5 ways; put two next to each other, in 5 ways."""
NUM_IDS = 15
"""Every integer of a goal or rule is smaller."""

Tile = tuple[int, int]
"""Kind and colour."""
Code = tuple[int, ...]


class Conditions(NamedTuple):
    """The suite's ids of goals or rules, by what they look at; the ways are: near, and four directions."""

    hold: int
    agent_near: tuple[int, ...]
    objects_near: tuple[int, ...]


GOALS = Conditions(1, (3, 11, 12, 13, 14), (4, 7, 8, 9, 10))
RULES = Conditions(1, (2, 8, 9, 10, 11), (3, 4, 5, 6, 7))


class Level(NamedTuple):
    """Parameters of the generator."""

    depth: int
    """Levels of rules below the goal."""
    prune: float
    """Probability that an object which a rule could make is there from the start."""
    distractor_rules: int
    """Largest number of rules that do not lead to the goal."""
    distractor_objects: int
    """Number of objects that no rule on the way to the goal needs."""


LEVELS = {
    "trivial": Level(depth=0, prune=0.0, distractor_rules=0, distractor_objects=3),
    "small": Level(depth=1, prune=0.3, distractor_rules=2, distractor_objects=2),
    "medium": Level(depth=2, prune=0.1, distractor_rules=3, distractor_objects=2),
    "high": Level(depth=3, prune=0.1, distractor_rules=4, distractor_objects=1),
}
"""Those of the suite's benchmarks trivial, small, medium and high."""


class Ruleset(NamedTuple):
    """One ruleset, in the suite's encoding."""

    goal: Code
    rules: tuple[Code, ...]
    tiles: tuple[Tile, ...]


def different(benchmark: str, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples rulesets, no two of which have the same goal and rules.

    Args:
      benchmark: one of `LEVELS`.
      number: number of rulesets, M; at most `NUM_GOALS` for a benchmark without rules.
      seed: determines the rulesets.

    Returns:
      Goals [M, 5], rules [M, R, 7] and initial tiles [M, I, 2], uint8, in random order. Rules and tiles are padded with
      zeros, which XLand-MiniGrid ignores.
    """
    rng, found = random.Random(seed), {}
    while len(found) < number:
        one = draw(LEVELS[benchmark], rng)
        found.setdefault((one.goal, one.rules), one)
    rulesets = list(found.values())
    rng.shuffle(rulesets)  # rare ones are found late
    goals = _padded([(one.goal,) for one in rulesets], 5)[:, 0]
    return goals, _padded([one.rules for one in rulesets], 7), _padded([one.tiles for one in rulesets], 2)


def check_number(benchmark: str, number: int) -> None:
    """Raises a ValueError if there are not so many rulesets, training and held-out ones together."""
    if benchmark == "trivial" and number > NUM_GOALS:
        raise ValueError(
            f"tasks.num_train + tasks.num_test is {number}, but there are only {NUM_GOALS} trivial rulesets; make them"
            " smaller, so that the sets can be disjoint"
        )


def draw(level: Level, rng: random.Random) -> Ruleset:
    """Draws one ruleset."""
    goal, needed = _condition(GOALS, rng)
    taken, rules, tiles = list(needed), [], []
    for _ in range(level.depth):
        made, needed = needed, ()
        for product in made:
            if rng.random() < level.prune:
                tiles.append(product)
                continue
            rule, inputs = _condition(RULES, rng, taken)
            rules.append((*rule, *product))
            taken += inputs
            needed += inputs
    tiles += needed
    tiles += [_tile((*MOVABLE, GOAL), rng, taken) for _ in range(level.distractor_objects)]
    for _ in range(rng.randint(0, level.distractor_rules)):
        vanishes = rng.randrange(len(MOVABLE) * len(COLORS) + 1) == 0
        product = FLOOR if vanishes else _tile(MOVABLE, rng, taken)
        rule, inputs = _condition(RULES, rng)
        rules.append((*rule, *product))
        tiles += inputs
    return Ruleset(goal, tuple(rules), tuple(tiles))


def _condition(ids: Conditions, rng: random.Random, taken: Collection[Tile] = ()) -> tuple[Code, tuple[Tile, ...]]:
    """Draws the condition of a goal or rule; returns its code and the objects in it, none of them in `taken`."""
    way = rng.randrange(11)
    if way == 0:
        tiles, kind = (_tile(MOVABLE, rng, taken),), ids.hold
    elif way <= 5:
        # only a goal may be to stand next to a goal tile
        tiles = (_tile((*MOVABLE, GOAL) if ids is GOALS else MOVABLE, rng, taken),)
        kind = ids.agent_near[way - 1]
    else:
        tiles = _tile((*MOVABLE, GOAL), rng, taken), _tile(MOVABLE, rng, taken)
        kind = ids.objects_near[way - 6]
    return (kind, *(number for tile in tiles for number in tile)), tiles


def _tile(kinds: tuple[int, ...], rng: random.Random, taken: Collection[Tile]) -> Tile:
    while (tile := (rng.choice(kinds), rng.choice(COLORS))) in taken:
        pass
    return tile


def _padded(rows: list, width: int) -> np.ndarray:
    """Puts tuples of codes into one array, [M, most, width], at least one of each."""
    array = np.zeros((len(rows), max(1, *map(len, rows)), width), np.uint8)
    for row, codes in zip(array, rows, strict=True):
        for place, code in zip(row, codes, strict=False):
            place[: len(code)] = code
    return array
