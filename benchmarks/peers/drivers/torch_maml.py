"""MAML-TRPO on 2D navigation in plain PyTorch, with torch.func, vectorised over tasks and streams.

All points move at once, and per-task policies act by batched matrix products. The Fisher matrix is estimated on a
quarter of the streams, as in jaxmeta.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.peers.protocol import Session, arguments

session = Session("torch")

import itertools

import torch
from torch import Tensor, autograd
from torch.func import functional_call, grad, grad_and_value, vmap

INNER_LR, DISCOUNT, RIDGE = 0.1, 0.99, 1e-5
MAX_KL, DAMPING, CG_STEPS, BACKTRACK, MAX_TRIES, CURVATURE_SHARE = 0.01, 1e-5, 10, 0.8, 15, 4
Params = dict[str, Tensor]


class Rollout(NamedTuple):
    """Leaves are [N, T, E, ...], without N within `vmap`."""

    obs: Tensor
    action: Tensor
    mean: Tensor
    log_std: Tensor
    reward: Tensor
    valid: Tensor
    advantage: Tensor


class Policy(torch.nn.Module):
    """A Gaussian whose mean is an MLP and whose standard deviation is a parameter."""

    def __init__(self, hidden: list[int]):
        super().__init__()
        sizes = (2, *hidden)
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after), torch.nn.Tanh()]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 2))
        self.log_std = torch.nn.Parameter(torch.zeros(2))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.net(obs)
        return mean, self.log_std.expand_as(mean)


def log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    return -(0.5 * ((action - mean) * torch.exp(-log_std)) ** 2 + log_std).sum(-1)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum() / valid.sum().clamp(min=1)


def advantages(obs: Tensor, reward: Tensor, valid: Tensor) -> Tensor:
    """Discounted returns less a linear baseline per task, standardised, [N, T, E]."""
    returns, later = torch.empty_like(reward), torch.zeros_like(reward[:, 0])
    for step in reversed(range(reward.shape[1])):
        later = returns[:, step] = reward[:, step] + DISCOUNT * later
    time = (torch.arange(reward.shape[1]) / 100)[None, :, None, None].expand(*reward.shape, 1)
    features = torch.cat((obs, obs**2, time, time**2, time**3, torch.ones_like(time)), -1) * valid[..., None]
    features = features.flatten(1, 2)
    ridge = RIDGE * torch.eye(features.shape[-1])
    gram, right = features.mT @ features + ridge, features.mT @ returns.flatten(1)[..., None]
    values = (features @ torch.linalg.solve(gram, right)).reshape(returns.shape)
    count = valid.sum((1, 2), keepdim=True)
    advantage = (returns - values) * valid
    advantage = (advantage - advantage.sum((1, 2), keepdim=True) / count) * valid
    return advantage / ((advantage**2).sum((1, 2), keepdim=True) / count + 1e-8).sqrt()


class Trainer:
    """The policy, and one meta-update as a method."""

    def __init__(self, num_tasks: int, streams: int, horizon: int, hidden: list[int]):
        self.shape, self.horizon, self.policy = (num_tasks, streams), horizon, Policy(hidden)
        self.params: Params = {name: leaf.detach() for name, leaf in self.policy.named_parameters()}

    def act(self, params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(self.policy, params, (obs,))

    def rollout(self, params: Params, goal: Tensor) -> Rollout:
        """Runs all episodes of a round; `params` have an axis of tasks."""
        position, alive = torch.zeros(*self.shape, 2), torch.ones(self.shape)
        act, steps = vmap(self.act), []
        with torch.no_grad():
            for _ in range(self.horizon):
                mean, log_std = act(params, position)
                action = mean + log_std.exp() * torch.randn_like(mean)
                offset = position + action.clamp(-0.1, 0.1) - goal[:, None]
                steps.append((position, action, mean, log_std, -offset.norm(dim=-1) * alive, alive))
                position = torch.where(alive[..., None] > 0, offset + goal[:, None], position)
                alive = alive * (offset.abs().amax(-1) >= 0.01)
            stacked = [torch.stack(leaves, 1) for leaves in zip(*steps, strict=True)]
            return Rollout(*stacked, advantages(stacked[0], stacked[4], stacked[5]))

    def surrogate(self, params: Params, data: Rollout) -> Tensor:
        ratio = (
            log_prob(*self.act(params, data.obs), data.action) - log_prob(data.mean, data.log_std, data.action)
        ).exp()
        return -masked_mean(ratio * data.advantage, data.valid)

    def adapt(self, params: Params, data: Rollout) -> Params:
        gradient = grad(self.surrogate)(params, data)
        return {name: leaf - INNER_LR * gradient[name] for name, leaf in params.items()}

    def meta_loss(self, params: Params, before: Rollout, after: Rollout) -> Tensor:
        def one(before, after):
            return self.surrogate(self.adapt(params, before), after) * after.valid.mean()

        return vmap(one)(before, after).mean()

    def adapted(self, params: Params, before: Rollout, after: Rollout) -> tuple[Tensor, Tensor]:
        return vmap(lambda before, after: self.act(self.adapt(params, before), after.obs))(before, after)

    def divergence(self, params: Params, before: Rollout, after: Rollout) -> Tensor:
        """KL(old || new) of the adapted policies, averaged over tasks."""
        mean, log_std = self.adapted(params, before, after)
        ratio, shift = (after.log_std - log_std).exp(), (after.mean - mean) * (-log_std).exp()
        kl = 0.5 * (ratio**2 - 1 + shift**2 - 2 * ratio.log()).sum(-1)
        return vmap(masked_mean)(kl, after.valid).mean()

    def curvature(self, before: Rollout, after: Rollout) -> Callable[[Params], Params]:
        """The Fisher matrix of the adapted policies, as a product with a vector: JᵀFJ."""
        few = max(1, self.shape[1] // CURVATURE_SHARE)
        before, after = (Rollout(*(leaf[:, :, :few] for leaf in data)) for data in (before, after))
        weight = after.valid / after.valid.sum((1, 2), keepdim=True) / len(after.valid)
        params = {name: leaf.clone().requires_grad_() for name, leaf in self.params.items()}
        leaves = list(params.values())
        mean, log_std = self.adapted(params, before, after)
        # Jᵀu is linear in u, so its transpose is J: no forward pass has to be repeated
        dummy = torch.zeros_like(mean, requires_grad=True), torch.zeros_like(log_std, requires_grad=True)
        transposed = autograd.grad((mean, log_std), leaves, dummy, create_graph=True)

        def product(vector: Params) -> Params:
            d_mean, d_std = autograd.grad(transposed, dummy, list(vector.values()), retain_graph=True)
            fisher = (weight[..., None] * (-2 * log_std.detach()).exp() * d_mean, 2 * weight[..., None] * d_std)
            back = autograd.grad((mean, log_std), leaves, fisher, retain_graph=True)
            return {name: one + DAMPING * vector[name] for name, one in zip(vector, back, strict=True)}

        return product

    def update(self) -> None:
        goal = torch.rand(self.shape[0], 2) - 0.5
        shared = {name: leaf.expand(self.shape[0], *leaf.shape) for name, leaf in self.params.items()}
        before = self.rollout(shared, goal)
        after = self.rollout(vmap(self.adapt, (None, 0))(self.params, before), goal)
        gradient, loss = grad_and_value(self.meta_loss)(self.params, before, after)
        product = self.curvature(before, after)
        direction = conjugate_gradient(product, gradient)
        scale = (2 * MAX_KL / dot(direction, product(direction)).clamp(min=1e-12)).sqrt()
        for attempt in range(MAX_TRIES):
            step = BACKTRACK**attempt * scale
            candidate = {name: leaf - step * direction[name] for name, leaf in self.params.items()}
            with torch.no_grad():
                better = self.meta_loss(candidate, before, after) < loss
                near = self.divergence(candidate, before, after) <= MAX_KL
            if better and near:
                self.params = candidate
                return


def dot(one: Params, other: Params) -> Tensor:
    return sum((one[name] * other[name]).sum() for name in one)


def conjugate_gradient(product: Callable[[Params], Params], right: Params) -> Params:
    solution = {name: torch.zeros_like(leaf) for name, leaf in right.items()}
    residual, direction, size = right, right, dot(right, right)
    for _ in range(CG_STEPS):
        image = product(direction)
        step = size / dot(direction, image)
        solution = {name: leaf + step * direction[name] for name, leaf in solution.items()}
        residual = {name: leaf - step * image[name] for name, leaf in residual.items()}
        size, before = dot(residual, residual), size
        if size < 1e-10:
            break
        direction = {name: leaf + size / before * direction[name] for name, leaf in residual.items()}
    return solution


def main(num_tasks: int, streams: int, horizon: int, hidden: list[int]) -> None:
    trainer = Trainer(num_tasks, streams, horizon, hidden)

    def work() -> float:
        trainer.update()
        return 2 * num_tasks * streams * horizon

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
