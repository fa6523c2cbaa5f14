"""PEARL on half-cheetah with an unknown target velocity (Rakelly et al., 2019, arXiv:1903.08254).

Returns do not compare with the paper's, as the physics is not MuJoCo's. The requirement is that adaptation closes at
least half of the gap between PEARL's first episode and an oracle that observes the velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.recipes import quick_replay
from jaxmeta.reproduce.statistics import episode_return

FAMILY = "half-cheetah-vel"
UPDATES = 125  # of 8 visits with 2 episodes of 200 steps: 400,000 environment steps
# all agents act by the mode of their policy
HELD_OUT, BY_MODE = (Evaluation(num_tasks=100),), (Evaluation(num_tasks=100, deterministic=True),)


def _off_policy(config: Any) -> Any:
    # sizes for two CPU cores; the paper's networks are 300 wide, and its batches have 256 transitions of 16 tasks
    sac = replace(config.sac, gradient_steps=500, batch_size=64, meta_batch=8, learning_rate=1e-3)
    return replace(config, hidden=(128, 128), num_train_tasks=80, tasks_per_update=8, sac=sac)


def _pearl(updates: int) -> Any:
    return _off_policy(jm.PEARLConfig(streams=1, encoder_hidden=(128, 128)))


def _sac(updates: int) -> Any:
    return _off_policy(jm.SACConfig(streams=2))


def _oracle(updates: int) -> Any:
    # With PEARL's entropy coefficient, 1 with rewards scaled by 5, even the oracle acts nearly at random after 400,000
    # steps (-288). This oracle has a quarter of it, relative to the rewards.
    config = _sac(updates)
    return replace(config, sac=replace(config.sac, reward_scale=1.0, temperature=0.05))


def _rl2(updates: int) -> Any:
    ppo = replace(jm.RL2Config.ppo, entropy_weight=0.003, anneal_over=updates)
    return jm.RL2Config(episodes=3, num_tasks=32, ppo=ppo)


def _trained(agent: str, algo: str, algo_config: Callable[[int], Any], *rows: Row, reveal: bool = False) -> Trained:
    on_policy = algo == "rl2"
    return Trained(
        f"{FAMILY}/{agent}",
        algo,
        FAMILY,
        algo_config,
        tasks_config=lambda: jm.tasks.HalfCheetahVelConfig(max_velocity=3.0),
        updates=21 if on_policy else UPDATES,
        reveal=reveal,
        chunk=10 if on_policy else 5,
        quick_config=None if on_policy else quick_replay,
        rows=rows,
        evaluations=BY_MODE if on_policy else HELD_OUT,
    )


TABLE = Table(
    "pearl-brax",
    title="Half-cheetah with an unknown target velocity, held-out tasks: return by episode",
    source="no comparable published numbers: the physics of Brax is not that of MuJoCo",
    runs=(
        _trained(
            "pearl",
            "pearl",
            _pearl,
            Row(episode_return(0, round=0), "episode 1"),
            Row(episode_return(0, round=1), "episode 2"),
            Row(
                episode_return(0, round=2),
                "episode 3",
                required=Required(halfway=(f"{FAMILY}/pearl episode 1", f"{FAMILY}/oracle")),
            ),
        ),
        _trained("oracle", "sac", _oracle, Row(episode_return(0)), reveal=True),
        _trained("multi-task", "sac", _sac, Row(episode_return(0))),
        _trained("rl2", "rl2", _rl2, *(Row(episode_return(index), f"episode {index + 1}") for index in range(3))),
    ),
    quick=(f"{FAMILY}/pearl",),
)
