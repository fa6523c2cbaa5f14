"""Walkers and hoppers with random dynamics parameters (PEARL: Rakelly et al., 2019, arXiv:1903.08254)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Outcome, locomotion
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class BodiesConfig(LocomotionConfig):
    """The fields that every family of bodies has."""

    backend: str = "generalized"
    """Physics: generalized, or mjx (MuJoCo itself)."""
    log_scale: float = 3.0
    """Largest absolute exponent of a multiplier."""

    def __post_init__(self):
        super().__post_init__()
        if self.backend not in ("generalized", "mjx"):
            raise ValueError(
                f"tasks.backend is {self.backend!r}; it must be generalized or mjx, the others ignore inertia and joint"
                " damping"
            )
        if not self.log_scale >= 0:
            raise ValueError(f"tasks.log_scale is {self.log_scale}; it must be at least 0")


@dataclasses.dataclass(frozen=True)
class WalkerParamsConfig(BodiesConfig):
    """`walker-params`: walk forward with unknown mass, inertia, friction and joint damping.

    Tasks: elementwise multipliers of mass (per link), inertia (per link and principal axis), friction (per geom and
    coefficient), each 1.5^U(-s, s), and of damping (per degree of freedom), 1.3^U(-s, s), with s = `log_scale` = 3.
    Reward: v + 1 - 0.001 ||a||², v the torso's displacement along x over dt.
    Horizon: 200 steps by default, of dt = 4 x 0.002 s (frame skip 4); ends where the torso's height leaves (0.8, 2)
    m or its pitch (-1, 1) rad. Action: 6 torques in [-1, 1], clipped; the cost is that of the clipped action.
    Observation: height, pitch and joint angles [8], velocities clipped to ±10 [9].

    `spring` and `positional` read neither joint damping nor, for this body, inertia: the default is `generalized`.
    """


@dataclasses.dataclass(frozen=True)
class HopperParamsConfig(BodiesConfig):
    """`hopper-params`: hop forward with unknown mass, inertia, friction and joint damping.

    Tasks: elementwise multipliers of mass (per link), inertia (per link and principal axis), friction (per geom and
    coefficient), each 1.5^U(-s, s), and of damping (per degree of freedom), 1.3^U(-s, s), with s = `log_scale` = 3.
    Reward: v + 1 - 0.001 ||a||², v the torso's displacement along x over dt.
    Horizon: 200 steps by default, of dt = 4 x 0.002 s (frame skip 4); ends where the torso's height leaves (0.7, ∞)
    m, its pitch (-0.2, 0.2) rad, or any joint angle or velocity (-100, 100). Action: 3 torques in [-1, 1], clipped;
    the cost is that of the clipped action. Observation: height, pitch and joint angles [5], velocities clipped to ±10
    [6].

    `spring` and `positional` read neither joint damping nor, for this body, mass and inertia: the default is
    `generalized`.
    """


class BodyTask(struct.PyTreeNode):
    """Multipliers of the default body's dynamics parameters; all ones for the default body."""

    mass: Array
    """[links]."""
    inertia: Array
    """[links, 3]."""
    friction: Array
    """[geoms, 3]: sliding, torsional, rolling. A contact takes the larger of its two geoms; the floor is geom 0."""
    damping: Array
    """[degrees of freedom]; the three root degrees of freedom have no damping."""


def walker_params(config: WalkerParamsConfig = WalkerParamsConfig()) -> TaskFamily:
    """Builds the family of walkers."""

    def terminated(outcome: Outcome) -> Array:
        height, pitch = outcome.physics.x.pos[0, 2], outcome.physics.q[2]
        return (height <= 0.8) | (height >= 2.0) | (jnp.abs(pitch) > 1.0)

    return _bodies("walker2d", config, terminated)


def hopper_params(config: HopperParamsConfig = HopperParamsConfig()) -> TaskFamily:
    """Builds the family of hoppers."""

    def terminated(outcome: Outcome) -> Array:
        height, pitch = outcome.physics.x.pos[0, 2], outcome.physics.q[2]
        others = jnp.concatenate([outcome.physics.q[3:], outcome.physics.qd])
        return (height <= 0.7) | (jnp.abs(pitch) >= 0.2) | jnp.any(jnp.abs(others) >= 100.0)

    return _bodies("hopper", config, terminated)


def _bodies(name: str, config: BodiesConfig, terminated: Callable[[Outcome], Array]) -> TaskFamily:
    """Builds the family of bodies with random multipliers of Brax's dynamics parameters."""

    def reward(outcome: Outcome, task: BodyTask) -> Array:
        return outcome.velocity[0] + 1.0 - 1e-3 * outcome.effort

    env = locomotion(name, config, _observe, reward=reward, terminated=terminated, dynamics=_scaled_system)
    links, geoms, dofs = env.body.sys.num_links(), env.body.sys.ngeom, env.body.sys.qd_size()

    def sample(key):
        keys = jax.random.split(key, 4)

        def multiplier(key, base, shape):
            return base ** jax.random.uniform(key, shape, minval=-config.log_scale, maxval=config.log_scale)

        return BodyTask(
            mass=multiplier(keys[0], 1.5, (links,)),
            inertia=multiplier(keys[1], 1.5, (links, 3)),
            friction=multiplier(keys[2], 1.5, (geoms, 3)),
            damping=multiplier(keys[3], 1.3, (dofs,)),
        )

    return TaskFamily(env, sample, sample, _encode)


def _scaled_system(system: Any, task: BodyTask) -> Any:
    """Multiplies the parameters where `generalized` (link, dof) and where `mjx` (body_, dof_) reads them."""
    world = jnp.ones((1,))  # body 0 of MuJoCo is the world, not a link
    return system.tree_replace(
        {
            "link.inertia.mass": system.link.inertia.mass * task.mass,
            "link.inertia.i": system.link.inertia.i * task.inertia[:, :, None],  # diagonal, in the principal axes
            "dof.damping": system.dof.damping * task.damping,
            "body_mass": system.body_mass * jnp.concatenate([world, task.mass]),
            "body_inertia": system.body_inertia * jnp.concatenate([jnp.ones((1, 3)), task.inertia]),
            "dof_damping": system.dof_damping * task.damping,
            "geom_friction": system.geom_friction * task.friction,
        }
    )


def _observe(physics: Any) -> Array:
    position = physics.q.at[1].set(physics.x.pos[0, 2])  # height above the floor, not above the start
    return jnp.concatenate([position[1:], jnp.clip(physics.qd, -10.0, 10.0)])


def _encode(task: BodyTask) -> Array:
    """Returns the logarithms of all multipliers, zero for the default body."""
    return jnp.concatenate([jnp.log(leaf).ravel() for leaf in jax.tree.leaves(task)])
