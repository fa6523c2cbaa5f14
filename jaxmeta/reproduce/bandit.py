"""Bernoulli bandits of RL² (Duan et al., 2016, arXiv:1611.02779) and SNAIL (Mishra et al., 2018, arXiv:1707.03141)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Reference, Required, Row, Run, Table
from jaxmeta.reproduce.recipes import Recipe
from jaxmeta.reproduce.statistics import trial_return

PUBLISHED = {  # (pulls, arms): total reward of a trial, over 1,000 trials
    (10, 5): {"random": 5.0, "gittins": 6.6, "thompson": 5.7, "optimistic-thompson": 6.5, "ucb1": 6.7,
              "epsilon-greedy": 6.6, "greedy": 6.6, "rl2": 6.7, "snail": 6.6},
    (10, 10): {"random": 5.0, "gittins": 6.6, "thompson": 5.5, "optimistic-thompson": 6.2, "ucb1": 6.7,
               "epsilon-greedy": 6.6, "greedy": 6.6, "rl2": 6.7, "snail": 6.7},
    (10, 50): {"random": 5.1, "gittins": 6.5, "thompson": 5.2, "optimistic-thompson": 5.5, "ucb1": 6.6,
               "epsilon-greedy": 6.5, "greedy": 6.5, "rl2": 6.8, "snail": 6.7},
    (100, 5): {"random": 49.9, "gittins": 78.3, "thompson": 74.7, "optimistic-thompson": 77.9, "ucb1": 78.0,
               "epsilon-greedy": 75.4, "greedy": 74.8, "rl2": 78.7, "snail": 79.1},
    (100, 10): {"random": 49.9, "gittins": 82.8, "thompson": 76.7, "optimistic-thompson": 81.4, "ucb1": 82.4,
                "epsilon-greedy": 77.4, "greedy": 77.1, "rl2": 83.5, "snail": 83.5},
    (100, 50): {"random": 49.8, "gittins": 85.2, "thompson": 64.5, "optimistic-thompson": 67.7, "ucb1": 84.3,
                "epsilon-greedy": 78.3, "greedy": 78.0, "rl2": 84.9, "snail": 85.1},
    (500, 5): {"random": 249.8, "gittins": 405.8, "thompson": 402.0, "optimistic-thompson": 406.7, "ucb1": 405.8,
               "epsilon-greedy": 388.2, "greedy": 380.6, "rl2": 401.6, "snail": 408.1},
}  # fmt: skip
REQUIRED = {
    ("rl2", 10, 5): Required(least=6.58, up_to_optimum=True),
    ("rl2", 10, 10): Required(least=6.62, up_to_optimum=True),
    ("rl2", 10, 50): Required(least=6.55, up_to_optimum=True),
    ("rl2", 100, 5): Required(least=78.0),
    ("rl2", 100, 10): Required(least=82.5),
    ("rl2", 100, 50): Required(least=83.0),
    ("rl2-associative", 100, 5): Required(least=78.0),
    ("rl2", 500, 5): Required(least=400.0, platform="gpu"),
    ("rl2-associative", 500, 5): Required(least=400.0, platform="gpu"),
    ("snail", 10, 5): Required(up_to_optimum=True),
    ("snail", 10, 10): Required(up_to_optimum=True),
    ("snail", 10, 50): Required(up_to_optimum=True),
    ("snail", 100, 5): Required(least=78.0),
    ("snail", 100, 10): Required(least=82.5),
    ("snail", 100, 50): Required(least=83.0),
}


def _rl2(updates: int) -> Any:
    # in rewards per nat; the values of arms differ by about 0.1
    ppo = replace(jm.RL2Config.ppo, learning_rate=3e-3, entropy_weight=0.1, anneal_over=updates)
    return jm.RL2Config(ppo=ppo)


def _rl2_on_short_trials(updates: int) -> Any:
    config = _rl2(updates)
    # with few pulls the gain is small: with a larger entropy weight, the policy on 50 arms stays random
    return replace(config, ppo=replace(config.ppo, epochs=4, entropy_weight=0.01))


def _rl2_500x5(updates: int) -> Any:
    return replace(_rl2(updates), num_tasks=256)


def _rl2_associative(updates: int) -> Any:
    ppo = replace(_rl2(updates).ppo, learning_rate=4e-3, minibatches=4)
    return jm.RL2Config(cell="associative", num_tasks=256, ppo=ppo)


def _snail(updates: int, entropy_weight: float = 0.1) -> Any:
    ppo = replace(
        jm.SNAILConfig.ppo, minibatches=4, learning_rate=4e-3, entropy_weight=entropy_weight, anneal_over=updates
    )
    return jm.SNAILConfig(
        filters=16,
        tc_blocks=1,
        key_size=16,
        value_size=16,
        # hidden layers after the attention: it averages, and the estimate of an arm is a quotient of two averages
        readout=(64, 64),
        # a separate value network, as in RL², learns as much from a fifth of the trials
        separate_value=True,
        num_tasks=256,
        ppo=ppo,
    )


def _snail_on_short_trials(updates: int) -> Any:
    return _snail(updates, entropy_weight=0.01)


def _snail_100x5(updates: int) -> Any:
    # half of the entropy weight, so that the final policy is nearly deterministic
    return replace(_snail(updates, entropy_weight=0.05), value_size=32)


def _snail_100x10(updates: int) -> Any:
    # two numbers to remember per arm: pulls and rewards
    return replace(_snail(updates), value_size=32)


def _snail_100x50(updates: int) -> Any:
    # room for pulls and rewards of 50 arms; attention reads what is outside the convolutions' receptive field
    return replace(_snail(updates), filters=64, value_size=128, layers=1, init_gain=2.5)


RECIPES = {  # by agent, pulls, arms
    ("rl2", 10, 5): Recipe(600, _rl2_on_short_trials),
    ("rl2", 10, 10): Recipe(600, _rl2_on_short_trials),
    ("rl2", 10, 50): Recipe(1500, _rl2_on_short_trials),
    ("rl2", 100, 5): Recipe(600, _rl2),
    ("rl2", 100, 10): Recipe(1200, _rl2),
    ("rl2", 100, 50): Recipe(1800, _rl2),
    ("rl2-associative", 100, 5): Recipe(600, _rl2_associative),
    ("rl2-associative", 500, 5): Recipe(350, _rl2_associative, start="100x5/rl2-associative"),
    ("rl2", 500, 5): Recipe(1200, _rl2_500x5),
    ("snail", 10, 5): Recipe(1600, _snail_on_short_trials),
    ("snail", 10, 10): Recipe(1600, _snail_on_short_trials),
    ("snail", 10, 50): Recipe(1600, _snail_on_short_trials),
    ("snail", 100, 5): Recipe(2400, _snail_100x5),
    ("snail", 100, 10): Recipe(2400, _snail_100x10),
    ("snail", 100, 50): Recipe(2400, _snail_100x50),
    ("snail", 500, 5): Recipe(400, _snail),
}
RULES = {
    "random": lambda pulls, arms: ("bandits.random", {"num_actions": arms}),
    "greedy": lambda pulls, arms: ("bandits.greedy", {"num_arms": arms}),
    "epsilon-greedy": lambda pulls, arms: ("bandits.epsilon_greedy", {"num_arms": arms}),
    "ucb1": lambda pulls, arms: ("bandits.ucb1", {"num_arms": arms}),
    "thompson": lambda pulls, arms: ("bandits.thompson", {"num_arms": arms}),
    "optimistic-thompson": lambda pulls, arms: ("bandits.optimistic_thompson", {"num_arms": arms, "num_draws": 3}),
    "gittins": lambda pulls, arms: ("bandits.gittins", {"num_arms": arms, "num_pulls": pulls}),
}


def _optimum(pulls: int, arms: int):
    """Returns a function that computes the Bayes-optimal value; None if the dynamic program is too large."""
    return functools.partial(_bayes_optimal_value, arms, pulls) if pulls <= 10 else None


@functools.cache
def _bayes_optimal_value(arms: int, pulls: int) -> float:
    return jm.references.bandits.bayes_optimal_value(arms, pulls)


def _runs() -> Iterator[Run]:
    for (pulls, arms), published in PUBLISHED.items():
        group = f"{pulls}x{arms}"

        def tasks_config(pulls=pulls, arms=arms):
            return jm.tasks.BanditConfig(num_pulls=pulls, num_arms=arms)

        def row(agent, pulls=pulls, arms=arms, published=published):
            required = REQUIRED.get((agent, pulls, arms))
            return Row(trial_return, published=published.get(agent), optimum=_optimum(pulls, arms), required=required)

        for agent, rule in RULES.items():
            if agent == "gittins" and pulls > 100:
                continue  # its table has pulls³ entries
            learner, arguments = rule(pulls, arms)
            yield Reference(f"{group}/{agent}", learner, arguments, "bandit", tasks_config, rows=(row(agent),))
        for (agent, *sizes), recipe in RECIPES.items():
            if sizes == [pulls, arms]:
                yield recipe.agent(f"{group}/{agent}", "bandit", tasks_config, (row(agent),))


TABLE = Table(
    "bandit",
    title="Bernoulli bandits, pulls x arms: total reward of a trial",
    source="published: Duan et al., 2016; Mishra et al., 2018; optimum: Bayes-optimal, by dynamic programming",
    runs=tuple(_runs()),
    quick=("10x5",),
)
