"""Model-predictive control with an ensemble that is refitted to the task after every round, as in PETS.

See Chua et al., 2018, arXiv:1805.12114.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import rl
from jaxmeta.core.learner import Learner
from jaxmeta.inner.fitting import FitConfig, FitData, bootstrap, fitted
from jaxmeta.inner.imagination import Reward, imagining
from jaxmeta.nets.dynamics import Dynamics, dynamics_rows, ensemble
from jaxmeta.nets.heads import Certain, head_for
from jaxmeta.rl import replay as rings
from jaxmeta.types import Action, Array, Choice, Continuous, Input, Key, Output, Params, Ratio, Rollout, Spec

SURE = 1e9
"""Distance of the logits of a planned discrete action and of the others."""


class EnsembleFast(struct.PyTreeNode):
    """What an agent knows about the dynamics of one task."""

    model: Params
    """Leaves [B, ...]."""
    opt_state: optax.OptState
    """Leaves [B, ...]."""
    ring: rings.TaskRings
    """A single ring; a row has inputs, outputs, the counts of the bootstrap [B], and whether it is held out."""
    statistics: rl.Statistics
    """Of inputs and outputs."""
    rounds: Array
    """Number of rounds that the model was fitted after, int32 scalar."""
    error: Ratio
    """The mean of the members' lowest held-out losses, named `held_out_loss`."""


class PlanCarry(struct.PyTreeNode):
    """The state of a planner between steps."""

    plan: Array
    """The plan from the step before, moved by one step, [H, A]."""
    time: Array
    """Number of steps of the episode so far, int32 scalar."""
    key: Key

    @classmethod
    def start(cls, planner: rl.Planner, key: Key) -> PlanCarry:
        """Returns the state at the start of a stream."""
        return cls(planner.initial(), jnp.zeros((), jnp.int32), key)

    def at(self, planner: rl.Planner, inputs: Input) -> PlanCarry:
        """Returns the state before a step: blank if the step before ended an episode."""
        ended = inputs.prev_done > 0
        return self.replace(plan=jnp.where(ended, planner.initial(), self.plan), time=jnp.where(ended, 0, self.time))

    def after(self, plan: Array, key: Key) -> PlanCarry:
        """Returns the state after a step."""
        return PlanCarry(plan, self.time + 1, key)


class Imagination(NamedTuple):
    """How an agent imagines the outcomes of its plans."""

    reward: Reward | None
    """`TaskFamily.planning_reward`, or None if the reward is the last output of the model."""
    members: int = 5
    """Models in the ensemble."""
    particles: rl.Particles = rl.Particles()
    """What is imagined of a candidate."""
    explore: int = 1
    """Rounds at the start that act at random, without planning."""


def model_predictive(
    spec: Spec, dynamics: Dynamics, planner: rl.Planner, imagination: Imagination, fit: FitConfig = FitConfig()
) -> Learner:
    """Builds an agent that plans in an ensemble of models, which it refits after every round to all rounds so far.

    Its params are the ensemble at the start of every task, an `rl.DynamicsParams`. If an outer loop fitted it, its
    statistics, which are then of at least one transition, stay those of all tasks; else those of the task are used.

    The action is the planner's. Plans do not cross the end of an episode: they are blank at its start, and rewards
    after its end do not count. A model does not predict terminations. No gradient flows through plan and refit.

    Args:
      dynamics: one member of the ensemble.
    """
    many, tx = ensemble(dynamics, imagination.members), fit.optimiser()
    width = dynamics.inputs + dynamics.outputs + imagination.members + 1

    def init(key: Key) -> rl.DynamicsParams:
        return rl.DynamicsParams(many.init(key), rl.dynamics_statistics(dynamics.inputs, dynamics.outputs))

    def start(params: rl.DynamicsParams, key: Key) -> EnsembleFast:
        return EnsembleFast(
            model=params.model,
            opt_state=jax.vmap(tx.init)(params.model),
            ring=rings.empty_rings(1, fit.capacity, width),
            statistics=params.statistics,
            rounds=jnp.zeros((), jnp.int32),
            error=Ratio("held_out_loss", jnp.zeros(()), jnp.zeros(())),
        )

    return Learner(
        init=init,
        start=start,
        reset=lambda params, fast, key: PlanCarry.start(planner, key),
        act=_acting(spec, dynamics, planner, imagination),
        adapt=_refitting(spec, dynamics, imagination, fit),
        head=planning_head(spec.action),
    )


