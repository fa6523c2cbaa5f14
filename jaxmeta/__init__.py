"""jaxmeta: meta-reinforcement learning as pure functions on the accelerator.

    import jaxmeta as jm

    family = jm.tasks.navigation()
    meta = jm.maml(family)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), num_updates=100)

The names below are imported when they are first used: `import jaxmeta` is cheap and starts no JAX backend.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_MODULES = ("beliefs", "inner", "nets", "outer", "references", "render", "rl", "tasks", "testing", "types")
_NAMES = {
    "ANILConfig": "jaxmeta.algos.anil",
    "CAVIAConfig": "jaxmeta.algos.cavia",
    "Checkpointer": "jaxmeta.core.checkpoint",
    "Execution": "jaxmeta.core.parallel",
    "EMAMLConfig": "jaxmeta.algos.e_maml",
    "FOMAMLConfig": "jaxmeta.algos.fomaml",
    "FewShotANILConfig": "jaxmeta.algos.few_shot",
    "FewShotCAVIAConfig": "jaxmeta.algos.few_shot",
    "FewShotIMAMLConfig": "jaxmeta.algos.few_shot",
    "FewShotMAMLConfig": "jaxmeta.algos.few_shot",
    "FewShotMetaSGDConfig": "jaxmeta.algos.few_shot",
    "FewShotReptileConfig": "jaxmeta.algos.few_shot",
    "IMAMLConfig": "jaxmeta.algos.imaml",
    "L2RLConfig": "jaxmeta.algos.l2rl",
    "LearnedOptimizerConfig": "jaxmeta.algos.learned_optimizer",
    "Learner": "jaxmeta.core.learner",
    "MAMLConfig": "jaxmeta.algos.maml",
    "MetaLearner": "jaxmeta.core.learner",
    "MetaSGDConfig": "jaxmeta.algos.meta_sgd",
    "PEARLConfig": "jaxmeta.algos.pearl",
    "PPOConfig": "jaxmeta.algos.ppo",
    "Plan": "jaxmeta.types",
    "ProMPConfig": "jaxmeta.algos.promp",
    "RL2Config": "jaxmeta.algos.rl2",
    "Report": "jaxmeta.core.evaluate",
    "ReptileConfig": "jaxmeta.algos.reptile",
    "SACConfig": "jaxmeta.algos.sac",
    "SNAILConfig": "jaxmeta.algos.snail",
    "StopTraining": "jaxmeta.core.train",
    "TaskFamily": "jaxmeta.tasks.base",
    "VariBADConfig": "jaxmeta.algos.varibad",
    "anil": "jaxmeta.algos.anil",
    "cavia": "jaxmeta.algos.cavia",
    "collect": "jaxmeta.core.rollout",
    "e_maml": "jaxmeta.algos.e_maml",
    "evaluate": "jaxmeta.core.evaluate",
    "finite": "jaxmeta.tasks.base",
    "fomaml": "jaxmeta.algos.fomaml",
    "imaml": "jaxmeta.algos.imaml",
    "init_state": "jaxmeta.core.train",
    "l2rl": "jaxmeta.algos.l2rl",
    "learned_optimizer": "jaxmeta.algos.learned_optimizer",
    "load": "jaxmeta.runs",
    "maml": "jaxmeta.algos.maml",
    "meta_sgd": "jaxmeta.algos.meta_sgd",
    "pearl": "jaxmeta.algos.pearl",
    "ppo": "jaxmeta.algos.ppo",
    "promp": "jaxmeta.algos.promp",
    "replay": "jaxmeta.core.rollout",
    "reptile": "jaxmeta.algos.reptile",
    "rl2": "jaxmeta.algos.rl2",
    "rollout": "jaxmeta.core.rollout",
    "sac": "jaxmeta.algos.sac",
    "snail": "jaxmeta.algos.snail",
    "state_form": "jaxmeta.core.train",
    "summarize": "jaxmeta.core.evaluate",
    "train": "jaxmeta.core.train",
    "unroll": "jaxmeta.core.rollout",
    "use_cpu_cores": "jaxmeta.core.parallel",
    "varibad": "jaxmeta.algos.varibad",
}

__all__ = sorted((*_MODULES, *_NAMES))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxmeta.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'jaxmeta' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
