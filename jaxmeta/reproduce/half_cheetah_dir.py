"""MAML on half-cheetah, forward or backward, where one gradient step must tell which."""

from __future__ import annotations

from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return, gain

RECIPE = "--tasks.horizon 100 --algo.inner-lr 1.0 --algo.init-log-std -0.5 --algo.trace 0.95 --algo.trpo.max-kl 0.02"

TABLE = Table(
    "half-cheetah-dir",
    title="Half-cheetah, forward or backward: return before and after one gradient step",
    source="nothing published compares: the physics of Brax is not that of MuJoCo",
    runs=(
        Trained(
            "half-cheetah-dir/maml",
            "maml",
            "half-cheetah-dir",
            RECIPE,
            260,
            rows=(
                Row(episode_return(0, round=0), "before"),
                Row(episode_return(-1), "after"),
                Row(gain, "gain", required=Required(least=0.0, of="ci95")),
            ),
            evaluations=(Evaluation(num_tasks=40),),
        ),
    ),
)