def _acting(spec: Spec, dynamics: Dynamics, planner: rl.Planner, imagination: Imagination) -> Any:
    """Builds `Learner.act`."""

    def act(params: rl.DynamicsParams, fast: EnsembleFast, carry: PlanCarry, given: Input) -> tuple[PlanCarry, Output]:
        fast, obs = jax.lax.stop_gradient((fast, given.obs))
        key, plan_key, noise_key, random_key = jax.random.split(carry.key, 4)
        carry = carry.at(planner, given)
        imagine = imagining(spec, dynamics, fast.statistics, imagination.reward)

        def score(candidates: Array) -> Array:
            remaining = spec.horizon - carry.time
            size, particles = dynamics.outputs, imagination.particles
            return rl.imagined_returns(imagine, fast.model, obs, candidates, noise_key, remaining, size, particles)

        # with 0 iterations nothing is imagined, also under vmap, where a `cond` would compute both branches
        explores = fast.rounds < imagination.explore
        planned, plan = rl.replan(planner, score, carry.plan, plan_key, jnp.where(explores, 0, planner.iterations))
        drawn = random_vector(spec.action, random_key)
        action = jnp.where(explores, drawn, planned)
        return carry.after(plan, key), Output(decided(spec.action, action), jnp.zeros(()), Choice(drawn))

    return act


def _refitting(spec: Spec, dynamics: Dynamics, imagination: Imagination, fit: FitConfig) -> Any:
    """Builds `Learner.adapt`."""
    inputs, both = dynamics.inputs, dynamics.inputs + dynamics.outputs

    def adapt(params: rl.DynamicsParams, fast: EnsembleFast, experience: Rollout, key: Key) -> EnsembleFast:
        params, fast, experience = jax.lax.stop_gradient((params, fast, experience))
        draw_key, fit_key = jax.random.split(key)
        rows, valid = dynamics_rows(spec, experience, imagination.reward is None)
        counts, held = bootstrap(draw_key, len(valid), imagination.members, fit.held_out)
        rows = jnp.concatenate([rows, counts, held[:, None]], axis=1)
        ring = rings.write(fast.ring, jnp.zeros(1, jnp.int32), rows[None], valid[None])
        kept, size = ring.rows[0], ring.size[0]
        pair = (kept[:, :inputs], kept[:, inputs:both])
        present = (jnp.arange(fit.capacity) < size).astype(jnp.float32)
        own = rl.statistics_of(pair, present, rl.dynamics_statistics(inputs, dynamics.outputs))
        fitted_before = params.statistics.count > 0
        choose = lambda prior, task: jnp.where(fitted_before, prior, task)  # noqa: E731
        statistics = jax.tree.map(choose, params.statistics, own)
        normal = rl.standardised(statistics, pair)
        data = FitData(*normal, counts=kept[:, both:-1], held_out=kept[:, -1], size=size)
        found = fitted(dynamics, fit, fast.model, fast.opt_state, data, fit_key)
        error = Ratio("held_out_loss", found.loss.mean(), jnp.ones(()))
        return EnsembleFast(found.model, found.opt_state, ring, statistics, fast.rounds + 1, error)

    return adapt


def random_vector(action: Action, key: Key) -> Array:
    """Draws an action uniformly, as a vector [A] of a planner."""
    one = rl.random_shooting(action, 1, 1)
    return one.improve(lambda candidates: jnp.zeros(1), one.initial(), key, 1)[0]


def decided(action: Action, vector: Array) -> Any:
    """Returns the params of the distribution, for `planning_head`, that has all mass on an action vector [A]."""
    return vector if isinstance(action, Continuous) else SURE * (vector - 1.0)


def planning_head(action: Action) -> Any:
    """Returns the head of an agent that acts as planned."""
    return (lambda output: Certain(output.dist)) if isinstance(action, Continuous) else head_for(action)
