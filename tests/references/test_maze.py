from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import references, tasks

KEY = jax.random.key(0)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def search(passages, goal):
    """Searches breadth-first, from every room and heading on its own, [size, size, 4]; -1 where there is no way."""
    size = len(passages)
    result = np.full(passages.shape, -1)
    for begin in np.ndindex(passages.shape):
        distance, queue = {begin: 0}, [begin]
        for row, column, heading in queue:
            if row * size + column == goal:
                result[begin] = distance[row, column, heading]
                break
            after = [(row, column, (heading + 1) % 4), (row, column, (heading - 1) % 4)]
            if passages[row, column, heading]:
                after.append((row + MOVES[heading][0], column + MOVES[heading][1], heading))
            for pose in after:
                if pose not in distance:
                    distance[pose] = distance[row, column, heading] + 1
                    queue.append(pose)
    return result


def mazes(num, **values):
    family = tasks.maze(tasks.MazeConfig(num_train=0, **values))
    return jax.jit(jax.vmap(family.sample))(jax.random.split(KEY, num))


@pytest.mark.parametrize(("size", "openings"), [(2, 0.0), (5, 0.0), (5, 0.3)])
def test_steps_are_those_of_a_breadth_first_search(size, openings):
    task = mazes(8, size=size, openings=openings)
    to_go, shortest = references.maze.steps_to_go(task), references.maze.shortest_steps(task)
    assert shortest.shape == (8,) and shortest.min() >= 1
    for index in range(8):
        expected = search(np.asarray(task.passages[index]), int(task.goal[index]))
        np.testing.assert_array_equal(to_go[index], expected)
        start = expected[divmod(int(task.start[index]), size)][int(task.heading[index])]
        assert shortest[index] == start


def test_batched_mapped_and_single_mazes_agree():
    task = mazes(6, size=4)
    whole = references.maze.shortest_steps(task)
    np.testing.assert_array_equal(jax.jit(jax.vmap(references.maze.shortest_steps))(task), whole)
    by_two = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), task)
    np.testing.assert_array_equal(references.maze.shortest_steps(by_two).reshape(-1), whole)
    single = references.maze.shortest_steps(jax.tree.map(lambda leaf: leaf[2], task))
    assert single.shape == () and single == whole[2]


def corridor(heading):
    """Two rows of two rooms that are not joined; the goal lies to the right of the start."""
    passages = np.zeros((2, 2, 4), bool)
    passages[:, 0, 1] = passages[:, 1, 3] = True
    start, goal = jnp.int32(0), jnp.int32(1)
    return tasks.MazeTask(passages=jnp.array(passages), start=start, heading=jnp.int32(heading), goal=goal)


@pytest.mark.parametrize(("heading", "steps"), [(0, 2), (1, 1), (2, 2), (3, 3)])
def test_shortest_paths_count_turns(heading, steps):
    assert references.maze.shortest_steps(corridor(heading)) == steps


def test_oracle_return_falls_with_the_length_of_the_path():
    for heading, steps in ((1, 1), (3, 3)):
        np.testing.assert_allclose(references.maze.oracle_return(corridor(heading)), 1 - 0.04 * steps, rtol=1e-6)
    # three steps are too many for an episode of two
    np.testing.assert_allclose(references.maze.oracle_return(corridor(3), horizon=2), -0.08, rtol=1e-6)


def test_an_unreachable_room_is_farther_than_any_other():
    to_go = references.maze.steps_to_go(corridor(1))
    np.testing.assert_array_equal(to_go[1], 16)
    assert to_go[0].max() == 3
