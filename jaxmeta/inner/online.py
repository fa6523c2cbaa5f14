"""Models of dynamics that adapt at every step of a stream, and the agent that plans with them: GrBAL and ReBAL.

See Nagabandi et al., 2019, arXiv:1803.11347. A memory of past transitions lives in the carry; the model that an agent
plans with is computed from it at every step. All numbers of a model are normalised, see `rl.dynamics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import rl
from jaxmeta.core.learner import Learner
from jaxmeta.inner.imagination import Reward, imagining
from jaxmeta.inner.model_predictive import PlanCarry, decided, planning_head, random_vector
from jaxmeta.inner.updaters import Updater
from jaxmeta.nets.dynamics import (
    Dynamics,
    Prediction,
    RecurrentDynamics,
    dynamics_inputs,
    dynamics_outputs,
    prediction_error,
)
from jaxmeta.types import Array, Choice, Input, Key, Output, Params, Spec


class OnlineModel(NamedTuple):
    """A model of dynamics that adapts to past transitions of a stream, as pure functions."""

    dynamics: Dynamics
    """The adapted model; the params of its `apply` are θ, those of its `init` and `penalty` the meta-learned ones."""
    start: Callable[[], Any]
    """Makes the memory of a stream without transitions."""
    observe: Callable[[Params, Any, Array, Array], Any]
    """(params, memory, inputs [|inputs|], outputs [D]) -> the memory after one more transition."""
    read: Callable[[Params, Array, Array, Array], Any]
    """(params, inputs [M, |inputs|], outputs [M, D], valid [M]) -> the memory of M transitions; those with valid 0 do
    not count. It equals `observe` of the valid ones, if no more than M are remembered."""
    adapted: Callable[[Params, Any], Params]
    """(params, memory) -> θ, differentiable."""


class SteppedParams(struct.PyTreeNode):
    """Meta-learned params of a model that adapts by gradient steps."""

    model: Params
    """The initial params of every adaptation."""
    updater: Params
    """The learned part of the update rule, such as step sizes; `()` if there is none."""


class Window(struct.PyTreeNode):
    """The last M transitions of a stream, the newest last."""

    inputs: Array
    """[M, |inputs|]."""
    outputs: Array
    """[M, D]."""
    valid: Array
    """1.0 where there is a transition, [M]: a stream starts without any."""


class OnlineCarry(struct.PyTreeNode):
    """The state of an agent that plans with an online model."""

    memory: Any
    """Of past transitions, see `OnlineModel`."""
    obs: Array
    """The observation of the step before, [O]."""
    planner: PlanCarry


def predict_after(online: OnlineModel, params: Params, past: tuple[Array, Array, Array], inputs: Array) -> Prediction:
    """Adapts a model to past transitions and predicts others, differentiably through the adaptation.

    Args:
      past: inputs [M, |inputs|], outputs [M, D], and 1.0 for the transitions that count, [M].
      inputs: of the transitions that are predicted, [K, |inputs|].

    Returns:
      Predictions [K, D].
    """
    return online.dynamics.apply(online.adapted(params, online.read(params, *past)), inputs)


def by_gradient(dynamics: Dynamics, past: int, updater: Updater, steps: int = 1) -> OnlineModel:
    """Adapts by gradient steps on the last transitions: GrBAL.

    Args:
      past: M, transitions in the window.
      updater: the update rule. Its state is initialised at every step of the stream, as the adaptation is.
      steps: gradient steps, all on the same window; 0 does not adapt, and remembers nothing.
    """

    def init(key: Key) -> SteppedParams:
        model_key, updater_key = jax.random.split(key)
        model = dynamics.init(model_key)
        return SteppedParams(model, updater.init(updater_key, model))

    def start() -> Any:
        if not steps:
            return ()
        return Window(jnp.zeros((past, dynamics.inputs)), jnp.zeros((past, dynamics.outputs)), jnp.zeros(past))

    def observe(params: SteppedParams, window: Any, inputs: Array, outputs: Array) -> Any:
        newest = Window(inputs, outputs, jnp.ones(())) if steps else ()
        return jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), window, newest)

    def read(params: SteppedParams, inputs: Array, outputs: Array, valid: Array) -> Any:
        return Window(inputs, outputs, valid) if steps else ()

    def adapted(params: SteppedParams, window: Any) -> Params:
        def loss(theta: Params) -> Array:
            return prediction_error(dynamics.apply(theta, window.inputs), window.outputs, window.valid)

        theta, tx = params.model, updater.tx(params.updater)
        state = tx.init(theta)
        for _ in range(steps):
            change, state = tx.update(jax.grad(loss)(theta), state, theta)
            theta = optax.apply_updates(theta, change)
        return theta

    online = dynamics._replace(init=init, penalty=lambda params: dynamics.penalty(params.model))
    return OnlineModel(online, start, observe, read, adapted)


def by_memory(recurrent: RecurrentDynamics) -> OnlineModel:
    """Adapts by a recurrent state that reads all transitions of the stream: ReBAL."""

    def read(params: Params, inputs: Array, outputs: Array, valid: Array) -> Any:
        def step(state: Any, moment: tuple[Array, Array, Array]) -> tuple[Any, None]:
            x, y, there = moment
            seen = recurrent.observe(params, state, x, y)
            return jax.tree.map(lambda new, old: jnp.where(there > 0, new, old), seen, state), None

        return jax.lax.scan(step, recurrent.initial_state(), (inputs, outputs, valid))[0]

    dynamics = Dynamics(
        recurrent.inputs,
        recurrent.outputs,
        init=recurrent.init,
        apply=lambda theta, inputs: recurrent.apply(theta[0], theta[1], inputs),
        penalty=recurrent.penalty,
        probabilistic=recurrent.probabilistic,
    )
    adapted = lambda params, state: (params, state)  # noqa: E731
    return OnlineModel(dynamics, recurrent.initial_state, recurrent.observe, read, adapted)


def plan_online(
    spec: Spec, online: OnlineModel, planner: rl.Planner, reward: Reward | None, explore: float = 1.0
) -> Learner:
    """Builds an agent that adapts its model to the stream at every step, and plans with it.

    Its params are an `rl.DynamicsParams`, whose model is that of `online`. The memory survives the ends of episodes;
    the plan does not, and rewards after the end of an episode do not count. No gradient flows through the plan.

    Args:
      reward: `TaskFamily.planning_reward`, or None if the reward is the last output of the model. The model then adapts
        to rewards as well.
      explore: number of transitions in the statistics of the params up to which actions are random; 0 always plans.
    """
    dynamics, remember = online.dynamics, _remembering(spec, online, reward is None)

    def init(key: Key) -> rl.DynamicsParams:
        return rl.DynamicsParams(dynamics.init(key), rl.dynamics_statistics(dynamics.inputs, dynamics.outputs))

    def reset(params: rl.DynamicsParams, fast: tuple[()], key: Key) -> OnlineCarry:
        return OnlineCarry(online.start(), jnp.zeros(spec.observation), PlanCarry.start(planner, key))

    def act(params: rl.DynamicsParams, fast: tuple[()], carry: OnlineCarry, given: Input) -> tuple[OnlineCarry, Output]:
        params, given = jax.lax.stop_gradient((params, given))
        memory = remember(params, carry, given)
        members = jax.tree.map(lambda leaf: leaf[None], online.adapted(params.model, memory))
        key, plan_key, noise_key, random_key = jax.random.split(carry.planner.key, 4)
        planning = carry.planner.at(planner, given)
        imagine = imagining(spec, dynamics, params.statistics, reward)

        def score(candidates: Array) -> Array:
            remaining = spec.horizon - planning.time
            return rl.imagined_returns(imagine, members, given.obs, candidates, noise_key, remaining, dynamics.outputs)

        # with 0 iterations nothing is imagined, also under vmap, where a `cond` would compute both branches
        explores = params.statistics.count < explore
        planned, plan = rl.replan(planner, score, planning.plan, plan_key, jnp.where(explores, 0, planner.iterations))
        drawn = random_vector(spec.action, random_key)
        action = jnp.where(explores, drawn, planned)
        output = Output(decided(spec.action, action), jnp.zeros(()), Choice(drawn))
        return OnlineCarry(memory, given.obs, planning.after(plan, key)), output

    return Learner(
        init=init,
        start=lambda params, key: (),
        reset=reset,
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=planning_head(spec.action),
    )


def _remembering(spec: Spec, online: OnlineModel, learns_reward: bool) -> Callable[..., Any]:
    """Builds the function (params, carry, inputs of a step) -> the memory with the transition before that step."""

    def remember(params: rl.DynamicsParams, carry: OnlineCarry, given: Input) -> Any:
        pair = (
            dynamics_inputs(spec, carry.obs, given.prev_action),
            dynamics_outputs(carry.obs, given.prev_next_obs, given.prev_reward if learns_reward else None),
        )
        inputs, outputs = rl.standardised(params.statistics, pair)
        seen = online.observe(params.model, carry.memory, inputs, outputs)
        return jax.tree.map(lambda new, old: jnp.where(given.first > 0, old, new), seen, carry.memory)

    return remember
