"""Brax's own PPO on its half-cheetah; `devices` gives it a CPU device per core, else it has one as installed."""

from __future__ import annotations

import os

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "brax")
given = arguments()
if given.pop("devices", False):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={len(os.sched_getaffinity(0))}"

import functools

from brax import envs
from brax.training.agents.ppo import networks, train
from flax import linen

FOREVER = 1_000_000
"""Updates; the benchmark ends the process long before."""


def main(num_envs: int, unroll: int, minibatches: int, epochs: int, hidden: list[int]) -> None:
    steps = num_envs * unroll

    layers = {"policy_hidden_layer_sizes": hidden, "value_hidden_layer_sizes": hidden, "activation": linen.tanh}
    train.train(
        envs.get_environment("halfcheetah", backend="spring"),
        num_timesteps=FOREVER * steps,
        num_evals=FOREVER,  # progress is reported after each of them
        run_evals=False,
        episode_length=unroll,
        num_envs=num_envs,
        unroll_length=unroll,
        batch_size=num_envs // minibatches,
        num_minibatches=minibatches,
        num_updates_per_batch=epochs,
        network_factory=functools.partial(networks.make_ppo_networks, **layers),
        progress_fn=lambda *_: session.did(steps),
    )


if __name__ == "__main__":
    main(**given)
