"""Humanoids with a hidden direction (PEARL: Rakelly et al., 2019, arXiv:1903.08254)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.brax.ant import HeadingTask, heading
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Outcome, centre_of_mass, coordinates, locomotion
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class HumanoidDirConfig(LocomotionConfig):
    """`humanoid-dir`: walk in a direction that is not part of the observation.

    Tasks: angle θ ~ U[0, 2π).
    Reward: 1.25 v · (cos θ, sin θ) - 0.1 ||u||² + 5, v the displacement of the centre of mass in the plane over dt, u
    the motor commands. PEARL's factor 0.25 is over MuJoCo's time step, of which dt has five: the same. Brax has no
    contact forces, so PEARL's impact cost, at most 10, is 0 here.
    Horizon: 200 steps by default, of dt = 0.015 s; ends where the torso's height leaves [1, 2] m. Action: 17 torques
    a in [-1, 1], clipped; u = 0.4 a. `spring` and `positional` use Brax's gears for these backends, most of them
    larger. Observation: positions without root x, y [22], velocities [23]; PEARL's also has inertias, velocities and
    forces of all links.
    """


def humanoid_dir(config: HumanoidDirConfig = HumanoidDirConfig()) -> TaskFamily:
    """Builds the family of directions."""

    def reward(outcome: Outcome, task: HeadingTask) -> Array:
        return 1.25 * jnp.dot(outcome.velocity[:2], heading(task)) - 0.1 * outcome.effort + 5.0

    def terminated(outcome: Outcome) -> Array:
        height = outcome.physics.x.pos[0, 2]
        return (height < 1.0) | (height > 2.0)

    def sample(key):
        return HeadingTask(jax.random.uniform(key, maxval=2 * jnp.pi))

    env = locomotion("humanoid", config, coordinates(hidden=2), reward, terminated=terminated)
    return TaskFamily(dataclasses.replace(env, track=centre_of_mass), sample, sample, heading)
