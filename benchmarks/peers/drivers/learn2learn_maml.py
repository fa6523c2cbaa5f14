"""MAML-TRPO with learn2learn and cherry: their environments in processes, runner, baseline, MAML update and TRPO.

The half-cheetah is Gymnasium's on MuJoCo, with goal velocities of our own. As in learn2learn, tasks are collected and
differentiated one after the other, and an environment per process takes part in every step.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any
from unittest.mock import MagicMock

from benchmarks.peers.protocol import Session, arguments

session = Session("torch", "learn2learn", "cherry-rl", "gym", "gymnasium", "mujoco")

try:
    import torchvision  # noqa: F401
except ImportError:  # learn2learn imports its data sets of images, which are not used here
    for module in ("", ".transforms", ".datasets", ".datasets.folder", ".datasets.omniglot"):
        sys.modules["torchvision" + module] = MagicMock()

import cherry
import gym
import learn2learn as l2l
import numpy as np
import torch
from cherry.algorithms.trpo import TRPO
from cherry.models.robotics import LinearValue
from learn2learn.algorithms.maml import maml_update
from learn2learn.gym.envs.particles import Particles2DEnv
from torch import Tensor, autograd, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters

PROCESSES, INNER_LR, DISCOUNT, MAX_KL, BACKTRACK, MAX_TRIES, CONTROL_COST = 10, 0.1, 0.99, 0.01, 0.8, 15, 0.05
RANDOM = np.random.default_rng(0)
torch.distributions.Distribution.set_default_validate_args(False)


class GoalVelocity(l2l.gym.MetaEnv):
    """Gymnasium's half-cheetah with the interface of old gym; the reward asks for a velocity."""

    def __init__(self, task: dict[str, float] | None = None):
        import gymnasium

        self._body = gymnasium.make("HalfCheetah-v5").unwrapped
        super().__init__(task)
        for name, space in (
            ("observation_space", self._body.observation_space),
            ("action_space", self._body.action_space),
        ):
            setattr(self, name, gym.spaces.Box(space.low, space.high, dtype=np.float32))

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{"velocity": velocity} for velocity in RANDOM.uniform(0.0, 2.0, num_tasks)]

    def reset(self) -> np.ndarray:
        return self._body.reset()[0].astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        action = np.clip(action, -1.0, 1.0)
        obs, _, _, _, info = self._body.step(action)
        reward = -abs(info["x_velocity"] - self._task["velocity"]) - CONTROL_COST * float(np.square(action).sum())
        return obs.astype(np.float32), reward, False, {}


class Policy(nn.Module):
    """A Gaussian whose mean is an MLP and whose standard deviation is a parameter."""

    def __init__(self, obs: int, action: int, hidden: list[int]):
        super().__init__()
        self.mean = cherry.models.robotics.RoboticsMLP(obs, action, hidden)
        self.log_std = nn.Parameter(torch.zeros(action))

    def density(self, obs: Tensor) -> Independent:
        return Independent(Normal(self.mean(obs), self.log_std.exp()), 1)

    def forward(self, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.density(obs).sample()


class Round:
    """Experience of one round, with what losses need of it."""

    def __init__(self, replay: Any, policy: Policy, baseline: LinearValue):
        self.obs, self.action, done = replay.state(), replay.action(), replay.done()
        self.size, reward = len(replay), replay.reward()
        baseline.fit(self.obs, cherry.td.discount(DISCOUNT, reward, done))
        value, later = baseline(self.obs), baseline(replay.next_state())
        bootstrap = value * (1 - done) + later * done
        advantage = cherry.pg.generalized_advantage(DISCOUNT, 1.0, reward, done, bootstrap, torch.zeros(1))
        self.advantage = cherry.normalize(advantage).detach()
        with torch.no_grad():
            self.density = policy.density(self.obs)
            self.log_prob = self.density.log_prob(self.action)[:, None]

    def loss(self, policy: Policy) -> Tensor:
        return TRPO.policy_loss(policy.density(self.obs).log_prob(self.action)[:, None], self.log_prob, self.advantage)


def adapt(policy: Policy, data: Round, second_order: bool) -> Policy:
    gradient = autograd.grad(data.loss(policy), list(policy.parameters()), create_graph=second_order)
    return maml_update(policy, INNER_LR, gradient)


def surrogate(policy: Policy, trials: list[tuple[Round, Round]]) -> tuple[Tensor, Tensor]:
    """Returns the mean loss of the adapted policies and their mean divergence from those that acted."""
    losses, divergences = [], []
    for before, after in trials:
        adapted = adapt(l2l.clone_module(policy), before, second_order=True)
        losses.append(after.loss(adapted))
        divergences.append(kl_divergence(after.density, adapted.density(after.obs)).mean())
    return torch.stack(losses).mean(), torch.stack(divergences).mean()


def improve(policy: Policy, trials: list[tuple[Round, Round]]) -> None:
    """Takes a step of TRPO."""
    loss, divergence = surrogate(policy, trials)
    params = list(policy.parameters())
    gradient = parameters_to_vector(autograd.grad(loss, params, retain_graph=True)).detach()
    curvature = TRPO.hessian_vector_product(divergence, params)
    direction = TRPO.conjugate_gradient(curvature, gradient)
    direction = direction * torch.sqrt(2 * MAX_KL / torch.dot(direction, curvature(direction)))
    old = parameters_to_vector(params).detach()
    for attempt in range(MAX_TRIES):
        candidate = deepcopy(policy)
        vector_to_parameters(old - BACKTRACK**attempt * direction, candidate.parameters())
        new_loss, divergence = surrogate(candidate, trials)
        if new_loss < loss and divergence < MAX_KL:
            vector_to_parameters(old - BACKTRACK**attempt * direction, params)
            return


def main(tasks: str, num_tasks: int, streams: int, horizon: int, hidden: list[int]) -> None:
    def make() -> gym.Env:
        env = Particles2DEnv() if tasks == "navigation" else GoalVelocity()
        return gym.wrappers.TimeLimit(env, horizon)

    envs = l2l.gym.AsyncVectorEnv([make for _ in range(min(PROCESSES, streams))])
    env = cherry.wrappers.Torch(envs)
    policy = Policy(env.state_size, env.action_size, hidden)
    baseline = LinearValue(env.state_size, env.action_size)

    def work() -> float:
        trials, steps = [], 0
        for task in env.sample_tasks(num_tasks):
            envs.set_task(task)
            runner, adapted = cherry.wrappers.Runner(env), deepcopy(policy)
            before = Round(runner.run(adapted, episodes=streams), adapted, baseline)
            adapted = adapt(adapted, before, second_order=False)
            after = Round(runner.run(adapted, episodes=streams), adapted, baseline)
            trials.append((before, after))
            steps += before.size + after.size
        improve(policy, trials)
        return steps

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
