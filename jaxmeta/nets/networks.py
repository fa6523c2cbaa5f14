"""Flax modules for policies, and the interface through which learners use them.

Only this package depends on linen: a learner needs `init` and `apply` over a pytree of params, from any library.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.heads import Gaussian, head_for
from jaxmeta.nets.observations import action_vector, any_observation, encoded, vector_size
from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.types import Action, Array, Carry, Discrete, Input, Key, MultiDiscrete, Output, Params, Spec


class Network(NamedTuple):
    """A policy as pure functions, unbatched."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Carry, Input], tuple[Carry, Output]]
    initial_state: Callable[[], Carry]
    """The carry at the start of a stream; `()` for a memoryless policy."""
    head: Callable[[Output], Any]
    unroll: Callable[[Params, Carry, Input, Array], Output] | None = None
    """Optional: `apply` over whole streams, parallel in time; initial carries [E, ...], inputs [T, E, ...] and valid
    [T, E]. Invalid steps have an output, but do not affect later steps."""
    values: Callable[[Params, Input, Array], Array] | None = None
    """Optional: values along whole streams, for a network that does not need them to act; inputs [T, E, ...] and valid
    [T, E] -> [T, E]. The values of `apply` and `unroll` are then zero."""


HEADS = "heads"
"""Start of the names of the params that belong to one task each, leaves [K, ...]; all others are shared."""
VALUE_HEADS = f"{HEADS}_value"
"""Name of the output layer of the values of K tasks: kernel [K, features, 1] and bias [K, 1]."""
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu, "swish": jax.nn.swish}


