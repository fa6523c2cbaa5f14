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


Observe = Callable[[Any], Array]
"""Pipeline state -> observation."""
Reward = Callable[[Outcome, Task], Array]
"""(outcome, task) -> reward."""
Start = Callable[[Key, Any, Task], tuple[Array, Array]]
"""(key, pipeline state after Brax's reset, task) -> positions q and velocities qd."""
Command = Callable[[Array, Task], Array]
"""(clipped action, task) -> commands of the motors."""
Terminated = Callable[[Outcome], Array]
"""Outcome -> whether the episode terminates."""
Dynamics = Callable[[Any, Task], Any]
"""(Brax system, task) -> the Brax system of the task."""

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
    """A body with motors; `locomotion` builds it and describes its parts.

    Actions are clipped to [-1, 1] and scaled to the range of the motors, which is symmetric; the control cost is that
    of the scaled commands. Resets are Brax's, the default pose plus noise, unless the family has its own. The state is
    Brax's pipeline state.

    If the simulation diverges, the body keeps its previous state, and families with early termination end the episode:
    bodies often diverge in the steps after an early end, where masking would not remove a NaN.
    """

    body: Any
    """Brax's environment, shared by all tasks and never modified."""
    spec: Spec
    observe: Observe
    reward: Reward
    start: Start | None = None
    command: Command | None = None
    terminated: Terminated | None = None
    dynamics: Dynamics | None = None
    track: Callable[[Any, Any], Array] = torso
    """(Brax system, pipeline state) -> the point whose velocity `Outcome` has, [3] in metres. `locomotion` leaves it
    the torso; `dataclasses.replace(env, track=centre_of_mass)` changes it."""
    advance: Callable[[Any, Array], Any] | None = None
    """A faster `body.pipeline_step` with the same result, for families with a single body."""

    def reset(self, key: Key, task: Task) -> tuple[Any, Array]:
        body = self._body_of(task)
        physics = strong(body.reset(key).pipeline_state)
        if self.start is not None:
            # a key of its own: Brax has used this one for its noise
            q, qd = self.start(jax.random.fold_in(key, 1), physics, task)
            physics = strong(body.pipeline_init(q, qd))
        return physics, self.observe(physics)

    def step(self, key: Key, state: Any, action: Array, task: Task) -> tuple[Any, Step]:
        body = self._body_of(task)
        command = jnp.clip(action, -1.0, 1.0)
        if self.command is not None:
            command = self.command(command, task)
        control = command * body.sys.actuator.ctrl_range[:, 1]
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
def locomotion(
    body: Any,
    config: LocomotionConfig,
    observe: Observe,
    reward: Reward,
    *,
    reset: Start | None = None,
    command: Command | None = None,
    terminated: Terminated | None = None,
    dynamics: Dynamics | None = None,
) -> Locomotion:
    """Builds the environment of a family from a body and the functions that define the task.

    On the `spring` backend steps are vectorised for CPUs, whatever the parts, unless there are `dynamics`.

    The observation does not depend on the task: agents must find out. `tasks.reveal(family)` appends all of the encoded
    task, and `tasks.reveal(family._replace(encode=goal))._replace(encode=family.encode)` what `goal(task)` returns.

    Args:
      body: Brax's name of an environment, such as "ant", or a `brax.envs.PipelineEnv` of your own, built on
        `config.backend`. Only its body, its physics and its reset are used, not its reward and observation.
      config: horizon and physics.
      observe: pipeline state -> observation, a vector; see `coordinates`.
      reward: (outcome of the step, task) -> reward, a scalar.
      reset: (key, pipeline state after Brax's reset, task) -> the positions q and velocities qd to start from, for
        starts or targets that depend on the task.
      command: (action clipped to [-1, 1], task) -> commands of the motors, in [-1, 1] and as many, for motors that
        depend on the task. The control cost is that of the commands.
      terminated: outcome of the step -> whether the episode terminates; without it episodes never end early.
      dynamics: (Brax system, task) -> the Brax system of the task, for masses, friction or gears that depend on it.

    Raises:
      ValueError: if the body was built on another backend, or the range of a motor is not symmetric.
    """
    body = load(body, config)
    observation = jax.eval_shape(lambda key: observe(body.reset(key).pipeline_state), jax.random.key(0))
    spec = Spec(observation.shape, Continuous(body.action_size), config.horizon, terminates=terminated is not None)
    advance = lane_stepper(body) if config.backend == "spring" and dynamics is None else None
    return Locomotion(body, spec, observe, reward, reset, command, terminated, dynamics, advance=advance)


def coordinates(hidden: int) -> Observe:
    """Returns an observation function that concatenates the generalised positions `q[hidden:]` and velocities `qd`.

    The coordinates of the root come first, so `hidden=2` leaves out x and y of an ant.
    """
    return lambda physics: jnp.concatenate([physics.q[hidden:], physics.qd])
