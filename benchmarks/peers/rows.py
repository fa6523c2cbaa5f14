"""The rows of the table: what is done, how much of it, and by whom."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks import few_shot


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another implementation of the same work."""

    driver: str
    """Module in `benchmarks.peers.drivers`."""
    environment: str | None = None
    """Folder below that of the environments; None runs in jaxmeta's own."""
    asked: float | None = None
    """How many times as fast jaxmeta should be; None only measures."""
    checkout: str | None = None
    """Name of a repository that the user checks out, as its package is on no registry."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the driver besides the sizes."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One piece of work."""

    work: str
    unit: str
    """What is counted; speeds are per second."""
    program: str
    """Name in `benchmarks.peers.drivers.ours`."""
    sizes: dict[str, Any]
    """Arguments of jaxmeta's program and of every driver."""
    quick: dict[str, Any]
    """The sizes that `--quick` changes."""
    peers: dict[str, Peer]
    most_turns: int | None = None
    """Turns of a row whose peers take long for one update; None takes all."""


def _sinusoid(num_tasks: int, updates_per_call: int, over_plain: float) -> Row:
    sizes = {"shots": few_shot.SHOTS, "width": few_shot.WIDTH}
    rates = {"inner_lr": few_shot.INNER_LR, "outer_lr": few_shot.OUTER_LR}
    return Row(
        f"second-order MAML on sine waves, {num_tasks:,} tasks, Adam",
        "tasks",
        "sinusoid",
        {"num_tasks": num_tasks, "updates_per_call": updates_per_call} | sizes | rates,
        {"updates_per_call": 1},
        {
            "torch.func": Peer("torch_sinusoid", "torch", 3.0),
            "torch.func, compiled": Peer("torch_sinusoid", "torch", 3.0, options={"compiled": True}),
            "plain JAX": Peer("jax_sinusoid", None, over_plain),
        },
    )


def _maml_trpo(tasks: str, where: str, asked: float, peers: dict[str, Peer]) -> Row:
    peers = {"learn2learn": Peer("learn2learn_maml", "learn2learn", asked, options={"tasks": tasks})} | peers
    return Row(
        f"MAML-TRPO, second order, {where}, 20 tasks x 20 streams x 100 steps",
        "environment steps",
        f"maml-{tasks}",
        {"num_tasks": 20, "streams": 20, "horizon": 100, "hidden": [64, 64]},
        {"num_tasks": 2, "streams": 2, "horizon": 5},
        peers,
        most_turns=3,
    )


ROWS = {
    "sinusoid-25": _sinusoid(25, 400, 1.0),
    "sinusoid-1024": _sinusoid(1024, 10, 1.5),
    "maml-navigation": _maml_trpo(
        "navigation",
        "2D navigation",
        20.0,
        {
            "torch.func": Peer("torch_maml", "torch", 20.0),
            "pytorch-maml-rl": Peer("pytorch_maml_rl", "gym", 20.0, checkout="pytorch-maml-rl"),
        },
    ),
    "ppo-half-cheetah": Row(
        "PPO on half-cheetah, backend spring, 512 environments x 100 steps, 4 epochs of 4 minibatches, layers 64-64",
        "environment steps",
        "ppo",
        {"num_envs": 512, "unroll": 100, "minibatches": 4, "epochs": 4, "hidden": [64, 64]},
        {"num_envs": 8, "unroll": 2},
        {
            "brax": Peer("brax_ppo", "brax", 1.5),
            "brax, a device per core": Peer("brax_ppo", "brax", 1.5, options={"devices": True}),
            "PureJaxRL": Peer("purejaxrl_ppo", "brax", 1.5, checkout="purejaxrl"),
        },
    ),
    "rl2-xland": Row(
        "RL² on XLand-MiniGrid, benchmark small, 128 trials x 2 episodes x 243 steps, GRU 64",
        "environment steps",
        "rl2-xland",
        {"num_tasks": 128, "episodes": 2, "segment": 27, "hidden": 64, "minibatches": 8},
        {"num_tasks": 8, "episodes": 1, "segment": 9, "hidden": 8, "minibatches": 2},
        {"xland-minigrid": Peer("xland_minigrid", None, 2.0, checkout="xland-minigrid")},
        most_turns=3,
    ),
    "varibad-gridnavi": Row(
        "VariBAD on GridNavi, 16 trials x 4 episodes x 15 steps, with 3 steps of its VAE on 24 trials",
        "environment steps",
        "varibad",
        {"num_tasks": 16, "episodes": 4, "epochs": 2, "minibatches": 4, "vae_steps": 3, "vae_batch": 24},
        {"num_tasks": 4, "minibatches": 2, "vae_batch": 2},
        {"varibad": Peer("varibad_gridnavi", "gym", 25.0, checkout="varibad")},
    ),
    "pearl": Row(
        "gradient steps of PEARL, 16 tasks x 256 transitions, contexts of 100, three layers of 300",
        "gradient steps",
        "pearl",
        {
            "meta_batch": 16,
            "batch_size": 256,
            "context_batch": 100,
            "hidden": 300,
            "observation": 20,
            "action": 6,
            "num_train_tasks": 20,
            "replay_capacity": 10_000,
            "gradient_steps": 10,
        },
        {"meta_batch": 2, "batch_size": 4, "context_batch": 4, "hidden": 8, "gradient_steps": 1},
        {
            "torch": Peer("torch_pearl", "torch", 1.5),
            "oyster": Peer("oyster_pearl", "gym", 1.5, checkout="oyster"),
        },
    ),
    "maml-half-cheetah": _maml_trpo("half-cheetah", "half-cheetah-vel", 15.0, {}),
    "recurrent-ppo": Row(
        "recurrent PPO, GRU 64, 256 streams x 100 steps, 4 epochs of 4 minibatches, on a bandit of 5 arms",
        "environment steps",
        "recurrent-ppo",
        {"num_tasks": 256, "length": 100, "hidden": 64, "epochs": 4, "minibatches": 4},
        {"num_tasks": 8, "length": 4, "hidden": 8},
        {"memorax": Peer("memorax_ppo", "memorax")},
    ),
}
