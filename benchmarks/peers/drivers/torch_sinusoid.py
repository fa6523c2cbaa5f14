"""MAML on sine waves with torch.func, vectorised over tasks; `compiled` adds torch.compile."""

from __future__ import annotations

import math

from benchmarks.peers.protocol import Session, arguments

session = Session("torch")

import itertools

import torch
from torch.func import grad, grad_and_value, vmap

Params = dict[str, torch.Tensor]


def predict(params: Params, x: torch.Tensor) -> torch.Tensor:
    x = torch.relu(x @ params["w0"] + params["b0"])
    x = torch.relu(x @ params["w1"] + params["b1"])
    return x @ params["w2"] + params["b2"]


def error(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.mean((predict(params, x) - y) ** 2)


def main(
    num_tasks: int, updates_per_call: int, shots: int, width: int, inner_lr: float, outer_lr: float, compiled=False
) -> None:
    def task_loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        gradient = grad(error)(params, x[:shots], y[:shots])
        adapted = {name: leaf - inner_lr * gradient[name] for name, leaf in params.items()}
        return error(adapted, x[shots:], y[shots:])

    def meta_gradient(params: Params) -> Params:
        amplitude = torch.rand(num_tasks, 1, 1) * 4.9 + 0.1
        phase = torch.rand(num_tasks, 1, 1) * math.pi
        x = torch.rand(num_tasks, 2 * shots, 1) * 10 - 5
        y = amplitude * torch.sin(x - phase)

        def loss(params):
            return vmap(task_loss, (None, 0, 0))(params, x, y).mean()

        return grad_and_value(loss)(params)[0]

    sizes = (1, width, width, 1)
    params: Params = {}
    for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
        params[f"w{layer}"] = torch.randn(before, after) / before**0.5
        params[f"b{layer}"] = torch.zeros(after)
    optimiser = torch.optim.Adam(params.values(), lr=outer_lr, fused=True)
    program = torch.compile(meta_gradient) if compiled else meta_gradient

    def work() -> float:
        for _ in range(updates_per_call):
            gradient = program(params)
            for name, leaf in params.items():
                leaf.grad = gradient[name]
            optimiser.step()
        return num_tasks * updates_per_call

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
