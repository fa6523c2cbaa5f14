from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks, testing
from jaxmeta.references import maze as reference
from jaxmeta.tasks.maze import draw_passages
from jaxmeta.viz import mazes

KEY = jax.random.key(0)
FORWARD, LEFT, RIGHT = range(3)
UP, EAST, DOWN, WEST = range(4)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
SMALL = tasks.MazeConfig(size=4, num_train=20, horizon=40)

DRAWN = """
#######
#     #
# ### #
# #   #
# # ###
# #   #
#######
"""


def maze_from(drawing, start=(0, 0), heading=UP, goal=(0, 1)):
    """Reads a maze of characters: `#` is a wall; rooms stand at odd rows and columns."""
    lattice = np.array([list(line) for line in drawing.strip().splitlines()]) == " "
    size = len(lattice) // 2
    passages = np.zeros((size, size, 4), bool)
    for (row, column), (heading_, (down, right)) in itertools.product(np.ndindex(size, size), enumerate(MOVES)):
        passages[row, column, heading_] = lattice[2 * row + 1 + down, 2 * column + 1 + right]
    number = lambda room: jnp.int32(room[0] * size + room[1])  # noqa: E731
    return tasks.MazeTask(
        passages=jnp.array(passages), start=number(start), heading=jnp.int32(heading), goal=number(goal)
    )


def lattice_of(passages):
    """Lays passages out as cells, True where they are open."""
    size = len(passages)
    lattice = np.zeros((2 * size + 1, 2 * size + 1), bool)
    for row, column in np.ndindex(size, size):
        lattice[2 * row + 1, 2 * column + 1] = True
        for heading, (down, right) in enumerate(MOVES):
            lattice[2 * row + 1 + down, 2 * column + 1 + right] |= passages[row, column, heading]
    return lattice


