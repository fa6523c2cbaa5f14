"""Names of the algorithms and task families that the command line knows.

Entries are import paths, not objects: listing them imports nothing heavy. A user's own family or algorithm needs no
entry here, `jm.maml(my_family)` takes any object that passes `jm.testing.check_env`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Where a recipe and its config live."""

    module: str
    factory: str
    config: str

    def load(self) -> tuple[Any, type]:
        """Returns the factory and its config class."""
        module = importlib.import_module(self.module)
        return getattr(module, self.factory), getattr(module, self.config)


ALGOS = {
    "anil": Entry("jaxmeta.algos.gradient.anil", "anil", "ANILConfig"),
    "cavia": Entry("jaxmeta.algos.gradient.cavia", "cavia", "CAVIAConfig"),
    "e-maml": Entry("jaxmeta.algos.gradient.e_maml", "e_maml", "EMAMLConfig"),
    "fomaml": Entry("jaxmeta.algos.gradient.fomaml", "fomaml", "FOMAMLConfig"),
    "imaml": Entry("jaxmeta.algos.gradient.imaml", "imaml", "IMAMLConfig"),
    "l2rl": Entry("jaxmeta.algos.memory.l2rl", "l2rl", "L2RLConfig"),
    "maml": Entry("jaxmeta.algos.gradient.maml", "maml", "MAMLConfig"),
    "meta-sgd": Entry("jaxmeta.algos.gradient.meta_sgd", "meta_sgd", "MetaSGDConfig"),
    "pearl": Entry("jaxmeta.algos.inference.pearl", "pearl", "PEARLConfig"),
    "ppo": Entry("jaxmeta.algos.baselines.ppo", "ppo", "PPOConfig"),
    "promp": Entry("jaxmeta.algos.gradient.promp", "promp", "ProMPConfig"),
    "reptile": Entry("jaxmeta.algos.gradient.reptile", "reptile", "ReptileConfig"),
    "rl2": Entry("jaxmeta.algos.memory.rl2", "rl2", "RL2Config"),
    "sac": Entry("jaxmeta.algos.baselines.sac", "sac", "SACConfig"),
    "snail": Entry("jaxmeta.algos.memory.snail", "snail", "SNAILConfig"),
    "varibad": Entry("jaxmeta.algos.inference.varibad", "varibad", "VariBADConfig"),
}

# the same names on supervised tasks, where the loss is another and so the fields of a config
SUPERVISED_ALGOS = {
    "anil": Entry("jaxmeta.algos.gradient.few_shot", "anil", "FewShotANILConfig"),
    "cavia": Entry("jaxmeta.algos.gradient.few_shot", "cavia", "FewShotCAVIAConfig"),
    "imaml": Entry("jaxmeta.algos.gradient.few_shot", "imaml", "FewShotIMAMLConfig"),
    "learned-optimizer": Entry(
        "jaxmeta.algos.gradient.learned_optimizer", "learned_optimizer", "LearnedOptimizerConfig"
    ),
    "maml": Entry("jaxmeta.algos.gradient.few_shot", "maml", "FewShotMAMLConfig"),
    "meta-sgd": Entry("jaxmeta.algos.gradient.few_shot", "meta_sgd", "FewShotMetaSGDConfig"),
    "reptile": Entry("jaxmeta.algos.gradient.few_shot", "reptile", "FewShotReptileConfig"),
}

SUPERVISED_TASKS = {
    "glyphs": Entry("jaxmeta.tasks.glyphs", "glyphs", "GlyphsConfig"),
    "quadratic": Entry("jaxmeta.tasks.quadratic", "quadratic", "QuadraticConfig"),
    "sinusoid": Entry("jaxmeta.tasks.sinusoid", "sinusoid", "SinusoidConfig"),
}

TASKS = {
    "bandit": Entry("jaxmeta.tasks.bandit", "bandit", "BanditConfig"),
    "gaussian-bandit": Entry("jaxmeta.tasks.bandit", "gaussian_bandit", "GaussianBanditConfig"),
    "dependent-bandit": Entry("jaxmeta.tasks.bandit", "dependent_bandit", "DependentBanditConfig"),
    "tabular": Entry("jaxmeta.tasks.tabular", "tabular", "TabularConfig"),
    "grid-navigation": Entry("jaxmeta.tasks.grid", "grid_navigation", "GridConfig"),
    "maze": Entry("jaxmeta.tasks.maze", "maze", "MazeConfig"),
    "navigation": Entry("jaxmeta.tasks.navigation", "navigation", "NavigationConfig"),
    "point-robot": Entry("jaxmeta.tasks.point", "point_robot", "PointRobotConfig"),
    "sparse-point-robot": Entry("jaxmeta.tasks.point", "sparse_point_robot", "SparsePointRobotConfig"),
    "half-cheetah-vel": Entry("jaxmeta.tasks.brax", "half_cheetah_vel", "HalfCheetahVelConfig"),
    "half-cheetah-dir": Entry("jaxmeta.tasks.brax", "half_cheetah_dir", "HalfCheetahDirConfig"),
    "ant-dir": Entry("jaxmeta.tasks.brax", "ant_dir", "AntDirConfig"),
    "ant-goal": Entry("jaxmeta.tasks.brax", "ant_goal", "AntGoalConfig"),
    "walker-params": Entry("jaxmeta.tasks.brax", "walker_params", "WalkerParamsConfig"),
    "hopper-params": Entry("jaxmeta.tasks.brax", "hopper_params", "HopperParamsConfig"),
    "humanoid-dir": Entry("jaxmeta.tasks.brax", "humanoid_dir", "HumanoidDirConfig"),
    **SUPERVISED_TASKS,
}


def find_algo(name: str, tasks: str) -> Entry:
    """Looks an algorithm up, in the form that a task family needs; it raises as `find` does."""
    if tasks in SUPERVISED_TASKS:
        return find("algorithm for supervised tasks", SUPERVISED_ALGOS, name)
    return find("algorithm", ALGOS, name)


def find(kind: str, entries: dict[str, Entry], name: str) -> Entry:
    """Looks a name up.

    Args:
      kind: what the entries are, for the message.

    Raises:
      KeyError: if there is none; the message suggests the nearest name.
    """
    if name in entries:
        return entries[name]
    raise KeyError(f"no {kind} {name!r};{near(name, entries)} `jaxmeta list` shows all")


def near(name: str, known: Iterable[str]) -> str:
    """Suggests the known name that is nearest, with a space before it; returns "" if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" did you mean {nearest[0]!r}?" if nearest else ""
