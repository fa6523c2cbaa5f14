"""A gradient step of PEARL in plain PyTorch: encoder, two critics with targets, and a squashed Gaussian actor.

Transitions of all tasks lie in one tensor, and a step draws, encodes and updates without a loop over tasks. As in
jaxmeta, the targets come from the critics and there is no network of state values.
"""

from __future__ import annotations

import copy
import itertools
import math

from benchmarks.peers.protocol import Session, arguments

session = Session("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT, ENCODER, DISCOUNT, TARGET_RATE, KL_WEIGHT, RATE = 5, 200, 0.99, 0.005, 0.1, 3e-4


def mlp(before: int, width: int, after: int) -> nn.Sequential:
    sizes = (before, width, width, width)
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, after))


def posterior(encoder: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of the product of a Gaussian factor per row [N, n, D], both [N, z]."""
    mean, scale = encoder(rows).chunk(2, -1)
    precision = 1 / F.softplus(scale).clamp(min=1e-7)
    variance = 1 / precision.sum(1)
    return variance * (precision * mean).sum(1), variance


def act(actor: nn.Module, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Draws actions; returns them and their log densities."""
    mean, log_std = actor(obs).chunk(2, -1)
    log_std = log_std.clamp(-20, 2)
    noise = torch.randn_like(mean)
    raw = mean + log_std.exp() * noise
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    log_prob = log_prob - 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return torch.tanh(raw), log_prob.sum(-1, keepdim=True)


class Step:
    """Networks, optimisers and replay buffer."""

    def __init__(self, sizes: dict[str, int]):
        self.sizes, obs, action, width = sizes, sizes["observation"], sizes["action"], sizes["hidden"]
        self.encoder = mlp(obs + action + 1, ENCODER, 2 * LATENT)
        self.actor = mlp(obs + LATENT, width, 2 * action)
        self.critics = nn.ModuleList(mlp(obs + action + LATENT, width, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics)

        def adam(*parts):
            return torch.optim.Adam(itertools.chain(*(p.parameters() for p in parts)), RATE, fused=True)

        self.optimise_critics, self.optimise_actor = adam(self.critics, self.encoder), adam(self.actor)
        self.rows = torch.randn(sizes["num_train_tasks"], sizes["replay_capacity"], 2 * obs + action + 2)

    def draw(self, tasks: Tensor, count: int) -> Tensor:
        """Draws rows of tasks, [N, count, D]."""
        return self.rows[tasks[:, None], torch.randint(self.rows.shape[1], (len(tasks), count))]

    def __call__(self) -> None:
        obs_size, action_size = self.sizes["observation"], self.sizes["action"]
        tasks = torch.randint(len(self.rows), (self.sizes["meta_batch"],))
        count = self.sizes["batch_size"]
        batch = self.draw(tasks, count).flatten(0, 1)
        obs, action, next_obs, rest = batch.split((obs_size, action_size, obs_size, 2), -1)
        reward, over = rest[:, :1], (rest[:, 1:] > 3).float()
        context = self.draw(tasks, self.sizes["context_batch"])
        context = torch.cat((context[..., : obs_size + action_size], context[..., -2:-1]), -1)

        mean, variance = posterior(self.encoder, context)
        z = (mean + variance.sqrt() * torch.randn_like(mean)).repeat_interleave(count, 0)
        fixed = z.detach()
        with torch.no_grad():
            next_action, log_prob = act(self.actor, torch.cat((next_obs, fixed), -1))
            inputs = torch.cat((next_obs, next_action, fixed), -1)
            value = torch.minimum(*(critic(inputs) for critic in self.targets)) - log_prob
            target = reward + DISCOUNT * (1 - over) * value
        inputs = torch.cat((obs, action, z), -1)
        kl = 0.5 * (mean**2 + variance - 1 - variance.log()).sum()
        loss = sum(F.mse_loss(critic(inputs), target) for critic in self.critics) + KL_WEIGHT * kl
        self.optimise_critics.zero_grad()
        loss.backward()
        self.optimise_critics.step()

        self.critics.requires_grad_(False)
        new_action, log_prob = act(self.actor, torch.cat((obs, fixed), -1))
        inputs = torch.cat((obs, new_action, fixed), -1)
        loss = (log_prob - torch.minimum(*(critic(inputs) for critic in self.critics))).mean()
        self.optimise_actor.zero_grad()
        loss.backward()
        self.optimise_actor.step()
        self.critics.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), TARGET_RATE)


def main(**sizes: int) -> None:
    step = Step(sizes)

    def work() -> float:
        for _ in range(sizes["gradient_steps"]):
            step()
        return sizes["gradient_steps"]

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