def view_of(passages, room, heading, goal, view=2):
    """Looks at the cells of a maze, one after the other, as the docstring of the family says."""
    lattice, goals = lattice_of(np.asarray(passages)), np.zeros(2 * np.array(passages.shape[:2]) + 1, bool)
    size = len(passages)
    goals[2 * (goal // size) + 1, 2 * (goal % size) + 1] = True
    place = np.array([2 * (room // size) + 1, 2 * (room % size) + 1])
    ahead, right = np.array(MOVES[heading]), np.array(MOVES[(heading + 1) % 4])
    seen = np.zeros((2 * view + 1, 5, 2), np.float32)
    for depth in range(2 * view + 1):
        if not lattice[tuple(place + depth * ahead)]:
            break
        for direction in (1, -1):
            for side in range(3):
                cell = tuple(place + depth * ahead + direction * side * right)
                if not lattice[cell]:
                    break
                seen[2 * view - depth, 2 + direction * side] = 1, goals[cell]
    return seen


def reachable(passages):
    """Counts the rooms that can be reached from room (0, 0)."""
    found, frontier = {(0, 0)}, [(0, 0)]
    while frontier:
        room = frontier.pop()
        for heading in np.flatnonzero(passages[room]):
            after = (room[0] + MOVES[heading][0], room[1] + MOVES[heading][1])
            if after not in found:
                found.add(after)
                frontier.append(after)
    return len(found)


def draw(law, size, key=KEY):
    return jax.jit(jax.vmap(law))(jax.random.split(key, size))


def distinct(task):
    return {bytes(np.packbits(passages)) for passages in np.asarray(task.passages)}


def first(task):
    return jax.tree.map(lambda leaf: leaf[0], task)


@functools.partial(jax.jit, static_argnums=0)
def reset(env, task):
    return env.reset(KEY, task)


@functools.partial(jax.jit, static_argnums=2)
def walk(task, actions, env):
    """Returns the states and steps after each action."""

    def one(state, action):
        state, step = env.step(KEY, state, action, task)
        return state, (state, step)

    return jax.lax.scan(one, env.reset(KEY, task)[0], actions)[1]


@pytest.mark.parametrize("size", [2, 3, 5, 9])
def test_a_maze_is_a_spanning_tree(size):
    passages = np.asarray(draw(lambda key: draw_passages(key, size), 100))
    assert (passages.sum((1, 2, 3)) == 2 * (size**2 - 1)).all()
    assert all(reachable(one) == size**2 for one in passages)


@pytest.mark.parametrize("openings", [0.0, 0.3])
def test_a_passage_leads_there_and_back_and_none_leads_outside(openings):
    passages = np.asarray(draw(lambda key: draw_passages(key, 4, openings), 200))
    np.testing.assert_array_equal(passages[:, :, :-1, EAST], passages[:, :, 1:, WEST])
    np.testing.assert_array_equal(passages[:, :-1, :, DOWN], passages[:, 1:, :, UP])
    for border in (passages[:, 0, :, UP], passages[:, -1, :, DOWN], passages[:, :, 0, WEST], passages[:, :, -1, EAST]):
        assert not border.any()


def test_openings_open_a_share_of_the_walls_that_are_left():
    share = lambda passages: (passages.sum((1, 2, 3)) / 2 - 15) / 9  # noqa: E731
    passages = np.asarray(draw(lambda key: draw_passages(key, 4, 0.3), 2000))
    np.testing.assert_allclose(share(passages).mean(), 0.3, atol=0.01)
    np.testing.assert_array_equal(share(np.asarray(draw(lambda key: draw_passages(key, 4, 1.0), 3))), 1.0)
    # the tree stays below
    tree = np.asarray(draw(lambda key: draw_passages(key, 4), 2000))
    assert (passages | ~tree).all()


def test_mazes_differ_by_their_key_alone():
    passages = draw(lambda key: draw_passages(key, 5), 500)
    assert len({bytes(one) for one in np.asarray(passages)}) > 490
    np.testing.assert_array_equal(passages, draw(lambda key: draw_passages(key, 5), 500))


def test_the_search_turns_to_each_side_alike():
    """Of two by two rooms a depth-first search leaves one wall of four, each as often."""
    passages = np.asarray(draw(lambda key: draw_passages(key, 2), 8000))
    walls = ~np.stack(
        [passages[:, 0, 0, EAST], passages[:, 0, 0, DOWN], passages[:, 1, 1, UP], passages[:, 1, 1, WEST]]
    )
    np.testing.assert_allclose(walls.mean(1), 0.25, atol=0.02)


def test_start_heading_and_goal_are_uniform_and_the_goal_is_elsewhere():
    task = draw(tasks.maze(tasks.MazeConfig(size=3, num_train=0)).sample, 18_000)
    pairs, counts = np.unique(np.stack([task.start, task.goal]), axis=1, return_counts=True)
    assert counts.size == 72 and (pairs[0] != pairs[1]).all()
    # the 99.9 % quantile of chi-squared with 71 degrees of freedom is 112.3, that with 3 is 16.3
    assert ((counts - 250) ** 2 / 250).sum() < 112.3
    counts = np.bincount(task.heading, minlength=4)
    assert counts.size == 4 and ((counts - 4500) ** 2 / 4500).sum() < 16.3


def test_training_draws_from_1000_fixed_mazes_and_testing_from_none_of_them():
    family = tasks.maze()
    train, again = draw(family.sample, 20_000), draw(family.sample, 4000, jax.random.key(1))
    known = distinct(train)
    assert len(known) == 1000 and distinct(again) <= known
    # goals are fixed as well
    with_goal = np.concatenate([train.passages.reshape(20_000, -1), np.asarray(train.goal)[:, None]], 1)
    assert len(np.unique(with_goal, axis=0)) == 1000
    test = distinct(draw(family.sample_test, 1000))
    assert not test & known and len(test) > 980


def test_training_starts_anywhere_in_its_mazes_but_at_the_goal():
    task = draw(tasks.maze(tasks.MazeConfig(size=3, num_train=1)).sample, 3200)
    places, counts = np.unique(np.stack([task.start, task.heading]), axis=1, return_counts=True)
    (goal,) = np.unique(task.goal)
    assert counts.size == 32 and goal not in places[0]
    # the 99.9 % quantile of chi-squared with 31 degrees of freedom
    assert ((counts - 100) ** 2 / 100).sum() < 61.1


def test_held_out_mazes_are_drawn_again_where_few_are_left():
    """Of the four mazes of two by two rooms two are trained on; a plain draw would be one of them every other time."""
    family = tasks.maze(tasks.MazeConfig(size=2, num_train=2))
    train, test = distinct(draw(family.sample, 200)), distinct(draw(family.sample_test, 200))
    assert len(train) == len(test) == 2 and not train & test


def test_the_seed_decides_the_mazes_to_train_on():
    mazes = lambda seed: distinct(  # noqa: E731
        draw(tasks.maze(tasks.MazeConfig(size=4, num_train=20, train_seed=seed)).sample, 500)
    )
    assert mazes(0) == mazes(0) != mazes(1)


def test_without_a_training_set_both_distributions_are_equal():
    family = tasks.maze(tasks.MazeConfig(size=4, num_train=0))
    assert len(distinct(draw(family.sample, 2000))) > 1500
    assert distinct(draw(family.sample, 100)) == distinct(draw(family.sample_test, 100))


def test_more_mazes_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"tasks.num_train is 3; it must be lower, as only 4 mazes .* --tasks.size 2"):
        tasks.maze(tasks.MazeConfig(size=2, num_train=3))


def test_actions_move_and_turn_as_named_and_walls_hold():
    task = maze_from(DRAWN, start=(0, 0), heading=UP, goal=(2, 0))
    actions = np.array([FORWARD, RIGHT, FORWARD, FORWARD, FORWARD, RIGHT, FORWARD, LEFT, LEFT])
    state, step = walk(task, actions, tasks.Maze(3))
    np.testing.assert_array_equal(state.room, [0, 0, 1, 2, 2, 2, 5, 5, 5])
    np.testing.assert_array_equal(state.heading, [UP, EAST, EAST, EAST, EAST, DOWN, DOWN, EAST, UP])
    np.testing.assert_allclose(step.reward, np.where(np.isin(np.arange(9), [0, 4]), -0.041, -0.04), rtol=1e-6)
    assert not step.terminated.any()


def test_the_goal_pays_1_and_ends_the_episode():
    task = maze_from(DRAWN, start=(0, 0), heading=EAST, goal=(1, 0))
    _, step = walk(task, np.array([RIGHT, FORWARD]), tasks.Maze(3))
    np.testing.assert_allclose(step.reward, [-0.04, 0.96], rtol=1e-6)
    np.testing.assert_array_equal(step.terminated, [False, True])
    assert tasks.Maze(3).spec.terminates


def test_every_episode_starts_alike():
    task = maze_from(DRAWN, start=(2, 1), heading=EAST)
    for key in jax.random.split(KEY, 3):
        state, _ = tasks.Maze(3).reset(key, task)
        assert (state.room, state.heading) == (7, EAST)


# from room (0, 0): the farthest row comes first, the agent stands in the middle of the last
VIEWS = {
    UP: ["     ", "     ", "     ", "     ", "  ..."],
    EAST: ["  ...", "  .  ", "  .  ", "  .  ", "  ..."],
    DOWN: ["  .  ", "  .  ", "  .  ", "  .  ", "...  "],
    WEST: ["     ", "     ", "     ", "     ", "...  "],
}


@pytest.mark.parametrize("heading", VIEWS)
def test_the_view_from_a_corner(heading):
    obs = reset(tasks.Maze(3), maze_from(DRAWN, start=(0, 0), heading=heading, goal=(2, 2)))[1]
    np.testing.assert_array_equal(obs[..., 0], np.array([list(line) for line in VIEWS[heading]]) == ".")
    assert not obs[..., 1].any()


GOAL_IN_SIGHT = [
    # goal, start, heading, its place in the window: rows from the farthest, columns from the left
    ((0, 2), (0, 0), EAST, (0, 2)),
    ((0, 1), (0, 0), EAST, (2, 2)),
    ((0, 1), (0, 0), UP, (4, 4)),
    ((0, 1), (0, 0), DOWN, (4, 0)),
    ((0, 1), (1, 0), UP, (2, 4)),
    ((1, 2), (0, 0), EAST, (0, 4)),
    # behind the agent; behind a wall; around two corners; past a wall beside it
    ((0, 0), (0, 1), EAST, None),
    ((1, 1), (0, 1), DOWN, None),
    ((1, 1), (0, 1), EAST, None),
    ((2, 1), (2, 0), EAST, None),
]


@pytest.mark.parametrize(("goal", "start", "heading", "place"), GOAL_IN_SIGHT)
def test_the_goal_is_seen_where_no_wall_hides_it(goal, start, heading, place):
    obs = np.asarray(reset(tasks.Maze(3), maze_from(DRAWN, start, heading, goal))[1])
    assert list(zip(*np.nonzero(obs[..., 1]), strict=True)) == ([place] if place else [])
    assert place is None or obs[*place, 0] == 1


@pytest.mark.parametrize(
    ("size", "view", "openings"), [(3, 1, 0.0), (5, 2, 0.0), (5, 2, 0.7), (4, 3, 1.0), (2, 4, 1.0)]
)
def test_the_view_is_that_of_a_look_at_every_cell(size, view, openings):
    task = draw(tasks.maze(tasks.MazeConfig(size=size, view=view, openings=openings, num_train=0)).sample, 150)
    obs = jax.jit(jax.vmap(lambda task: tasks.Maze(size, view).reset(KEY, task)[1]))(task)
    for index, seen in enumerate(np.asarray(obs)):
        expected = view_of(
            *(np.asarray(leaf)[index] for leaf in (task.passages, task.start, task.heading, task.goal)), view
        )
        np.testing.assert_array_equal(seen, expected)


def test_the_view_turns_with_the_maze():
    task = draw(tasks.maze(tasks.MazeConfig(openings=0.2, num_train=0)).sample, 100)
    see = jax.jit(jax.vmap(lambda task: tasks.Maze().reset(KEY, task)[1]))
    turned = lambda room: (room % 5) * 5 + 4 - room // 5  # noqa: E731
    # a quarter turn clockwise: the first row becomes the last column, and every heading the next
    other = task.replace(
        passages=jnp.roll(jnp.rot90(task.passages, -1, axes=(1, 2)), 1, axis=-1),
        start=turned(task.start),
        heading=(task.heading + 1) % 4,
        goal=turned(task.goal),
    )
    np.testing.assert_array_equal(see(task), see(other))
    assert not np.array_equal(see(task), see(task.replace(heading=other.heading)))


def test_the_observation_does_not_depend_on_the_size():
    small, large = (tasks.maze(tasks.MazeConfig(size=size, num_train=3)).env.spec for size in (5, 9))
    assert small == large and small.observation == (5, 5, 2)
    assert tasks.Maze(view=3).spec.observation == (7, 5, 2)


def test_random_walks_are_those_of_a_plain_simulator():
    """The simulator walks over the cells of the lattice, two at a step."""
    task = draw(tasks.maze(tasks.MazeConfig(size=4, openings=0.1, num_train=0)).sample, 20)
    actions = np.random.default_rng(0).choice(3, p=[0.6, 0.2, 0.2], size=(20, 60))
    states, steps = jax.jit(jax.vmap(lambda task, actions: walk(task, actions, tasks.Maze(4))))(task, actions)
    bumps = 0
    for index in range(20):
        passages, goal = np.asarray(task.passages[index]), int(task.goal[index])
        lattice, heading = lattice_of(passages), int(task.heading[index])
        place = 2 * np.array(divmod(int(task.start[index]), 4)) + 1
        for time, action in enumerate(actions[index]):
            reward = -0.04
            if action == FORWARD and lattice[tuple(place + MOVES[heading])]:
                place = place + 2 * np.array(MOVES[heading])
            elif action == FORWARD:
                reward, bumps = reward - 0.001, bumps + 1
            heading = (heading + {FORWARD: 0, LEFT: -1, RIGHT: 1}[action]) % 4
            room = place[0] // 2 * 4 + place[1] // 2
            assert (states.room[index, time], states.heading[index, time]) == (room, heading)
            assert steps.terminated[index, time] == (room == goal)
            np.testing.assert_allclose(steps.reward[index, time], reward + (room == goal), rtol=1e-5)
            np.testing.assert_array_equal(steps.obs[index, time], view_of(passages, room, heading, goal))
    assert bumps and steps.terminated.any()


def test_a_shortest_way_takes_as_many_steps_as_computed_and_ends_the_episode():
    family = tasks.maze(SMALL)
    task, env = draw(family.sample_test, 50), family.env

    def play(task):
        to_go = reference.steps_to_go(task).reshape(-1)

        def one(state, _):
            # try every action and keep the one that leaves the least to go
            after, steps = jax.vmap(lambda action: env.step(KEY, state, action, task))(jnp.arange(3))
            best = to_go[after.room * 4 + after.heading].argmin()
            return jax.tree.map(lambda leaf: leaf[best], (after, steps))

        return jax.lax.scan(one, env.reset(KEY, task)[0], length=SMALL.horizon)[1]

    steps = jax.jit(jax.vmap(play))(task)
    shortest = reference.shortest_steps(task)
    assert steps.terminated.any(1).all()
    np.testing.assert_array_equal(steps.terminated.argmax(1) + 1, shortest)
    paid = np.where(np.arange(SMALL.horizon) < shortest[:, None], steps.reward, 0.0).sum(1)
    np.testing.assert_allclose(paid, reference.oracle_return(task, SMALL.horizon), rtol=1e-5)


def test_a_maze_of_another_size_holds_the_contract():
    family = tasks.maze(SMALL)
    testing.check_env(family, num_steps=20)
    testing.check_env(tasks.reveal(family), num_steps=4)
    assert (family.env.spec.horizon, family.episodes) == (40, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 1}, "tasks.size is 1; a side needs at least 2 rooms"),
        ({"view": 0}, "tasks.view is 0; at least 1 room ahead must be visible"),
        ({"openings": 1.5}, r"tasks.openings is 1.5; it must lie in \[0, 1\]"),
        ({"openings": float("nan")}, "tasks.openings is nan; it must lie"),
        ({"num_train": -1}, "tasks.num_train is -1; it must be at least 1, or 0 for new mazes only"),
        ({"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        ({"num_episodes": 0}, "tasks.num_episodes is 0; a trial needs at least 1 episode"),
    ],
)
def test_bad_configs_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message):
        tasks.MazeConfig(**values)


def tile(image, room, size, scale=16):
    """Cuts a room out of a picture."""
    top, left = (scale // 8 + (scale + scale // 8) * place for place in divmod(room, size))
    return np.asarray(image[top : top + scale, left : left + scale])


def colors(image):
    return {tuple(color) for color in np.asarray(image).reshape(-1, 3).tolist()}


def test_a_picture_shows_walls_the_goal_and_the_agent():
    task = maze_from(DRAWN, start=(0, 0), goal=(2, 2))
    state = tasks.MazeState(room=jnp.int32(1), heading=jnp.int32(EAST))
    image = mazes.render(task, state)
    assert image.shape == (56, 56, 3) and image.dtype == jnp.uint8
    assert colors(image) == {mazes.FLOOR, mazes.WALL, mazes.GOAL, mazes.AGENT}
    assert colors(tile(image, 8, 3)) == {mazes.FLOOR, mazes.GOAL}
    assert colors(tile(image, 1, 3)) == {mazes.FLOOR, mazes.AGENT}
    assert colors(tile(image, 0, 3)) == {mazes.FLOOR}
    # from (0, 0) one can go to the right and down; (1, 0) has a wall on its right
    assert colors(image[2:18, 18:20]) == colors(image[18:20, 2:18]) == {mazes.FLOOR}
    assert colors(image[20:36, 18:20]) == colors(image[:2]) == colors(image[:, -2:]) == {mazes.WALL}


@pytest.mark.parametrize("heading", range(4))
def test_the_agent_points_where_it_looks(heading):
    task = maze_from(DRAWN, start=(0, 0), goal=(2, 2))
    image = mazes.render(task, tasks.MazeState(room=jnp.int32(4), heading=jnp.int32(heading)))
    row, column = np.nonzero((tile(image, 4, 3) == mazes.AGENT).all(-1))
    # a triangle has its centre of mass towards its base, away from the tip
    mass = np.array([row.mean(), column.mean()]) - np.array(
        [np.ptp(row) / 2 + row.min(), np.ptp(column) / 2 + column.min()]
    )
    np.testing.assert_allclose(mass / np.abs(mass).max(), -np.array(MOVES[heading]), atol=1e-6)


def test_pictures_are_drawn_for_many_mazes_at_once():
    task = draw(tasks.maze(SMALL).sample, 3)
    state = tasks.MazeState(room=task.start, heading=task.heading)
    images = jax.vmap(lambda task, state: mazes.render(task, state, 8))(task, state)
    assert images.shape == (3, 37, 37, 3)
    for index in range(3):
        one, at = jax.tree.map(lambda leaf, index=index: leaf[index], (task, state))
        np.testing.assert_array_equal(images[index], mazes.render(one, at, 8))


def test_a_path_is_shaded_by_time():
    task = maze_from(DRAWN, start=(2, 0), heading=UP, goal=(2, 2))
    rooms, valid = jnp.array([6, 3, 3, 0, 3, 8, 8]), jnp.array([1, 1, 1, 1, 1, 0, 0.0])
    image = mazes.render_path(task, rooms, valid)
    shade = lambda room: tuple(tile(image, room, 3)[0, 0].tolist())  # noqa: E731
    assert (shade(6), shade(0)) == (mazes.FIRST, mazes.LAST)
    between = [np.interp(1 / 3, [0, 1], ends) for ends in zip(mazes.FIRST, mazes.LAST, strict=True)]
    np.testing.assert_allclose(shade(3), between, atol=1)
    # not visited, be it after the end of the episode
    assert shade(1) == shade(8) == mazes.FLOOR
    # the passage between the two belongs to the path, and the agent stands where it started
    assert colors(image[18:20, 2:18]) == {mazes.LAST}
    assert mazes.AGENT in colors(tile(image, 6, 3)) and mazes.GOAL in colors(tile(image, 8, 3))
    many = jax.vmap(lambda valid: mazes.render_path(task, rooms, valid))(jnp.stack([valid, 0 * valid]))
    np.testing.assert_array_equal(many[0], image)
    assert mazes.LAST not in colors(many[1])


def test_a_path_through_one_room_has_the_first_shade():
    task = maze_from(DRAWN, start=(2, 0), goal=(2, 2))
    image = mazes.render_path(task, jnp.array([6, 6]), jnp.ones(2))
    assert {mazes.FIRST, mazes.AGENT} == colors(tile(image, 6, 3)) and mazes.LAST not in colors(image)


def test_a_picture_too_small_to_see_is_refused():
    task = maze_from(DRAWN)
    with pytest.raises(ValueError, match="scale is 7; it must be at least 8"):
        mazes.render(task, tasks.MazeState(room=task.start, heading=task.heading), scale=7)
