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

_MODULES = (
    "deploy",
    "devices",
    "inner",
    "nets",
    "outer",
    "privacy",
    "references",
    "rl",
    "similarity",
    "tasks",
    "testing",
    "types",
    "viz",
    "zoo",
)
_NAMES = {
    "ANILConfig": "jaxmeta.algos.gradient.anil",
    "CAVIAConfig": "jaxmeta.algos.gradient.cavia",
    "Checkpointer": "jaxmeta.core.checkpoint",
    "CloneConfig": "jaxmeta.algos.imitation.clone",
    "DAggerConfig": "jaxmeta.algos.imitation.dagger",
    "Demonstrations": "jaxmeta.core.demonstrations",
    "DistillConfig": "jaxmeta.algos.imitation.distill",
    "DPTConfig": "jaxmeta.algos.imitation.dpt",
    "Execution": "jaxmeta.devices",
    "EMAMLConfig": "jaxmeta.algos.gradient.e_maml",
    "FOMAMLConfig": "jaxmeta.algos.gradient.fomaml",
    "FewShotANILConfig": "jaxmeta.algos.gradient.anil",
    "FewShotCAVIAConfig": "jaxmeta.algos.gradient.cavia",
    "FederatedConfig": "jaxmeta.algos.federated.federated",
    "FewShotFOMAMLConfig": "jaxmeta.algos.gradient.fomaml",
    "FewShotFederatedConfig": "jaxmeta.algos.federated.federated",
    "FewShotIMAMLConfig": "jaxmeta.algos.gradient.imaml",
    "FewShotMAMLConfig": "jaxmeta.algos.gradient.maml",
    "FewShotMetaSGDConfig": "jaxmeta.algos.gradient.meta_sgd",
    "FewShotReptileConfig": "jaxmeta.algos.gradient.reptile",
    "GatekeeperConfig": "jaxmeta.algos.imitation.gatekeeper",
    "GrBALConfig": "jaxmeta.algos.models.grbal",
    "IMAMLConfig": "jaxmeta.algos.gradient.imaml",
    "JsonLines": "jaxmeta.experiment.logging",
    "L2RLConfig": "jaxmeta.algos.memory.l2rl",
    "LearnedOptimizerConfig": "jaxmeta.algos.gradient.learned_optimizer",
    "LeadPolicyConfig": "jaxmeta.algos.hierarchy.lead_policy",
    "Learner": "jaxmeta.core.learner",
    "MAMLConfig": "jaxmeta.algos.gradient.maml",
    "MBMPOConfig": "jaxmeta.algos.models.mb_mpo",
    "MILConfig": "jaxmeta.algos.imitation.mil",
    "MLSHConfig": "jaxmeta.algos.hierarchy.mlsh",
    "MetaLearner": "jaxmeta.core.learner",
    "MetaSGDConfig": "jaxmeta.algos.gradient.meta_sgd",
    "MultiTaskConfig": "jaxmeta.algos.multitask.multi_task",
    "OptionCriticConfig": "jaxmeta.algos.hierarchy.option_critic",
    "PEARLConfig": "jaxmeta.algos.inference.pearl",
    "PETSConfig": "jaxmeta.algos.models.pets",
    "PPOConfig": "jaxmeta.algos.baselines.ppo",
    "Plan": "jaxmeta.types",
    "ProMPConfig": "jaxmeta.algos.gradient.promp",
    "RL2Config": "jaxmeta.algos.memory.rl2",
    "Report": "jaxmeta.core.evaluate",
    "ReBALConfig": "jaxmeta.algos.models.rebal",
    "ReptileConfig": "jaxmeta.algos.gradient.reptile",
    "RunConfig": "jaxmeta.experiment.runs",
    "SACConfig": "jaxmeta.algos.baselines.sac",
    "SNAILConfig": "jaxmeta.algos.memory.snail",
    "StopTraining": "jaxmeta.core.train",
    "TaskFamily": "jaxmeta.tasks.base",
    "VariBADConfig": "jaxmeta.algos.inference.varibad",
    "anil": "jaxmeta.algos.gradient.anil",
    "cavia": "jaxmeta.algos.gradient.cavia",
    "clone": "jaxmeta.algos.imitation.clone",
    "collect": "jaxmeta.core.rollout",
    "dagger": "jaxmeta.algos.imitation.dagger",
    "deterministic": "jaxmeta.core.learner",
    "distill": "jaxmeta.algos.imitation.distill",
    "dpt": "jaxmeta.algos.imitation.dpt",
    "e_maml": "jaxmeta.algos.gradient.e_maml",
    "evaluate": "jaxmeta.core.evaluate",
    "federated": "jaxmeta.algos.federated.federated",
    "finite": "jaxmeta.tasks.base",
    "fomaml": "jaxmeta.algos.gradient.fomaml",
    "gatekeeper": "jaxmeta.algos.imitation.gatekeeper",
    "grbal": "jaxmeta.algos.models.grbal",
    "imaml": "jaxmeta.algos.gradient.imaml",
    "init_state": "jaxmeta.core.train",
    "l2rl": "jaxmeta.algos.memory.l2rl",
    "lead_policy": "jaxmeta.algos.hierarchy.lead_policy",
    "learned_optimizer": "jaxmeta.algos.gradient.learned_optimizer",
    "load": "jaxmeta.experiment.loading",
    "maml": "jaxmeta.algos.gradient.maml",
    "mb_mpo": "jaxmeta.algos.models.mb_mpo",
    "meta_sgd": "jaxmeta.algos.gradient.meta_sgd",
    "mil": "jaxmeta.algos.imitation.mil",
    "mlsh": "jaxmeta.algos.hierarchy.mlsh",
    "multi_task": "jaxmeta.algos.multitask.multi_task",
    "option_critic": "jaxmeta.algos.hierarchy.option_critic",
    "pearl": "jaxmeta.algos.inference.pearl",
    "pets": "jaxmeta.algos.models.pets",
    "ppo": "jaxmeta.algos.baselines.ppo",
    "promp": "jaxmeta.algos.gradient.promp",
    "rebal": "jaxmeta.algos.models.rebal",
    "replay": "jaxmeta.core.rollout",
    "replay_fast": "jaxmeta.core.rollout",
    "reptile": "jaxmeta.algos.gradient.reptile",
    "rl2": "jaxmeta.algos.memory.rl2",
    "rollout": "jaxmeta.core.rollout",
    "sac": "jaxmeta.algos.baselines.sac",
    "save_run": "jaxmeta.experiment.saving",
    "snail": "jaxmeta.algos.memory.snail",
    "state_form": "jaxmeta.core.train",
    "summarize": "jaxmeta.core.evaluate",
    "sweep": "jaxmeta.core.sweep",
    "train": "jaxmeta.core.train",
    "unroll": "jaxmeta.core.rollout",
    "use_cpu_cores": "jaxmeta.devices",
    "varibad": "jaxmeta.algos.inference.varibad",
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
