"""PEARL on point robots (Rakelly et al., 2019, arXiv:1903.08254), beside agents that know the goal, or never ask."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jaxmeta as jm
from jaxmeta.reproduce.base import ANNEAL, QUICK_REPLAY, Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

SAC = (
    "--chunk 5 --algo.hidden 128 128 --algo.num-train-tasks 80 --algo.tasks-per-update 8 --algo.sac.gradient-steps 400"
    " --algo.sac.batch-size 32 --algo.sac.discount 0.9 --algo.sac.learning-rate 1e-3 --algo.sac.reward-scale 100"
    " --algo.sac.replay-capacity 10000"
)
# critics of small numbers learn much sooner: no value to learn exceeds some units
PEARL = (
    f"{SAC} --algo.sac.reward-scale 2 --algo.sac.temperature 0.01 --algo.sac.anneal-over {{updates}}"
    " --algo.tasks-per-update 80"
)
RL2 = f"{ANNEAL} --algo.num-tasks 256 --algo.ppo.minibatches 4 --algo.init-log-std -2.5 --algo.ppo.entropy-weight 0.003"
# all act by the mode of their policy
HELD_OUT, BY_MODE = (Evaluation(),), (Evaluation(deterministic=True),)

# family: (episodes of a trial, the first ones with z from the prior, updates)
PROTOCOLS = {"point-robot": (3, 2, 12000), "sparse-point-robot": (20, 5, 1200)}
# Contexts like those of an evaluation, and new ones after a few gradient steps: an encoder soon knows few of them by
# heart. Where the goal follows from distances, a mean of Gaussian factors in fewer than about ten dimensions cannot say
# it: a distance leaves a circle, and what many circles have in common takes their moments. What is drawn from the prior
# then resembles no belief, but any episode tells the goal. Where rewards are sparse, 20 episodes from the prior at a
# visit: with few, hardly any finds the goal, and there is nothing to infer.
VISITS = {
    "point-robot": "--chunk 100 --algo.streams 2 --algo.context-batch 40 --algo.latent 64"
    " --algo.encoder-hidden 192 192 --algo.sac.kl-weight 1e-6 --algo.sac.learning-rate 2.5e-3"
    " --algo.sac.gradient-steps 5 --algo.sac.meta-batch 80 --algo.sac.batch-size 16 --algo.sac.discount 0.5",
    "sparse-point-robot": "--chunk 20 --algo.streams 20 --algo.context-batch 256 --algo.latent 2"
    " --algo.encoder-hidden 128 128 --algo.sac.kl-weight 0.005 --algo.sac.gradient-steps 30",
}
REQUIRED = {  # (family, episode from 1): of PEARL
    ("point-robot", 3): Required(least=-5.21 * 1.15),
    ("sparse-point-robot", 1): Required(most=4.0),
    ("sparse-point-robot", 20): Required(least=9.0),
}


@functools.cache
def _optimum(family: str) -> float:
    """Returns what an episode pays whoever knows the goal."""
    point = jm.references.point
    return point.expected_return() if family == "point-robot" else point.expected_sparse_return()


def _runs() -> Iterator[Run]:
    for family, (episodes, prior, updates) in PROTOCOLS.items():
        told = sorted({1, prior, prior + 1, episodes})

        def row(episode, statistic, required=None, family=family):
            return Row(statistic, f"episode {episode}", optimum=functools.partial(_optimum, family), required=required)

        def trained(agent, algo, flags, updates, rows, family=family):
            quick, evaluations = ("", BY_MODE) if algo == "rl2" else (QUICK_REPLAY, HELD_OUT)
            name, rows = f"{family}/{agent}", tuple(rows)
            return Trained(name, algo, family, flags, updates, rows=rows, evaluations=evaluations, quick_flags=quick)

        protocol = f"{PEARL} {VISITS[family]} --algo.episodes {episodes} --algo.prior-episodes {prior}"
        rows = [row(one, episode_return(0, round=one - 1), REQUIRED.get((family, one))) for one in told]
        yield trained("pearl", "pearl", protocol, updates, rows)
        yield trained("oracle", "sac", f"{SAC} --algo.streams 20 --reveal", 100, [row(1, episode_return(0))])
        yield trained("multi-task", "sac", f"{SAC} --algo.streams 20", 100, [row(1, episode_return(0))])
        rows = [row(one, episode_return(one - 1)) for one in told]
        yield trained("rl2", "rl2", f"{RL2} --algo.episodes {episodes}", 300, rows)


TABLE = Table(
    "pearl-point",
    title="Point robots, held-out goals: return by episode",
    source="published in figures only (Rakelly et al., 2019); optimum: of an agent that knows the goal, exact",
    runs=tuple(_runs()),
    quick=("sparse-point-robot/pearl",),
)
