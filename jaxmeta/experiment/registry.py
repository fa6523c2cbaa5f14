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
    """Where a factory and its config live."""

    module: str
    factory: str
    config: str

    def load(self) -> tuple[Any, type]:
        """Returns the factory and its config class."""
        module = importlib.import_module(self.module)
        return getattr(module, self.factory), getattr(module, self.config)


class Algo(NamedTuple):
    """Where a recipe and its configs live."""

    module: str
    factory: str
    config: str | None
    """On tasks of reinforcement learning; None if it takes none."""
    supervised: str | None = None
    """On supervised tasks, where the loss is another; None if it takes none."""


ALGORITHMS = {
    "anil": Algo("jaxmeta.algos.gradient.anil", "anil", "ANILConfig", "FewShotANILConfig"),
    "cavia": Algo("jaxmeta.algos.gradient.cavia", "cavia", "CAVIAConfig", "FewShotCAVIAConfig"),
    "e-maml": Algo("jaxmeta.algos.gradient.e_maml", "e_maml", "EMAMLConfig"),
    "fomaml": Algo("jaxmeta.algos.gradient.fomaml", "fomaml", "FOMAMLConfig", "FewShotFOMAMLConfig"),
    "imaml": Algo("jaxmeta.algos.gradient.imaml", "imaml", "IMAMLConfig", "FewShotIMAMLConfig"),
    "l2rl": Algo("jaxmeta.algos.memory.l2rl", "l2rl", "L2RLConfig"),
    "learned-optimizer": Algo(
        "jaxmeta.algos.gradient.learned_optimizer", "learned_optimizer", None, "LearnedOptimizerConfig"
    ),
    "maml": Algo("jaxmeta.algos.gradient.maml", "maml", "MAMLConfig", "FewShotMAMLConfig"),
    "meta-sgd": Algo("jaxmeta.algos.gradient.meta_sgd", "meta_sgd", "MetaSGDConfig", "FewShotMetaSGDConfig"),
    "pearl": Algo("jaxmeta.algos.inference.pearl", "pearl", "PEARLConfig"),
    "ppo": Algo("jaxmeta.algos.baselines.ppo", "ppo", "PPOConfig"),
    "promp": Algo("jaxmeta.algos.gradient.promp", "promp", "ProMPConfig"),
    "reptile": Algo("jaxmeta.algos.gradient.reptile", "reptile", "ReptileConfig", "FewShotReptileConfig"),
    "rl2": Algo("jaxmeta.algos.memory.rl2", "rl2", "RL2Config"),
    "sac": Algo("jaxmeta.algos.baselines.sac", "sac", "SACConfig"),
    "snail": Algo("jaxmeta.algos.memory.snail", "snail", "SNAILConfig"),
    "varibad": Algo("jaxmeta.algos.inference.varibad", "varibad", "VariBADConfig"),
}
ALGOS = {name: Entry(algo.module, algo.factory, algo.config) for name, algo in ALGORITHMS.items() if algo.config}
SUPERVISED_ALGOS = {
    name: Entry(algo.module, algo.factory, algo.supervised) for name, algo in ALGORITHMS.items() if algo.supervised
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
