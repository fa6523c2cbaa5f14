"""The official PEARL's gradient steps, from a checkout: its networks, replay buffers and updates, on random data."""

from __future__ import annotations

import sys
import types

from benchmarks.peers.protocol import Session, arguments

session = Session("torch", "gym")

import numpy as np

LATENT = 5


class Spaces:
    """An environment of which only the spaces are used."""

    def __init__(self, observation: int, action: int):
        from gym.spaces import Box

        self.observation_space = Box(-np.inf, np.inf, (observation,), np.float32)
        self.action_space = Box(-1.0, 1.0, (action,), np.float32)


def main(
    checkout: str,
    meta_batch: int,
    batch_size: int,
    context_batch: int,
    hidden: int,
    observation: int,
    action: int,
    num_train_tasks: int,
    replay_capacity: int,
    gradient_steps: int,
) -> None:
    sys.path.insert(0, checkout)
    np.bool, _int, _float = bool, int, float  # of the NumPy of its time
    sys.modules.setdefault("gtimer", types.ModuleType("gtimer"))  # a clock for its own training loop only
    from rlkit.torch.networks import FlattenMlp, MlpEncoder
    from rlkit.torch.sac.agent import PEARLAgent
    from rlkit.torch.sac.policies import TanhGaussianPolicy
    from rlkit.torch.sac.sac import PEARLSoftActorCritic

    options = {"recurrent": False, "use_information_bottleneck": True, "sparse_rewards": False}
    options |= {"use_next_obs_in_context": False}

    def critic(size):
        return FlattenMlp(hidden_sizes=[hidden] * 3, input_size=size, output_size=1)

    encoder = MlpEncoder(hidden_sizes=[200, 200, 200], input_size=observation + action + 1, output_size=2 * LATENT)
    policy = TanhGaussianPolicy(
        hidden_sizes=[hidden] * 3, obs_dim=observation + LATENT, latent_dim=LATENT, action_dim=action
    )
    agent = PEARLAgent(LATENT, encoder, policy, **options)
    both = observation + action + LATENT
    algorithm = PEARLSoftActorCritic(
        Spaces(observation, action),
        list(range(num_train_tasks)),
        [],
        LATENT,
        [agent, critic(both), critic(both), critic(observation + LATENT)],
        batch_size=batch_size,
        embedding_batch_size=context_batch,
        embedding_mini_batch_size=context_batch,
        replay_buffer_size=replay_capacity,
        kl_lambda=0.1,
        **options,
    )
    random = np.random.default_rng(0)
    for buffers in (algorithm.replay_buffer, algorithm.enc_replay_buffer):
        for task in range(num_train_tasks):
            for _ in range(2 * batch_size + context_batch):  # the sampling of a buffer costs the same however full
                obs, done = random.normal(size=(2, observation)), 0.0
                buffers.add_sample(task, obs[0], random.normal(size=action), random.normal(), done, obs[1], env_info={})
    algorithm.training_mode(True)

    def work() -> float:
        for _ in range(gradient_steps):
            algorithm._do_training(random.choice(num_train_tasks, meta_batch))
        return gradient_steps

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
