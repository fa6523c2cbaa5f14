"""An arm that reaches for a hidden goal (Reacher of Gym: Brockman et al., 2016, arXiv:1606.01540)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Outcome, locomotion
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class ReacherGoalConfig(LocomotionConfig):
    """`reacher-goal`: reach for a goal that is not part of the observation.

    Gym's Reacher with the target hidden, and the same in all episodes of a trial. Meta-RL papers have other definitions
    under this name, such as goals on a semicircle with a sparse reward; none is standard.
    Tasks: g uniform on a disc of `radius` 0.2 m around the shoulder; the arm reaches 0.21 m. Held-out tasks have the
    same distribution as training tasks.
    Reward: -||x - g|| - ||a||², x the fingertip's position after the step; no success flag.
    Horizon: 50 steps by default, of dt = 0.02 s; never ends early. Action: 2 torques in [-1, 1], clipped; the cost is
    that of the clipped action. `spring` and `positional` use Brax's gears for these backends, 25 instead of 200.
    Observation: cosines and sines of the joint angles [4], joint velocities [2].
    """

    horizon: int = 50
    """Steps in an episode, as in Gym."""
    radius: float = 0.2
    """Radius of the disc of goals, in metres."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.radius <= REACH:
            raise ValueError(
                f"tasks.radius is {self.radius}; it must lie in (0, {REACH}], the reach of the arm in metres"
            )


REACH = 0.21
"""Distance of the fingertip from the shoulder when the arm is stretched, in metres."""


class ReachTask(struct.PyTreeNode):
    """The goal to reach for."""

    goal: Array
    """Position in metres, [2]."""


def reacher_goal(config: ReacherGoalConfig = ReacherGoalConfig()) -> TaskFamily:
    """Builds the family of hidden goals."""

    def reward(outcome: Outcome, task: ReachTask) -> Array:
        return -jnp.linalg.norm(fingertip(outcome.physics) - task.goal) - outcome.effort

    def reset(key, physics, task):
        # Brax's target is a link of the arm's body: it shows the goal, and touches nothing
        return physics.q.at[2:].set(task.goal), physics.qd

    def sample(key):
        radius_key, angle_key = jax.random.split(key)
        radius = config.radius * jnp.sqrt(jax.random.uniform(radius_key))
        angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
        return ReachTask(radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    env = locomotion("reacher", config, _observe, reward, reset=reset)
    return TaskFamily(env, sample, sample, flatten_task)


def fingertip(physics: Any) -> Array:
    """Returns the position of the fingertip in metres, [2]."""
    from brax import math

    forearm = jnp.array([0.11, 0.0, 0.0])
    return (physics.x.pos[1] + math.rotate(forearm, physics.x.rot[1]))[:2]


def _observe(physics: Any) -> Array:
    angles = physics.q[:2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), physics.qd[:2]])
