"""pytorch-maml-rl, from a checkout, on its 2D navigation: its sampler in processes and its MAML-TRPO."""

from __future__ import annotations

import os
import sys

from benchmarks.peers.protocol import Session, arguments

session = Session("torch", "gym")

import gym
import torch

torch.lstsq = lambda right, matrix: torch.linalg.lstsq(matrix, right)[:2]  # as it was called in PyTorch of its time

STEP = {"max_kl": 1e-2, "cg_iters": 10, "cg_damping": 1e-5, "ls_max_steps": 15, "ls_backtrack_ratio": 0.8}


def main(checkout: str, num_tasks: int, streams: int, horizon: int, hidden: list[int]) -> None:
    sys.path.insert(0, checkout)
    import maml_rl.envs  # noqa: F401  it registers the tasks
    from maml_rl.baseline import LinearFeatureBaseline
    from maml_rl.metalearners import MAMLTRPO
    from maml_rl.samplers import MultiTaskSampler
    from maml_rl.utils.helpers import get_input_size, get_policy_for_env

    gym.envs.registry.env_specs["2DNavigation-v0"].max_episode_steps = horizon
    env = gym.make("2DNavigation-v0")
    policy = get_policy_for_env(env, hidden_sizes=hidden, nonlinearity="tanh")
    policy.share_memory()
    sampler = MultiTaskSampler(
        "2DNavigation-v0",
        {},
        batch_size=streams,
        policy=policy,
        baseline=LinearFeatureBaseline(get_input_size(env)),
        env=env,
        num_workers=len(os.sched_getaffinity(0)),
        seed=0,
    )
    learner = MAMLTRPO(policy, fast_lr=0.1, first_order=False)

    def work() -> float:
        tasks = sampler.sample_tasks(num_tasks=num_tasks)
        futures = sampler.sample_async(tasks, num_steps=1, fast_lr=0.1, gamma=0.99, gae_lambda=1.0)
        learner.step(*futures, **STEP)
        before, after = sampler.sample_wait(futures)
        return float(sum(sum(episodes.lengths) for episodes in [*before[0], *after]))

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
