"""PEARL on half-cheetahs that must find out how fast to run (Rakelly et al., 2019, arXiv:1903.08254).

The physics is not that of MuJoCo, so that no return compares: what counts is how much of the way from the agent that
knows nothing to the one that is told its task inference goes.
"""

from __future__ import annotations

from jaxmeta.reproduce.base import ANNEAL, QUICK_REPLAY, Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

FAMILY = "half-cheetah-vel"
# networks and batches that two CPU cores can feed; PEARL's own are 300 wide, and take 256 transitions of 16 tasks
SAC = (
    "--tasks.max-velocity 3 --chunk 5 --algo.hidden 128 128 --algo.num-train-tasks 80 --algo.tasks-per-update 8"
    " --algo.sac.gradient-steps 500 --algo.sac.batch-size 64 --algo.sac.meta-batch 8 --algo.sac.learning-rate 1e-3"
)
# With PEARL's price of entropy, 1 where rewards count 5 times, even who is told the velocity acts nearly at random
# after 400,000 steps (-288): this oracle pays a quarter of it.
ORACLE = f"{SAC} --algo.streams 2 --reveal --algo.sac.reward-scale 1 --algo.sac.temperature 0.05"
PEARL = f"{SAC} --algo.streams 1 --algo.encoder-hidden 128 128"
RL2 = f"{ANNEAL} --tasks.max-velocity 3 --algo.episodes 3 --algo.num-tasks 32 --algo.ppo.entropy-weight 0.003"
UPDATES = 125  # of 8 visits with 2 episodes of 200 steps: 400,000 environment steps
# all act by the mode of their policy
HELD_OUT, BY_MODE = (Evaluation(num_tasks=100),), (Evaluation(num_tasks=100, deterministic=True),)


def _trained(agent: str, algo: str, flags: str, updates: int, *rows: Row) -> Trained:
    quick, evaluations = ("", BY_MODE) if algo == "rl2" else (QUICK_REPLAY, HELD_OUT)
    name = f"{FAMILY}/{agent}"
    return Trained(name, algo, FAMILY, flags, updates, rows=rows, evaluations=evaluations, quick_flags=quick)


TABLE = Table(
    "pearl-brax",
    title="Half-cheetah at a velocity that it must find out, held-out tasks: return by episode",
    source="nothing published compares: the physics of Brax is not that of MuJoCo",
    runs=(
        _trained(
            "pearl",
            "pearl",
            PEARL,
            UPDATES,
            Row(episode_return(0, round=0), "episode 1"),
            Row(episode_return(0, round=1), "episode 2"),
            Row(
                episode_return(0, round=2),
                "episode 3",
                required=Required(halfway=(f"{FAMILY}/pearl episode 1", f"{FAMILY}/oracle")),
            ),
        ),
        _trained("oracle", "sac", ORACLE, UPDATES, Row(episode_return(0))),
        _trained("multi-task", "sac", f"{SAC} --algo.streams 2", UPDATES, Row(episode_return(0))),
        _trained("rl2", "rl2", RL2, 21, *(Row(episode_return(index), f"episode {index + 1}") for index in range(3))),
    ),
    quick=(f"{FAMILY}/pearl",),
)
