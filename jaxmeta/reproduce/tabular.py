"""Random MDPs of RL² (Duan et al., 2016, arXiv:1611.02779) and SNAIL (Mishra et al., 2018, arXiv:1707.03141)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Reference, Required, Row, Run, Table
from jaxmeta.reproduce.recipes import Recipe
from jaxmeta.reproduce.statistics import trial_return

PUBLISHED = {  # episodes: total reward of a trial
    10: {"random": 100.1, "psrl": 138.1, "opsrl": 144.1, "ucrl2": 146.6, "beb": 150.2, "epsilon-greedy": 132.8,
         "greedy": 134.8, "rl2": 156.2, "snail": 159.1},
    25: {"random": 250.2, "psrl": 408.8, "opsrl": 425.2, "ucrl2": 424.1, "beb": 427.8, "epsilon-greedy": 377.3,
         "greedy": 368.8, "rl2": 445.7, "snail": 447.2},
}  # fmt: skip
REQUIRED = {
    ("rl2", 10): Required(least=155.0),
    ("rl2-associative", 10): Required(least=155.0),
    ("snail", 10): Required(least=157.0),
    ("rl2", 25): Required(least=440.0),
    ("snail", 25): Required(least=440.0),
    ("rl2-associative", 25): Required(least=440.0),
}


def _rl2(updates: int, learning_rate: float = 2e-3, entropy_weight: float = 0.4) -> Any:
    # in rewards per nat; the values of actions differ by about 1 per step
    ppo = replace(
        jm.RL2Config.ppo,
        minibatches=4,
        learning_rate=learning_rate,
        entropy_weight=entropy_weight,
        anneal_over=updates,
    )
    return jm.RL2Config(num_tasks=256, ppo=ppo)


def _associative(updates: int) -> Any:
    # the paper's λ: nearly all of an action's value is its immediate reward
    return replace(_rl2(updates, learning_rate=6e-3, entropy_weight=0.2), cell="associative", trace=0.3)


def _associative_on_25_episodes(updates: int) -> Any:
    # with a longer horizon of the advantages
    return replace(_rl2(updates, learning_rate=4e-3, entropy_weight=0.1), cell="associative", trace=0.9)


def _snail(updates: int) -> Any:
    ppo = replace(jm.SNAILConfig.ppo, minibatches=4, learning_rate=2e-3, entropy_weight=0.4, anneal_over=updates)
    return jm.SNAILConfig(filters=16, tc_blocks=1, key_size=16, value_size=16, num_tasks=256, ppo=ppo)


def _pretrained_snail(updates: int) -> Any:
    # each attention head can look up the reward of one action in this state; the convolutions cover an episode
    return jm.SNAILConfig(
        filters=32,
        tc_blocks=1,
        layers=4,
        heads=5,
        key_size=16,
        value_size=16,
        readout=(64, 64),
        init_gain=2.5,
        separate_value=True,
        trace=0.3,
        num_tasks=256,
        ppo=replace(jm.SNAILConfig.ppo, minibatches=4, learning_rate=2e-3, entropy_weight=0.2),
    )


def _snail_on_25_episodes(updates: int) -> Any:
    config = _pretrained_snail(updates)
    # ends at 3/8 of step size and entropy weight: annealed to zero, training returns rose to 449 and fell to 436
    return replace(config, ppo=replace(config.ppo, anneal_over=800))


# on 25 episodes, 20 updates from a SNAIL trained on 10 reached what 1,000 updates from scratch did
RECIPES = {  # by agent, episodes
    ("rl2", 10): Recipe(4000, _rl2),
    ("rl2", 25): Recipe(800, _rl2),
    ("rl2-associative", 10): Recipe(1200, _associative),
    ("rl2-associative", 25): Recipe(900, _associative_on_25_episodes, start="n10/rl2-associative"),
    ("snail", 10): Recipe(4000, _snail),
    # not until convergence: a policy that has converged on 10 episodes explores too little for 25
    ("snail-pretrained", 10): Recipe(500, _pretrained_snail),
    ("snail", 25): Recipe(500, _snail_on_25_episodes, start="n10/snail-pretrained"),
}
SIZES = {"num_states": 10, "num_actions": 5, "horizon": 10}
LEARNERS = {
    "random": ("tabular.random", {"num_actions": SIZES["num_actions"]}),
    "greedy": ("tabular.epsilon_greedy", SIZES | {"epsilon": 1e-9}),  # practically zero
    "epsilon-greedy": ("tabular.epsilon_greedy", SIZES),
    "psrl": ("tabular.psrl", SIZES),
    "opsrl": ("tabular.optimistic_psrl", SIZES),
    "ucrl2": ("tabular.ucrl2", SIZES),
    "beb": ("tabular.beb", SIZES),
}
OPTIMUM_TASKS = 20_000


@functools.cache
def _known_optimum() -> float:
    """Averages the optimal return of an episode in a known MDP; its standard error is 0.02."""
    import jax

    family = jm.tasks.tabular()
    tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(0), OPTIMUM_TASKS))
    value = jax.vmap(lambda task: jm.references.tabular.optimal_value(task.reward, task.transition, SIZES["horizon"]))
    return float(jax.jit(value)(tasks).mean())


def _runs() -> Iterator[Run]:
    for episodes, published in PUBLISHED.items():
        group = f"n{episodes}"

        def tasks_config(episodes=episodes):
            return jm.tasks.TabularConfig(num_episodes=episodes)

        def row(agent, episodes=episodes, published=published):
            optimum, required = lambda: episodes * _known_optimum(), REQUIRED.get((agent, episodes))
            return Row(trial_return, published=published.get(agent), optimum=optimum, required=required)

        for agent, (learner, arguments) in LEARNERS.items():
            yield Reference(f"{group}/{agent}", learner, arguments, "tabular", tasks_config, rows=(row(agent),))
        for (agent, length), recipe in RECIPES.items():
            if length == episodes:
                rows = () if agent.endswith("-pretrained") else (row(agent),)
                yield recipe.agent(f"{group}/{agent}", "tabular", tasks_config, rows)


TABLE = Table(
    "tabular",
    title="Random MDPs, 10 and 25 episodes: total reward of a trial",
    source="published: Duan et al., 2016; Mishra et al., 2018; optimum: with a known MDP",
    runs=tuple(_runs()),
    quick=("n10/random", "n10/psrl", "n10/rl2"),
)
