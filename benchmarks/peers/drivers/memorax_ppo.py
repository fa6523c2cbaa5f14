"""memorax's recurrent PPO with a GRU, on bandits of our own with the interface of gymnax."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any
from unittest.mock import MagicMock

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "memorax")

for module in (
    "neptune_scale",
    "wandb",
    "wandb.sdk",
    "wandb.sdk.wandb_run",
    "tensorboardX",
):  # its loggers, which are not used here
    sys.modules.setdefault(module, MagicMock())

import jax
import jax.numpy as jnp
import optax
from flax import linen
from gymnax.environments import spaces
from memorax.algorithms import PPO, PPOConfig
from memorax.networks import RNN, FeatureExtractor, Network, heads

ARMS = 5


@dataclasses.dataclass(frozen=True)
class Bandit:
    """Bernoulli bandits; the probabilities are drawn anew after `length` pulls."""

    length: int

    def action_space(self, params: Any) -> spaces.Discrete:
        return spaces.Discrete(ARMS)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return jnp.zeros(1), (jax.random.uniform(key, (ARMS,)), jnp.int32(0))

    def step(self, key: jax.Array, state: tuple[jax.Array, jax.Array], action: jax.Array, params: Any) -> tuple:
        reward_key, reset_key = jax.random.split(key)
        chances, pulls = state
        reward = jax.random.bernoulli(reward_key, chances[action]).astype(jnp.float32)
        done = pulls + 1 >= self.length
        _, fresh = self.reset(reset_key, params)
        state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, (chances, pulls + 1))
        return jnp.zeros(1), state, reward, done, {}


def main(num_tasks: int, length: int, hidden: int, epochs: int, minibatches: int) -> None:
    def network(head: linen.Module) -> Network:
        extract = FeatureExtractor(
            observation_extractor=lambda obs: obs,
            action_extractor=lambda action: jax.nn.one_hot(action, ARMS),
            reward_extractor=lambda reward: reward,
        )
        return Network(extract, RNN(cell=linen.GRUCell(features=hidden)), head)

    config = PPOConfig(
        name="ppo",
        num_envs=num_tasks,
        num_eval_envs=1,
        num_steps=length,
        gamma=0.99,
        gae_lambda=0.9,
        num_minibatches=minibatches,
        update_epochs=epochs,
        normalize_advantage=True,
        clip_coef=0.2,
        clip_vloss=False,
        ent_coef=0.05,
        vf_coef=0.5,
    )
    adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))
    ppo = PPO(config, Bandit(length), None, network(heads.Categorical(ARMS)), network(heads.VNetwork()), adam, adam)
    holder = [ppo.init(jax.random.key(0))]

    def work() -> float:
        key, state, _ = jax.block_until_ready(ppo.train(*holder[0], num_tasks * length))
        holder[0] = key, state
        return num_tasks * length

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
