"""The smallest useful form of every registered algorithm and task family: compile time is the price of a test."""

from __future__ import annotations

import jaxmeta as jm
from jaxmeta import outer, registry, tasks

PPO = outer.PolicyGradientConfig(epochs=2, minibatches=2, value_weight=0.5, entropy_weight=0.01)
# damped: on so little data the curvature is nearly singular, and conjugate gradient would amplify rounding
TRPO = outer.TrustRegionConfig(damping=0.1)
TRPO_WITH_VALUES = outer.TrustRegionConfig(damping=0.1, value_steps=2)
ALGOS = {
    "l2rl": jm.L2RLConfig(num_tasks=4, hidden=8, episodes=3),
    "maml": jm.MAMLConfig(num_tasks=2, streams=3, hidden=(8,), trpo=TRPO),
    "ppo": jm.PPOConfig(num_tasks=4, streams=2, hidden=(8,), ppo=PPO),
    "rl2": jm.RL2Config(num_tasks=4, hidden=8, episodes=3, ppo=PPO),
    "snail": jm.SNAILConfig(num_tasks=4, filters=4, key_size=4, value_size=4, episodes=3, ppo=PPO),
}
VARIANTS = {
    "maml-ppo": ("maml", jm.MAMLConfig(num_tasks=2, streams=3, hidden=(8,), outer_loop="ppo", rounds=2)),
    "maml-vpg": ("maml", jm.MAMLConfig(num_tasks=2, streams=3, hidden=(8,), outer_loop="vpg")),
    "fomaml": ("maml", jm.MAMLConfig(num_tasks=2, streams=3, hidden=(8,), first_order=True, trpo=TRPO)),
    "rl2-trpo": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, episodes=3, outer_loop="trpo", trpo=TRPO_WITH_VALUES)),
    "rl2-lru": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, episodes=3, cell="lru", ppo=PPO)),
}


def family() -> tasks.TaskFamily:
    """Short walks that can end early."""
    return tasks.navigation(tasks.NavigationConfig(horizon=4))


def algo(name: str, on: tasks.TaskFamily | None = None) -> jm.MetaLearner:
    """Builds a registered algorithm, or a variant of one, at its smallest."""
    base, config = VARIANTS[name] if name in VARIANTS else (name, ALGOS[name])
    factory, _ = registry.ALGOS[base].load()
    return factory(on or family(), config)
