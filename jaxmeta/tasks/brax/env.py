"""The one environment behind all Brax families: Brax moves the body, the family says what that is worth."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.config import settings
from jaxmeta.tasks.brax.config import LocomotionConfig, load
from jaxmeta.tasks.brax.physics import lane_stepper
from jaxmeta.types import Array, Continuous, Key, Spec, Step, Task


class Outcome(NamedTuple):
    """What one step did."""

    physics: Any
    """Brax's pipeline state after the step: `q`, `qd`, and per link `x.pos`, `x.rot`; link 0 is the torso."""
    velocity: Array
    """Displacement of the torso, or of what else the family tracks, over the step divided by dt, in m/s, [3]."""
    effort: Array
    """Sum of the squares of what the motors were given."""


DIVERGED = 1e4
"""A coordinate (m, rad) or velocity (m/s, rad/s) of this size is a failure of the integrator, not a movement."""


def torso(system: Any, physics: Any) -> Array:
    """Returns the position of the first link in metres, [3]."""
    return physics.x.pos[0]


def centre_of_mass(system: Any, physics: Any) -> Array:
    """Returns the position of the centre of mass of all links in metres, [3]."""
    inertia = system.link.inertia
    return jnp.average(physics.x.vmap().do(inertia.transform).pos, axis=0, weights=inertia.mass)


@dataclasses.dataclass(frozen=True, eq=False)
class Locomotion:
    """A body that is pushed by its motors.

    Actions are clipped to [-1, 1] and scaled to the range of the motors, which is symmetric; the control cost is that
    of the result. The start is Brax's own: its default pose with fresh noise at every reset. The state is Brax's
    pipeline state and nothing else.

    Where the simulation diverges, the body stays where it was, and a family that terminates ends the episode there: a
    NaN would survive the masking of the steps after an early end, which is where most bodies diverge.
    """

    body: Any
    """Brax's environment, shared by all tasks and never changed."""
    spec: Spec
    observe: Callable[[Any], Array]
    """The observation of a pipeline state."""
    reward: Callable[[Outcome, Task], Array]
    terminated: Callable[[Outcome], Array] | None = None
    """Whether an episode ends early; None where only the horizon ends it."""
    dynamics: Callable[[Any, Task], Any] | None = None
    """Makes the Brax system of a task from the shared one, for families whose bodies differ."""
    track: Callable[[Any, Any], Array] = torso
    """The point whose velocity an outcome has, of a Brax system and its pipeline state, [3] in metres."""
    advance: Callable[[Any, Array], Any] | None = None
    """A faster `body.pipeline_step` with the same result, for families whose bodies are all the same."""

    def reset(self, key: Key, task: Task) -> tuple[Any, Array]:
        physics = _strong(self._body_of(task).reset(key).pipeline_state)
        return physics, self.observe(physics)

    def step(self, key: Key, state: Any, action: Array, task: Task) -> tuple[Any, Step]:
        body = self._body_of(task)
        control = jnp.clip(action, -1.0, 1.0) * body.sys.actuator.ctrl_range[:, 1]
        moved = _strong((self.advance or body.pipeline_step)(state, control))
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
      observe: the observation of a pipeline state.
      **parts: `reward`, and where the family has them `terminated`, `dynamics` and `track`.
    """
    body = load(name, config)
    observation = jax.eval_shape(lambda key: observe(body.reset(key).pipeline_state), jax.random.key(0))
    spec = Spec(observation.shape, Continuous(body.action_size), config.horizon, terminates="terminated" in parts)
    if config.backend == "spring" and "dynamics" not in parts:
        parts["advance"] = lane_stepper(body)
    return Locomotion(body, spec, observe, **parts)


def coordinates(hidden: int) -> Callable[[Any], Array]:
    """Observes generalised positions from index `hidden` on, then all generalised velocities."""
    return lambda physics: jnp.concatenate([physics.q[hidden:], physics.qd])


def _strong(tree: Any) -> Any:
    """Removes weak types, which would make a state differ from its successor in a scan."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)
