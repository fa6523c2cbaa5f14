"""The common environment of all Brax families: Brax simulates the body, the family defines the reward."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.config import settings
from jaxmeta.tasks.base import strong
from jaxmeta.tasks.brax.config import LocomotionConfig, load
from jaxmeta.tasks.brax.physics import lane_stepper
from jaxmeta.types import Array, Continuous, Key, Spec, Step, Task


class Outcome(NamedTuple):
    """The result of a physics step, the input of reward functions."""

    physics: Any
    """Brax's pipeline state after the step: `q`, `qd`, and per link `x.pos`, `x.rot`; link 0 is the torso."""
    velocity: Array
    """Displacement of the torso, or of the point that the family tracks, divided by dt, in m/s, [3]."""
    effort: Array
    """Sum of squares of the motor commands."""


DIVERGED = 1e4
"""A coordinate (m, rad) or velocity (m/s, rad/s) of this magnitude counts as diverged."""


def torso(system: Any, physics: Any) -> Array:
    """Returns the position of the first link in metres, [3]."""
    return physics.x.pos[0]


def centre_of_mass(system: Any, physics: Any) -> Array:
    """Returns the position of the centre of mass of all links in metres, [3]."""
    inertia = system.link.inertia
    return jnp.average(physics.x.vmap().do(inertia.transform).pos, axis=0, weights=inertia.mass)


@dataclasses.dataclass(frozen=True, eq=False)
class Locomotion:
    """A body with motors.

    Actions are clipped to [-1, 1] and scaled to the range of the motors, which is symmetric; the control cost is that
    of the scaled action. Resets are Brax's: the default pose plus noise. The state is Brax's pipeline state.

    If the simulation diverges, the body keeps its previous state, and families with early termination end the episode:
    bodies often diverge in the steps after an early end, where masking would not remove a NaN.
    """

    body: Any
    """Brax's environment, shared by all tasks and never modified."""
    spec: Spec
    observe: Callable[[Any], Array]
    """Pipeline state -> observation."""
    reward: Callable[[Outcome, Task], Array]
    terminated: Callable[[Outcome], Array] | None = None
    """Whether the episode terminates; None if episodes never end early."""
    dynamics: Callable[[Any, Task], Any] | None = None
    """(Brax system, task) -> the Brax system of the task, for families whose dynamics depend on the task."""
    track: Callable[[Any, Any], Array] = torso
    """(Brax system, pipeline state) -> the point whose velocity `Outcome` has, [3] in metres."""
    advance: Callable[[Any, Array], Any] | None = None
    """A faster `body.pipeline_step` with the same result, for families with a single body."""

    def reset(self, key: Key, task: Task) -> tuple[Any, Array]:
        physics = strong(self._body_of(task).reset(key).pipeline_state)
        return physics, self.observe(physics)

    def step(self, key: Key, state: Any, action: Array, task: Task) -> tuple[Any, Step]:
        body = self._body_of(task)
        control = jnp.clip(action, -1.0, 1.0) * body.sys.actuator.ctrl_range[:, 1]
        moved = strong((self.advance or body.pipeline_step)(state, control))
        sane = jnp.all(jnp.abs(jnp.concatenate([moved.q, moved.qd])) < DIVERGED)  # false for NaN
        physics = jax.tree.map(lambda new, old: jnp.where(sane, new, old), moved, state)
        velocity = (self.track(body.sys, physics) - self.track(body.sys, state)) / body.dt
        outcome = Outcome(physics, velocity, jnp.sum(jnp.square(control)))
        terminated = jnp.array(False) if self.terminated is None else self.terminated(outcome) | ~sane
        return physics, Step(obs=self.observe(physics), reward=self.reward(outcome, task), terminated=terminated)

    def _body_of(self, task: Task) -> Any:
        if self.dynamics is None:
            return self.body
        # a shallow copy: under vmap the new system holds tracers, which must not reach the shared body
        body = copy.copy(self.body)
        body.sys = self.dynamics(self.body.sys, task)
        return body


@settings.standard()
def locomotion(name: str, config: LocomotionConfig, observe: Callable[[Any], Array], **parts: Any) -> Locomotion:
    """Builds the environment of a family.

    Args:
      name: Brax's name of the body.
      observe: pipeline state -> observation.
      **parts: `reward`, and optionally `terminated`, `dynamics` and `track`.
    """
    body = load(name, config)
    observation = jax.eval_shape(lambda key: observe(body.reset(key).pipeline_state), jax.random.key(0))
    spec = Spec(observation.shape, Continuous(body.action_size), config.horizon, terminates="terminated" in parts)
    if config.backend == "spring" and "dynamics" not in parts:
        parts["advance"] = lane_stepper(body)
    return Locomotion(body, spec, observe, **parts)


def coordinates(hidden: int) -> Callable[[Any], Array]:
    """Builds the observation of generalised positions from index `hidden` on, and all generalised velocities."""
    return lambda physics: jnp.concatenate([physics.q[hidden:], physics.qd])
