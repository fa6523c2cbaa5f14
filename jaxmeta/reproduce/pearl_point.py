"""PEARL on point robots (Rakelly et al., 2019, arXiv:1903.08254), with RL², an oracle and a multi-task baseline."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.recipes import quick_replay
from jaxmeta.reproduce.statistics import episode_return

# all agents act by the mode of their policy
HELD_OUT, BY_MODE = (Evaluation(),), (Evaluation(deterministic=True),)

# family: (episodes of a trial, the first ones with z from the prior, updates)
PROTOCOLS = {"point-robot": (3, 2, 12000), "sparse-point-robot": (20, 5, 1200)}
REQUIRED = {  # (family, episode from 1): of PEARL
    ("point-robot", 3): Required(least=-5.21 * 1.15),
    ("sparse-point-robot", 1): Required(most=4.0),
    ("sparse-point-robot", 20): Required(least=9.0),
}


def _off_policy(config: Any) -> Any:
    sac = replace(
        config.sac,
        gradient_steps=400,
        batch_size=32,
        discount=0.9,
        learning_rate=1e-3,
        reward_scale=100.0,
        replay_capacity=10_000,
    )
    return replace(config, hidden=(128, 128), num_train_tasks=80, tasks_per_update=8, sac=sac)


def _sac(updates: int) -> Any:
    return _off_policy(jm.SACConfig(streams=20))


def _pearl(family: str, updates: int) -> Any:
    episodes, prior_episodes, _ = PROTOCOLS[family]
    config = _off_policy(jm.PEARLConfig(episodes=episodes, prior_episodes=prior_episodes))
    # critics learn much faster with values of a few units
    sac = replace(config.sac, reward_scale=2.0, temperature=0.01, anneal_over=updates)
    config = replace(config, tasks_per_update=80, sac=sac)
    return _with_dense_rewards(config) if family == "point-robot" else _with_sparse_rewards(config)


def _with_dense_rewards(config: Any) -> Any:
    # Contexts are like those of an evaluation, and are renewed after a few gradient steps, else the encoder overfits to
    # them. A distance constrains the goal to a circle; to intersect circles, a product of Gaussian factors needs their
    # moments, and so more than about ten dimensions. Samples from the prior are then unlike any belief, but every
    # episode reveals the goal.
    sac = replace(
        config.sac,
        kl_weight=1e-6,
        learning_rate=2.5e-3,
        gradient_steps=5,
        meta_batch=80,
        batch_size=16,
        discount=0.5,
    )
    return replace(config, streams=2, context_batch=40, latent=64, encoder_hidden=(192, 192), sac=sac)


def _with_sparse_rewards(config: Any) -> Any:
    # 20 episodes from the prior per visit: with few, hardly any reaches the goal, and nothing can be inferred
    sac = replace(config.sac, kl_weight=0.005, gradient_steps=30)
    return replace(config, streams=20, context_batch=256, latent=2, encoder_hidden=(128, 128), sac=sac)


def _rl2(family: str, updates: int) -> Any:
    episodes, _, _ = PROTOCOLS[family]
    ppo = replace(jm.RL2Config.ppo, minibatches=4, entropy_weight=0.003, anneal_over=updates)
    return jm.RL2Config(episodes=episodes, num_tasks=256, init_log_std=-2.5, ppo=ppo)


def _tasks(family: str) -> Any:
    return jm.tasks.PointRobotConfig() if family == "point-robot" else jm.tasks.SparsePointRobotConfig()


def _trained(
    family: str, agent: str, algo: str, algo_config: Callable[[int], Any], updates: int, **fields: Any
) -> Trained:
    on_policy = algo == "rl2"
    return Trained(
        f"{family}/{agent}",
        algo,
        family,
        algo_config,
        tasks_config=functools.partial(_tasks, family),
        updates=updates,
        quick_config=None if on_policy else quick_replay,
        evaluations=BY_MODE if on_policy else HELD_OUT,
        **fields,
    )


@functools.cache
def _optimum(family: str) -> float:
    """Returns the optimal expected return of an episode with a known goal."""
    point = jm.references.point
    return point.expected_return() if family == "point-robot" else point.expected_sparse_return()


def _runs() -> Iterator[Run]:
    for family, (episodes, prior, updates) in PROTOCOLS.items():
        told = sorted({1, prior, prior + 1, episodes})

        def row(episode, statistic, required=None, family=family):
            return Row(statistic, f"episode {episode}", optimum=functools.partial(_optimum, family), required=required)

        pearl, rl2 = (functools.partial(config, family) for config in (_pearl, _rl2))
        rows = tuple(row(one, episode_return(0, round=one - 1), REQUIRED.get((family, one))) for one in told)
        chunk = 100 if family == "point-robot" else 20
        yield _trained(family, "pearl", "pearl", pearl, updates, chunk=chunk, rows=rows)
        rows = (row(1, episode_return(0)),)
        yield _trained(family, "oracle", "sac", _sac, 100, chunk=5, rows=rows, reveal=True)
        yield _trained(family, "multi-task", "sac", _sac, 100, chunk=5, rows=rows)
        rows = tuple(row(one, episode_return(one - 1)) for one in told)
        yield _trained(family, "rl2", "rl2", rl2, 300, chunk=10, rows=rows)


TABLE = Table(
    "pearl-point",
    title="Point robots, held-out goals: return by episode",
    source="published in figures only (Rakelly et al., 2019); optimum: exact, with a known goal",
    runs=tuple(_runs()),
    quick=("sparse-point-robot/pearl",),
)
