"""Networks of agents with options: a policy and a termination for each option, and a policy over options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import HEADS, MLP, VALUE_HEADS, Network, action_heads, check_task_id, one_per_task
from jaxmeta.nets.observations import encoded, mask_logits
from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.types import Array, Carry, Input, Output, Params, Spec

STOP_BIAS = -1.0
"""Initial logit of a termination: options last for 3.7 steps."""


class OptionsOutput(struct.PyTreeNode):
    """`Output.dist` of a network with K options."""

    actions: Array
    """Distribution params of the policy of every option, leaves [K, ...]."""
    stop: Array
    """Logits of terminating each option, [K]."""
    choose: Array
    """Logits of the policy over options, [K]."""


class _Options(nn.Module):
    spec: Spec
    num_options: int
    num_tasks: int
    hidden: Sequence[int]
    activation: str
    init_log_std: float
    action_scale: float

    @nn.compact
    def __call__(self, inputs: Input) -> Output:
        obs = inputs.obs.reshape(-1)
        code = jnp.ones(1)
        if self.num_tasks:
            obs, code = obs[: -self.num_tasks], obs[-self.num_tasks :]

        def features(name: str) -> Array:
            return MLP(self.hidden, self.activation, math.sqrt(2.0), name=name)(obs)

        each_option, small = action_heads(self.num_options), orthogonal(0.01)
        each_master = one_per_task(nn.Dense, max(1, self.num_tasks))
        acting = features("trunk_policy")
        actions = each_option(self.spec.action, self.init_log_std, self.action_scale, name="options_policy")(acting)
        bias = nn.initializers.constant(STOP_BIAS)
        stop = nn.Dense(self.num_options, kernel_init=small, bias_init=bias, name="options_stop")(acting)
        choose = each_master(self.num_options, kernel_init=small, name=f"{HEADS}_master")(features("trunk_master"))
        value = each_master(self.num_options, kernel_init=nn.initializers.zeros, name=VALUE_HEADS)
        return Output(
            dist=OptionsOutput(actions, stop, choose=code @ choose), value=code @ value(features("trunk_value"))
        )


def options(
    spec: Spec,
    num_options: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    init_log_std: float = 0.0,
    action_scale: float = 1.0,
    num_tasks: int = 0,
    task_id: str = "task_id",
) -> Network:
    """Builds the network of an agent with K options, for `inner.options`.

        policy = inner.options(nets.options(family.env.spec, num_options=4), num_options=4)

    The policies of the options and their terminations share hidden layers. The policy over options and the values of
    the options have hidden layers of their own. `Output.dist` is an `OptionsOutput`, and `Output.value` [K] the value
    of every option.

    Args:
      num_options: K.
      hidden: widths of the hidden layers, of each of the three.
      activation: one of `ACTIVATIONS`.
      init_log_std: initial log standard deviation of a Gaussian policy.
      action_scale: factor of mean and standard deviation of continuous actions.
      num_tasks: if positive, the observation ends with the one-hot ID of as many tasks. Policy over options and values
        then have an output layer for each task, and only these depend on the ID.
      task_id: key of the task ID in a dict observation.

    Raises:
      ValueError: if the observation is too short to end with the task ID, or a dict has no such part.
    """
    if num_tasks:
        check_task_id(spec, num_tasks, task_id)
    shape = (num_options, num_tasks, tuple(hidden), activation, init_log_std, action_scale)

    def make(spec: Spec) -> Network:
        module = _Options(spec, *shape)
        return Network(
            init=lambda key: module.init(key, spec.example_input()),
            apply=lambda params, carry, inputs: (carry, cast(Output, module.apply(params, inputs))),
            initial_state=lambda: (),
            head=head_for(spec.action),
        )

    # an action mask is a part of the observation, and masks the actions of every option
    network = encoded(make, dataclasses.replace(spec, action_mask=None), task_id if num_tasks else None)
    if (name := spec.action_mask) is None:
        return network

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, output = network.apply(params, carry, inputs)
        actions = mask_logits(output.dist.actions, inputs.obs[name], spec)
        return carry, output.replace(dist=output.dist.replace(actions=actions))

    return network._replace(apply=apply)
