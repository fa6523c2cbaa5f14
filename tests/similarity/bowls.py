"""Quadratic tasks, on which adaptation and all similarities are known in closed form.

The task is the minimum c [2] of the loss ½|θ - c|², which the observation shows. The policy's mean is θ itself. A step
of size `RATE` from φ ends at (1 - RATE) φ + RATE c.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import jaxmeta as jm
from jaxmeta import inner, nets
from jaxmeta.core.learner import Learner
from jaxmeta.types import Continuous, Output, Spec, Step

RATE = 0.25


@dataclasses.dataclass(frozen=True)
class Bowl:
    """A point whose reward is minus the loss of the action."""

    spec = Spec(observation=(2,), action=Continuous(2, limit=1e3), horizon=2)

    def reset(self, key, task):
        return task, task

    def step(self, key, state, action, task):
        reward = -0.5 * jnp.sum(jnp.square(action - task))
        return state, Step(obs=task, reward=reward, terminated=jnp.array(False))


def sample(key):
    return jax.random.normal(key, (2,))


FAMILY = jm.TaskFamily(Bowl(), sample, sample, encode=lambda task: task)


def _act(params, fast, carry, inputs):
    return carry, Output(dist=nets.Gaussian(loc=params, log_scale=jnp.zeros(2)), value=jnp.zeros(()))


POINT = Learner(
    init=lambda key: jax.random.normal(key, (2,)),
    start=lambda params, key: (),
    reset=lambda params, fast, key: (),
    act=_act,
    adapt=lambda params, fast, experience, key: fast,
    head=nets.head_for(Bowl.spec.action),
)


def loss(theta, experience):
    """The loss on the task of a round."""
    return 0.5 * jnp.sum(jnp.square(theta - experience.inputs.obs[0, 0]))


LEARNER = inner.descent(POINT, loss, inner.sgd(RATE))