class MLP(nn.Module):
    """Dense layers, each followed by the activation."""

    hidden: Sequence[int]
    activation: str
    scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=orthogonal(self.scale))(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class MLPWithOutput(nn.Module):
    """Dense layers with relu, and a linear output layer."""

    hidden: Sequence[int]
    outputs: int
    scale: float = math.sqrt(2.0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.outputs)(MLP(self.hidden, "relu", self.scale)(x))


class _ActionHead(nn.Module):
    """Distribution params from features: logits, or a mean and a state-independent log standard deviation.

    The logits of multi-discrete actions are concatenated.
    """

    action: Action
    init_log_std: float
    action_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Any:
        # a small initial output layer: the initial policy hardly depends on the observation
        small = orthogonal(0.01)
        if isinstance(self.action, Discrete):
            return nn.Dense(self.action.num, kernel_init=small)(x)
        if isinstance(self.action, MultiDiscrete):
            return nn.Dense(sum(self.action.nums), kernel_init=small)(x)
        loc = nn.Dense(self.action.size, kernel_init=small)(x)
        log_std = self.param("log_std", nn.initializers.constant(self.init_log_std), (self.action.size,))
        log_scale = jnp.broadcast_to(log_std + math.log(self.action_scale), loc.shape)
        return Gaussian(loc=self.action_scale * loc, log_scale=log_scale)


class _FeedForward(nn.Module):
    spec: Spec
    hidden: Sequence[int]
    activation: str
    init_log_std: float
    action_scale: float
    value: bool

    @nn.compact
    def __call__(self, inputs: Input) -> Output:
        obs = inputs.obs.reshape(-1)
        features = MLP(self.hidden, self.activation, math.sqrt(2.0))(obs)
        dist = _ActionHead(self.spec.action, self.init_log_std, self.action_scale)(features)
        if not self.value:
            return Output(dist=dist, value=jnp.zeros(()))
        features = MLP(self.hidden, self.activation, math.sqrt(2.0))(obs)
        return Output(dist=dist, value=nn.Dense(1, kernel_init=nn.initializers.zeros)(features)[0])


def one_per_task(module: Any, num_tasks: int) -> Any:
    """Returns a linen module that applies K modules to the same input: params and outputs have an axis [K] in front."""
    return nn.vmap(
        module,
        in_axes=None,  # pyright: ignore[reportArgumentType]
        variable_axes={"params": 0},
        split_rngs={"params": True},
        axis_size=num_tasks,
    )


def action_heads(count: int) -> Any:
    """Returns a linen module of action heads on the same features: params and outputs have an axis [count] in front."""
    return one_per_task(_ActionHead, count)


class _MultiHead(nn.Module):
    spec: Spec
    num_tasks: int
    hidden: Sequence[int]
    activation: str
    init_log_std: float
    action_scale: float
    policy_heads: bool

    @nn.compact
    def __call__(self, inputs: Input) -> Output:
        obs = inputs.obs.reshape(-1)
        code = obs[-self.num_tasks :]
        if self.policy_heads:
            obs = obs[: -self.num_tasks]
        policy_heads, value_heads = action_heads(self.num_tasks), one_per_task(nn.Dense, self.num_tasks)
        features = MLP(self.hidden, self.activation, math.sqrt(2.0), name="trunk_policy")(obs)
        shape = (self.spec.action, self.init_log_std, self.action_scale)
        if self.policy_heads:
            each = policy_heads(*shape, name=f"{HEADS}_policy")(features)
            dist = jax.tree.map(lambda leaf: jnp.tensordot(code, leaf, 1), each)
        else:
            dist = _ActionHead(*shape)(features)
        features = MLP(self.hidden, self.activation, math.sqrt(2.0), name="trunk_value")(obs)
        values = value_heads(1, kernel_init=nn.initializers.zeros, name=VALUE_HEADS)(features)
        return Output(dist=dist, value=code @ values[:, 0])


def policy_and_value(features: Array, spec: Spec, init_log_std: float) -> Output:
    """Adds linear policy and value heads to features [..., D]; to be called inside a compact linen module."""
    dist = _ActionHead(spec.action, init_log_std)(features)
    # initialised to zero: an untrained critic would bias the advantages
    return Output(dist=dist, value=nn.Dense(1, kernel_init=nn.initializers.zeros)(features)[..., 0])


def encode_input(inputs: Input, spec: Spec) -> Array:
    """Concatenates an input to one vector for a recurrent policy: observation, previous action, reward, done, first.

    The observation must be one float32 array, see `encoded`.

    A discrete previous action is one-hot; at the first step it is all zero.
    """
    action = action_vector(inputs.prev_action, spec.action)
    if isinstance(spec.action, Discrete | MultiDiscrete):
        action *= 1.0 - inputs.first
    scalars = jnp.stack([inputs.prev_reward, inputs.prev_done, inputs.first])
    return jnp.concatenate([inputs.obs.reshape(-1), action, scalars])


@any_observation
def actor_critic(
    spec: Spec,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    init_log_std: float = 0.0,
    action_scale: float = 1.0,
    value: bool = False,
) -> Network:
    """Builds a memoryless policy: an MLP on the observation, and a second MLP for the value if `value`.

        policy = inner.policy(nets.actor_critic(family.env.spec, hidden=(64, 64)))

    Args:
      hidden: widths of the hidden layers.
      activation: one of `ACTIVATIONS`.
      init_log_std: initial log standard deviation of a Gaussian policy, the same in every state.
      action_scale: factor of mean and standard deviation of continuous actions, for environments whose actions are far
        from 1 in magnitude.
      value: whether to predict a value; else it is zero.
    """
    return _memoryless(_FeedForward(spec, tuple(hidden), activation, init_log_std, action_scale, value), spec)


def _memoryless(module: nn.Module, spec: Spec) -> Network:
    """Builds the network of a module that maps an input to an output."""

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        return carry, cast(Output, module.apply(params, inputs))

    return Network(
        init=lambda key: module.init(key, spec.example_input()),
        apply=apply,
        initial_state=lambda: (),
        head=head_for(spec.action),
    )


def multi_head(
    spec: Spec,
    num_tasks: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    init_log_std: float = 0.0,
    action_scale: float = 1.0,
    task_id: str = "task_id",
    policy_heads: bool = True,
) -> Network:
    """Builds a memoryless policy with a value: K tasks share the hidden layers, and each has output layers of its own.

        family = jm.tasks.with_task_id(jm.tasks.half_cheetah_dir())
        policy = inner.policy(nets.multi_head(family.env.spec, num_tasks=2))

    The one-hot task ID chooses the head and is no input of the trunk. Policy and value have separate trunks, as in
    `actor_critic`; with one task both networks are the same. The standard deviation of continuous actions belongs to
    the head. Names of the heads' params begin with `HEADS`.

    Args:
      spec: observations are one float32 array that ends with the task ID, or a dict with the task ID as a part.
      num_tasks: K.
      hidden: widths of the hidden layers of each trunk.
      activation: one of `ACTIVATIONS`.
      init_log_std: initial log standard deviation of a Gaussian policy.
      action_scale: factor of mean and standard deviation of continuous actions.
      task_id: key of the task ID in a dict observation.
      policy_heads: if false, only the values have a head per task, and both trunks read the task ID.

    Raises:
      ValueError: if the observation is too short to end with the task ID, or a dict has no such part.
    """
    check_task_id(spec, num_tasks, task_id)

    def make(spec: Spec) -> Network:
        shape = (tuple(hidden), activation, init_log_std, action_scale, policy_heads)
        return _memoryless(_MultiHead(spec, num_tasks, *shape), spec)

    return encoded(make, spec, task_id)


def check_task_id(spec: Spec, num_tasks: int, task_id: str = "task_id") -> None:
    """Raises a ValueError if an observation has no room for the one-hot ID of K tasks, see `multi_head`."""
    if spec.is_plain:
        long_enough = math.prod(spec.observation) > num_tasks
    else:
        long_enough = isinstance(spec.observation, dict) and task_id in spec.observation
    if not long_enough:
        raise ValueError(
            f"tasks.observation is {spec.observation}; a multi-head network needs the one-hot ID of {num_tasks} tasks"
            f" at its end, or as {task_id!r} in a dict (try jm.tasks.with_task_id)"
        )


def scale_value(network: Network, scale: float) -> Network:
    """Multiplies a network's values by `scale`, so that returns of that magnitude are easy to fit."""

    def scaled(output: Output) -> Output:
        return output.replace(value=scale * output.value)

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, output = network.apply(params, carry, inputs)
        return carry, scaled(output)

    unroll, values = network.unroll, network.values
    return network._replace(
        apply=apply,
        unroll=unroll and (lambda *args: scaled(unroll(*args))),
        values=values and (lambda *args: scale * values(*args)),
    )


def beside(network: Network, **others: Array) -> Network:
    """Adds params that the network does not read, for losses with params of their own.

    The params are those of the network, `network`, and the others by name, with these initial values.
    """
    parallel, network_values = network.unroll, network.values
    return network._replace(
        init=lambda key: {"network": network.init(key), **others},
        apply=lambda params, *rest: network.apply(params["network"], *rest),
        unroll=parallel and (lambda params, *rest: parallel(params["network"], *rest)),
        values=network_values and (lambda params, *rest: network_values(params["network"], *rest)),
    )


def with_context(make: Callable[[Spec], Network], spec: Spec, size: int) -> Network:
    """Concatenates CAVIA's context parameters to the policy's observation: the params `context`, initially zero.

    Args:
      make: builds the policy for a spec.
      size: number of context parameters.

    Raises:
      ValueError: if an observation is not one float32 array.
    """
    network = make(dataclasses.replace(spec, observation=(vector_size(spec, "a context that adapts") + size,)))
    network_values = network.values

    def beside_context(params: Params, inputs: Input, *leading: int) -> Input:
        context = jnp.broadcast_to(params["context"], (*leading, size))
        return inputs.replace(obs=jnp.concatenate([inputs.obs.reshape(*leading, -1), context], axis=-1))

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        return network.apply(params["network"], carry, beside_context(params, inputs))

    def values(params: Params, inputs: Input, valid: Array) -> Array:
        assert network_values is not None
        return network_values(params["network"], beside_context(params, inputs, *valid.shape), valid)

    return network._replace(
        init=lambda key: {"context": jnp.zeros(size), "network": network.init(key)},
        apply=apply,
        unroll=None,
        values=None if network_values is None else values,
    )


def separate_value(policy: Network, value: Network) -> Network:
    """Combines a policy network and a value network without shared params.

    An outer loop can then fit the values without changing the policy. If both networks have an `unroll`, the values are
    not computed while acting, but for all steps of a stream at once (`Network.values`).
    """
    parallel_policy, parallel_value = policy.unroll, value.unroll

    def init(key: Key) -> Params:
        policy_key, value_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "value": value.init(value_key)}

    if parallel_policy is None or parallel_value is None:

        def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
            policy_carry, output = policy.apply(params["policy"], carry["policy"], inputs)
            value_carry, value_output = value.apply(params["value"], carry["value"], inputs)
            return {"policy": policy_carry, "value": value_carry}, output.replace(value=value_output.value)

        return Network(
            init=init,
            apply=apply,
            initial_state=lambda: {"policy": policy.initial_state(), "value": value.initial_state()},
            head=policy.head,
        )

    def without_value(output: Output) -> Output:
        return output.replace(value=jnp.zeros_like(output.value))

    def act(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, output = policy.apply(params["policy"], carry, inputs)
        return carry, without_value(output)

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        return without_value(parallel_policy(params["policy"], carry, inputs, valid))

    def values(params: Params, inputs: Input, valid: Array) -> Array:
        streams = valid.shape[1]
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (streams, *leaf.shape)), value.initial_state())
        return parallel_value(params["value"], carry, inputs, valid).value

    return policy._replace(init=init, apply=act, unroll=unroll, values=values)
