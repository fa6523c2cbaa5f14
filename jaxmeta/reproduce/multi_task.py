"""Multi-task PPO on six opposed goals, and on cart-pole and acrobot: conditioned, with heads, surgery and balance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

GOALS = 6
VARIANTS = {
    "conditioned": {},
    "heads": {"network": "heads"},
    "pcgrad": {"surgery": "pcgrad"},
    "cagrad": {"surgery": "cagrad"},
    "min-norm": {"surgery": "min-norm"},
    "uncertainty": {"balance": "uncertainty"},
    "returns": {"balance": "returns"},
}
ON_NAVIGATION = VARIANTS | {"given": {"balance": (2.0, 1.0, 1.0, 2.0, 1.0, 1.0)}}
"""The given weights are higher on goals 0 and 3, which lie on an axis: as each coordinate of an action is limited, they
take more steps to reach."""
KINDS = {"cart-pole": Required(least=190.0), "acrobot": Required(least=-100.0)}


def opposed_goals() -> Any:
    """Builds point navigation to one of six goals, evenly on a circle of 0.5 m around the start; horizon 20."""
    import jax.numpy as jnp

    angle = 2 * jnp.pi * jnp.arange(GOALS) / GOALS
    goals = 0.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    walk = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=20))
    return jm.tasks.numbered(walk, jm.tasks.PointTask(goal=goals))


def _navigation(updates: int, **changes: Any) -> Any:
    ppo = replace(jm.MultiTaskConfig.ppo, learning_rate=3e-3, minibatches=1, entropy_weight=0.0)
    config = jm.MultiTaskConfig(visits=1, hidden=(32, 32), init_log_std=-0.5, action_scale=0.1, ppo=ppo)
    return replace(config, **changes)


def _classic_control(updates: int, **changes: Any) -> Any:
    ppo = replace(jm.MultiTaskConfig.ppo, entropy_weight=0.02)
    return replace(jm.MultiTaskConfig(visits=8, ppo=ppo), **changes)


def _only(build: Callable[[], Any], indices: slice) -> Callable[[Any], Any]:
    """Returns a function from a task config, which is not used, to some tasks of a family."""

    def some(config: Any) -> Any:
        import jax

        return jax.tree.map(lambda leaf: leaf[indices], jm.tasks.with_task_id(build()).train_tasks)

    return some


def _evaluations(build: Callable[[], Any], names: tuple[str, ...]) -> tuple[Evaluation, ...]:
    """Evaluates on all tasks, and on every single one."""
    every = Evaluation(streams=1, every_task=_only(build, slice(None)))
    single = (
        Evaluation(name, streams=1, every_task=_only(build, slice(index, index + 1)))
        for index, name in enumerate(names)
    )
    return every, *single


def _runs() -> Iterator[Run]:
    from jaxmeta.experiment.registry import NoConfig

    goals = tuple(f"goal {index}" for index in range(GOALS))
    kinds = tuple(KINDS)
    for agent, changes in ON_NAVIGATION.items():
        bound = agent in ("conditioned", "pcgrad")
        yield Trained(
            f"navigation/{agent}",
            "multi-task",
            "jaxmeta.reproduce.multi_task:opposed_goals",
            lambda updates, changes=changes: _navigation(updates, **changes),
            tasks_config=NoConfig,
            updates=300,
            chunk=20,
            rows=(
                Row(episode_return(0), "mean", required=Required(least=-0.95) if bound else None),
                *(
                    Row(episode_return(0), name, evaluation=name, required=Required(least=-1.2) if bound else None)
                    for name in goals
                ),
            ),
            evaluations=_evaluations(opposed_goals, goals),
        )
    for agent, changes in VARIANTS.items():
        yield Trained(
            f"classic-control/{agent}",
            "multi-task",
            "classic-control",
            lambda updates, changes=changes: _classic_control(updates, **changes),
            tasks_config=lambda: jm.tasks.ClassicControlConfig(),
            updates=40,
            chunk=10,
            rows=tuple(
                Row(episode_return(0), name, evaluation=name, required=KINDS[name] if agent == "conditioned" else None)
                for name in kinds
            ),
            evaluations=tuple(
                replace(one, deterministic=True) for one in _evaluations(lambda: jm.tasks.classic_control(), kinds)[1:]
            ),
        )


TABLE = Table(
    "multi-task",
    title="One agent for six opposed goals, and for cart-pole and acrobot: return of every task",
    source="no published numbers; required: mean of the goals -0.95, each -1.2; cart-pole 190 of 200, acrobot -100",
    runs=tuple(_runs()),
    quick=("navigation/conditioned", "classic-control/heads"),
)  # fmt: skip
