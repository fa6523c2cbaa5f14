"""MAML on half-cheetah that must run forward or backward and adapts to the direction with one gradient step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return, gain


def _maml(updates: int) -> Any:
    trpo = replace(jm.MAMLConfig.trpo, max_kl=0.02)
    return jm.MAMLConfig(inner_lr=1.0, init_log_std=-0.5, trace=0.95, trpo=trpo)


TABLE = Table(
    "half-cheetah-dir",
    title="Half-cheetah, forward or backward: return before and after one gradient step",
    source="no comparable published numbers: the physics of Brax is not that of MuJoCo",
    runs=(
        Trained(
            "half-cheetah-dir/maml",
            "maml",
            "half-cheetah-dir",
            _maml,
            tasks_config=lambda: jm.tasks.HalfCheetahDirConfig(horizon=100),
            updates=260,
            rows=(
                Row(episode_return(0, round=0), "before"),
                Row(episode_return(-1), "after"),
                Row(gain, "gain", required=Required(least=0.0, of="ci95")),
            ),
            evaluations=(Evaluation(num_tasks=40),),
        ),
    ),
)
