"""Models of dynamics: Gaussian predictions of the change of the observation, and of the reward where it is learned.

All functions are of normalised numbers: inputs are an observation and an action, outputs the change of the observation
and, where it is learned, the reward; see `rl.dynamics`. A probabilistic model is that of PETS (Chua et
al., 2018, arXiv:1805.12114), with learned bounds of its log-variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.networks import MLP
from jaxmeta.nets.observations import action_vector
from jaxmeta.nets.recurrent import CELLS, advance_state
from jaxmeta.types import Array, Continuous, Key, Params, Rollout, Spec

MAX_LOG_VAR, MIN_LOG_VAR = 0.5, -10.0
"""Initial bounds of the log-variance, as in PETS."""
BOUND_WEIGHT = 0.01
"""Weight of the distance of the bounds in the loss, as in PETS."""


class Prediction(struct.PyTreeNode):
    """A diagonal Gaussian over the outputs of a model, [..., D]."""

    mean: Array
    log_var: Array
    """Logarithm of the variance; 0 for a deterministic model, which is trained on the squared error alone."""

    def sample(self, noise: Array) -> Array:
        """Reparameterises standard normal noise [..., D] to a sample of the outputs."""
        return self.mean + jnp.exp(0.5 * self.log_var) * noise

    def negative_log_likelihood(self, outputs: Array) -> Array:
        """Computes the negative log-likelihood of outputs [..., D] without its constant, summed over D, [...]."""
        error = jnp.square(self.mean - outputs) * jnp.exp(-self.log_var)
        return 0.5 * jnp.sum(error + self.log_var, axis=-1)


class Dynamics(NamedTuple):
    """A model of transitions, as pure functions."""

    inputs: int
    """Numbers of an input, |observation| + |action|."""
    outputs: int
    """D, the numbers of an output: |observation|, and one more if the reward is learned."""
    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Prediction]
    """(params, inputs [..., |inputs|]) -> predictions [..., D]."""
    penalty: Callable[[Params], Array]
    """params -> what the loss of the model adds to the likelihood, scalar: the distance of the learned bounds."""
    probabilistic: bool = True
    """Whether the model predicts a variance; samples of a deterministic model are its mean."""


class RecurrentDynamics(NamedTuple):
    """A model of transitions whose state is computed from past transitions, as pure functions."""

    inputs: int
    outputs: int
    init: Callable[[Key], Params]
    initial_state: Callable[[], Any]
    observe: Callable[[Params, Any, Array, Array], Any]
    """(params, state, inputs [|inputs|], outputs [D]) -> the state after one more transition."""
    apply: Callable[[Params, Any, Array], Prediction]
    """(params, state, inputs [..., |inputs|]) -> predictions [..., D]."""
    penalty: Callable[[Params], Array]
    """As in `Dynamics`."""
    probabilistic: bool = False
    """As in `Dynamics`."""


def dynamics_sizes(spec: Spec, learns_reward: bool) -> tuple[int, int]:
    """Returns the numbers of an input and of an output of a model of these observations and actions.

    Raises:
      ValueError: if an observation is not one float32 vector.
    """
    if not spec.is_plain or len(spec.observation) != 1:
        raise ValueError(f"tasks.observation is {spec.observation}; a model of the dynamics needs one float32 vector")
    size = spec.observation[0]
    return size + action_vector(spec.action.example(), spec.action).shape[0], size + learns_reward


def dynamics_inputs(spec: Spec, obs: Array, action: Array) -> Array:
    """Concatenates observations and actions as vectors, [..., |inputs|], not normalised.

    Real-valued actions are clipped to the limit, as the environment clips them.
    """
    if isinstance(spec.action, Continuous):
        action = jnp.clip(action, -spec.action.limit, spec.action.limit)
    vector = lambda action: action_vector(action, spec.action)  # noqa: E731
    for _ in obs.shape[:-1]:
        vector = jax.vmap(vector)
    return jnp.concatenate([obs, vector(action)], axis=-1)


def dynamics_outputs(obs: Array, next_obs: Array, reward: Array | None = None) -> Array:
    """Returns the changes of observations, followed by the rewards if these are learned, [..., D], not normalised."""
    change = next_obs - obs
    return change if reward is None else jnp.concatenate([change, reward[..., None]], axis=-1)


def dynamics_rows(spec: Spec, experience: Rollout, learns_reward: bool) -> tuple[Array, Array]:
    """Returns inputs and outputs of a model for all steps of a round [T, E, ...], and 1.0 for valid steps, [T E].

    Returns:
      Rows [T E, |inputs| + D], not normalised, the streams one after the other.
    """
    obs = experience.inputs.obs
    outputs = dynamics_outputs(obs, experience.next_obs, experience.reward if learns_reward else None)
    rows = jnp.concatenate([dynamics_inputs(spec, obs, experience.action), outputs], axis=-1)
    rows, valid = (jnp.swapaxes(leaf, 0, 1) for leaf in (rows, experience.valid))
    return rows.reshape(-1, rows.shape[-1]), valid.reshape(-1)


def dynamics_loss(dynamics: Dynamics, model: Params, inputs: Array, outputs: Array, weight: Array) -> Array:
    """Computes the loss of a model: the weighted mean of the negative log-likelihood, and the model's penalty.

    Args:
      model: params of `dynamics`, which may be an ensemble.
      inputs: normalised, [..., M, |inputs|].
      outputs: normalised, [..., M, D].
      weight: of each transition, [..., M], such as how often a bootstrap drew it.

    Returns:
      A scalar, the sum over all leading axes.
    """
    error = dynamics.apply(model, inputs).negative_log_likelihood(outputs)
    mean = jnp.sum(error * weight, -1) / jnp.maximum(jnp.sum(weight, -1), 1.0)
    return jnp.sum(mean) + dynamics.penalty(model)


def prediction_error(prediction: Prediction, outputs: Array, valid: Array) -> Array:
    """Computes the mean squared error over valid transitions and all outputs, scalar; 0 without a valid transition.

    For a probabilistic model it is twice the mean negative log-likelihood per output.

    Args:
      prediction: leaves [M, D].
      outputs: [M, D].
      valid: [M].
    """
    error = 2.0 * prediction.negative_log_likelihood(outputs) / outputs.shape[-1]
    return jnp.sum(error * valid) / jnp.maximum(jnp.sum(valid), 1.0)


class _Gaussian(nn.Module):
    """Dense layers, and a mean with a bounded log-variance."""

    outputs: int
    hidden: Sequence[int]
    activation: str
    probabilistic: bool

    @nn.compact
    def __call__(self, x: Array) -> Prediction:
        features = MLP(self.hidden, self.activation, math.sqrt(2.0))(x)
        # a small initial output layer: the initial prediction is that nothing changes
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        mean = nn.Dense(self.outputs, kernel_init=small, name="mean")(features)
        if not self.probabilistic:
            return Prediction(mean, jnp.zeros_like(mean))
        highest = self.param("max_log_var", nn.initializers.constant(MAX_LOG_VAR), (self.outputs,))
        lowest = self.param("min_log_var", nn.initializers.constant(MIN_LOG_VAR), (self.outputs,))
        log_var = nn.Dense(self.outputs, kernel_init=small, name="log_var")(features)
        log_var = highest - jax.nn.softplus(highest - log_var)
        return Prediction(mean, lowest + jax.nn.softplus(log_var - lowest))


def bound_penalty(params: Params) -> Array:
    """Returns the weighted distance of the bounds of the log-variance, which keeps them near to the data, scalar."""
    bounds = cast(Any, params)["params"]
    if "max_log_var" not in bounds:
        return jnp.zeros(())
    return BOUND_WEIGHT * jnp.sum(bounds["max_log_var"] - bounds["min_log_var"])


def gaussian_dynamics(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (64, 64),
    probabilistic: bool = True,
    activation: str = "swish",
) -> Dynamics:
    """Builds a feed-forward model.

    Args:
      inputs: numbers of an input.
      outputs: numbers of an output.
      hidden: widths of the hidden layers.
      probabilistic: whether the variance is predicted.
      activation: one of `ACTIVATIONS`.
    """
    module = _Gaussian(outputs, tuple(hidden), activation, probabilistic)
    return Dynamics(
        inputs,
        outputs,
        init=lambda key: module.init(key, jnp.zeros(inputs)),
        apply=lambda params, x: cast(Prediction, module.apply(params, x)),
        penalty=bound_penalty,
        probabilistic=probabilistic,
    )


def ensemble(dynamics: Dynamics, members: int) -> Dynamics:
    """Makes an ensemble of B models with initial params of their own.

    Its params have leaves [B, ...], and its `apply` maps inputs [B, ..., |inputs|] to predictions [B, ..., D]: each
    member gets inputs of its own, and all are multiplied in one batched product. Its penalty is the members' sum.
    """
    return dynamics._replace(
        init=lambda key: jax.vmap(dynamics.init)(jax.random.split(key, members)),
        apply=jax.vmap(dynamics.apply),
        penalty=lambda params: jnp.sum(jax.vmap(dynamics.penalty)(params)),
    )


class _Memory(nn.Module):
    """Updates a recurrent state by one transition."""

    cell: str
    state: int
    length: int

    @nn.compact
    def __call__(self, state: tuple[Array, ...], seen: Array) -> tuple[Array, ...]:
        return cast(tuple[Array, ...], advance_state(CELLS[self.cell], self.state, self.length, state, seen))


def recurrent_dynamics(
    inputs: int,
    outputs: int,
    state: int = 32,
    hidden: Sequence[int] = (64, 64),
    probabilistic: bool = False,
    activation: str = "tanh",
    cell: str = "gru",
    length: int = 1,
) -> RecurrentDynamics:
    """Builds a model that reads past transitions into a recurrent state, on which its predictions are conditioned.

    Args:
      inputs: numbers of an input.
      outputs: numbers of an output.
      state: size of the recurrent state, which is initially zero.
      hidden: widths of the hidden layers of the model.
      probabilistic: whether the variance is predicted.
      activation: one of `ACTIVATIONS`.
      cell: "gru" or "lstm".
      length: largest initial time constant of the units, in steps.
    """
    memory = _Memory(cell, state, length)
    model = gaussian_dynamics(inputs + state, outputs, hidden, probabilistic, activation)
    start = (jnp.zeros(state),) * CELLS[cell].states

    def init(key: Key) -> Params:
        memory_key, model_key = jax.random.split(key)
        return {"memory": memory.init(memory_key, start, jnp.zeros(inputs + outputs)), "model": model.init(model_key)}

    def observe(params: Params, state: Any, x: Array, y: Array) -> Any:
        return memory.apply(params["memory"], state, jnp.concatenate([x, y]))

    def apply(params: Params, state: Any, x: Array) -> Prediction:
        context = jnp.broadcast_to(state[-1], (*x.shape[:-1], state[-1].shape[-1]))
        return model.apply(params["model"], jnp.concatenate([x, context], axis=-1))

    return RecurrentDynamics(
        inputs,
        outputs,
        init,
        initial_state=lambda: start,
        observe=observe,
        apply=apply,
        penalty=lambda params: model.penalty(params["model"]),
        probabilistic=probabilistic,
    )
