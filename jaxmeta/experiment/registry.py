"""Names of the algorithms and task families that the command line knows.

Entries are import paths, not objects: listing them imports nothing heavy. A user's own family needs no entry here. In
Python, `jm.maml(my_family)` takes any object that passes `jm.testing.check_env`; where a name is needed, as on the
command line, it is `module:factory`, see `OwnFamily`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Where a factory and its config live."""

    module: str
    factory: str
    config: str
    extra: str | None = None
    """Extra of jaxmeta that it needs; None if it needs none."""

    def load(self) -> tuple[Any, type]:
        """Returns the factory and its config class."""
        module = importlib.import_module(self.module)
        return getattr(module, self.factory), getattr(module, self.config)


@dataclasses.dataclass(frozen=True)
class NoConfig:
    """The config of a task family whose factory takes none."""


class OwnFamily(NamedTuple):
    """A task family of the user, named `module:factory`.

    The factory takes a config, a dataclass all of whose fields have defaults and are int, float, bool, str, Literal, a
    tuple or a dataclass of such, or nothing. The class is read from its annotation, else from its default.
    """

    module: str
    factory: str

    def load(self) -> tuple[Any, type]:
        """Imports the module and returns the factory and its config class.

        Raises:
          KeyError: if there is no such module or factory, or the factory takes anything else than a config.
        """
        name = f"{self.module}:{self.factory}"
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise KeyError(f"task family {name!r} cannot be imported: {error}") from error
        factory = getattr(module, self.factory, None)
        if not callable(factory):
            functions = [name for name, value in vars(module).items() if callable(value)]
            hint = near(self.factory, functions) or f" it is {module.__file__}"
            raise KeyError(f"no task family {name!r}: the module has no function {self.factory!r};{hint}")
        needed = _parameters(factory)
        if not needed:
            return lambda config: factory(), NoConfig
        kind = _hints(factory).get(needed[0].name, type(needed[0].default))
        if len(needed) > 1 or not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise KeyError(
                f"task family {name!r} takes ({', '.join(one.name for one in needed)}); it must take one annotated"
                " dataclass, or nothing"
            )
        try:
            kind()
        except TypeError as error:
            raise KeyError(f"task family {name!r}: {error}; all fields of its config need defaults") from error
        return factory, kind


def _hints(factory: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory)
    except (NameError, TypeError):  # an annotation that only a type checker knows; an object that can be called
        return {}


def _parameters(factory: Any) -> list[inspect.Parameter]:
    """Lists the parameters of a factory that matter: the first, and what must be given."""
    given = list(inspect.signature(factory).parameters.values())
    named = [one for one in given if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return [one for index, one in enumerate(named) if index == 0 or one.default is one.empty]


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
    "clone": Algo("jaxmeta.algos.imitation.clone", "clone", "CloneConfig"),
    "dagger": Algo("jaxmeta.algos.imitation.dagger", "dagger", "DAggerConfig"),
    "distill": Algo("jaxmeta.algos.imitation.distill", "distill", "DistillConfig"),
    "dpt": Algo("jaxmeta.algos.imitation.dpt", "dpt", "DPTConfig"),
    "e-maml": Algo("jaxmeta.algos.gradient.e_maml", "e_maml", "EMAMLConfig"),
    "federated": Algo("jaxmeta.algos.federated.federated", "federated", "FederatedConfig", "FewShotFederatedConfig"),
    "fomaml": Algo("jaxmeta.algos.gradient.fomaml", "fomaml", "FOMAMLConfig", "FewShotFOMAMLConfig"),
    "gatekeeper": Algo("jaxmeta.algos.imitation.gatekeeper", "gatekeeper", "GatekeeperConfig"),
    "grbal": Algo("jaxmeta.algos.models.grbal", "grbal", "GrBALConfig"),
    "imaml": Algo("jaxmeta.algos.gradient.imaml", "imaml", "IMAMLConfig", "FewShotIMAMLConfig"),
    "l2rl": Algo("jaxmeta.algos.memory.l2rl", "l2rl", "L2RLConfig"),
    "lead-policy": Algo("jaxmeta.algos.hierarchy.lead_policy", "lead_policy", "LeadPolicyConfig"),
    "learned-optimizer": Algo(
        "jaxmeta.algos.gradient.learned_optimizer", "learned_optimizer", None, "LearnedOptimizerConfig"
    ),
    "maml": Algo("jaxmeta.algos.gradient.maml", "maml", "MAMLConfig", "FewShotMAMLConfig"),
    "mb-mpo": Algo("jaxmeta.algos.models.mb_mpo", "mb_mpo", "MBMPOConfig"),
    "meta-sgd": Algo("jaxmeta.algos.gradient.meta_sgd", "meta_sgd", "MetaSGDConfig", "FewShotMetaSGDConfig"),
    "mil": Algo("jaxmeta.algos.imitation.mil", "mil", "MILConfig"),
    "mlsh": Algo("jaxmeta.algos.hierarchy.mlsh", "mlsh", "MLSHConfig"),
    "multi-task": Algo("jaxmeta.algos.multitask.multi_task", "multi_task", "MultiTaskConfig"),
    "option-critic": Algo("jaxmeta.algos.hierarchy.option_critic", "option_critic", "OptionCriticConfig"),
    "pearl": Algo("jaxmeta.algos.inference.pearl", "pearl", "PEARLConfig"),
    "pets": Algo("jaxmeta.algos.models.pets", "pets", "PETSConfig"),
    "ppo": Algo("jaxmeta.algos.baselines.ppo", "ppo", "PPOConfig"),
    "promp": Algo("jaxmeta.algos.gradient.promp", "promp", "ProMPConfig"),
    "rebal": Algo("jaxmeta.algos.models.rebal", "rebal", "ReBALConfig"),
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
    "dark-room": Entry("jaxmeta.tasks.dark_room", "dark_room", "DarkRoomConfig"),
    "random-walk": Entry("jaxmeta.tasks.random_walk", "random_walk", "RandomWalkConfig"),
    "four-rooms": Entry("jaxmeta.tasks.four_rooms", "four_rooms", "FourRoomsConfig"),
    "moving-bandits": Entry("jaxmeta.tasks.moving_bandits", "moving_bandits", "MovingBanditsConfig"),
    "maze": Entry("jaxmeta.tasks.maze", "maze", "MazeConfig"),
    "navigation": Entry("jaxmeta.tasks.navigation", "navigation", "NavigationConfig"),
    "point-robot": Entry("jaxmeta.tasks.point", "point_robot", "PointRobotConfig"),
    "sparse-point-robot": Entry("jaxmeta.tasks.point", "sparse_point_robot", "SparsePointRobotConfig"),
    "double-integrator": Entry("jaxmeta.tasks.double_integrator", "double_integrator", "DoubleIntegratorConfig"),
    "cart-pole": Entry("jaxmeta.tasks.classic_control", "cart_pole", "CartPoleConfig"),
    "cart-pole-swing-up": Entry("jaxmeta.tasks.classic_control", "cart_pole_swing_up", "CartPoleSwingUpConfig"),
    "acrobot": Entry("jaxmeta.tasks.classic_control", "acrobot", "AcrobotConfig"),
    "mountain-car": Entry("jaxmeta.tasks.classic_control", "mountain_car", "MountainCarConfig"),
    "pendulum": Entry("jaxmeta.tasks.classic_control", "pendulum", "PendulumConfig"),
    "classic-control": Entry("jaxmeta.tasks.classic_control", "classic_control", "ClassicControlConfig"),
    "half-cheetah-vel": Entry("jaxmeta.tasks.brax", "half_cheetah_vel", "HalfCheetahVelConfig"),
    "half-cheetah-crippled": Entry("jaxmeta.tasks.brax", "half_cheetah_crippled", "HalfCheetahCrippledConfig"),
    "half-cheetah-dir": Entry("jaxmeta.tasks.brax", "half_cheetah_dir", "HalfCheetahDirConfig"),
    "ant-crippled": Entry("jaxmeta.tasks.brax", "ant_crippled", "AntCrippledConfig"),
    "ant-dir": Entry("jaxmeta.tasks.brax", "ant_dir", "AntDirConfig"),
    "ant-goal": Entry("jaxmeta.tasks.brax", "ant_goal", "AntGoalConfig"),
    "reacher-goal": Entry("jaxmeta.tasks.brax", "reacher_goal", "ReacherGoalConfig"),
    "walker-params": Entry("jaxmeta.tasks.brax", "walker_params", "WalkerParamsConfig"),
    "hopper-params": Entry("jaxmeta.tasks.brax", "hopper_params", "HopperParamsConfig"),
    "humanoid-dir": Entry("jaxmeta.tasks.brax", "humanoid_dir", "HumanoidDirConfig"),
    "playground": Entry("jaxmeta.tasks.adapters.playground", "playground", "PlaygroundConfig", "playground"),
    "gymnax": Entry("jaxmeta.tasks.adapters.gymnax", "gymnax", "GymnaxConfig", "gymnax"),
    "xland": Entry("jaxmeta.tasks.adapters.xland", "xland", "XLandConfig", "xland"),
    "gymnasium": Entry("jaxmeta.tasks.adapters.gymnasium", "gymnasium", "GymnasiumConfig", "gymnasium"),
    "metaworld": Entry("jaxmeta.tasks.adapters.metaworld", "metaworld", "MetaWorldConfig", "metaworld"),
    **SUPERVISED_TASKS,
}


SAMPLERS = {
    "uniform": Entry("jaxmeta.outer", "sampler", "UniformConfig"),
    "prioritised": Entry("jaxmeta.outer", "sampler", "PrioritisedConfig"),
    "learnability": Entry("jaxmeta.outer", "sampler", "LearnabilityConfig"),
    "progress": Entry("jaxmeta.outer", "sampler", "ProgressConfig"),
    "near-far": Entry("jaxmeta.outer", "sampler", "NearFarConfig"),
}
"""Which tasks an update visits."""


EXTRAS: dict[str, tuple[str, ...]] = {
    "cuda": ("jax_cuda13_plugin",),
    "playground": ("mujoco_playground",),
    "gymnasium": ("gymnasium",),
    "gymnax": ("gymnax",),
    "metaworld": ("metaworld",),
    "minari": ("minari", "h5py"),
    "private": ("dp_accounting",),
    "wandb": ("wandb",),
    "xland": ("xminigrid",),
}
"""Modules that each extra for users installs."""


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra are there; nothing is imported."""
    return all(importlib.util.find_spec(module) for module in EXTRAS[extra])


OFF_POLICY = frozenset({"pearl", "sac"})
"""Algorithms that always learn from a replay buffer and from target critics, neither of which is a parameter."""


def is_off_policy(name: str, config: Any) -> bool:
    """Whether an algorithm with this config learns from a replay buffer and from target critics."""
    return name in OFF_POLICY or getattr(config, "outer_loop", None) == "sac"


WITH_TASK_ID = frozenset({"multi-task"})
"""Algorithms that need a finite set of training tasks, and whose agents observe the ID of the task."""


def observes_task_id(name: str, config: Any) -> bool:
    """Whether the agents of an algorithm with this config observe the ID of the task."""
    return name in WITH_TASK_ID or getattr(config, "masters", None) == "per-task"


FROM_DEMONSTRATIONS = frozenset({"clone", "distill", "mil"})
"""Algorithms that can learn from stored demonstrations."""


FROM_EXPERT = frozenset({"clone", "dagger", "distill", "dpt", "mil"})
"""Algorithms that can learn from an expert, such as a trained run."""


FROM_LIBRARY = frozenset({"lead-policy"})
"""Algorithms whose agents act through the policies of other runs."""


ONE_SHOT = frozenset({"mil"})
"""Algorithms whose agents adapt to a demonstration: in an evaluation the expert acts in round 0."""


def is_own(tasks: str) -> bool:
    """Whether a task family is one of the user's, named `module:factory`."""
    return ":" in tasks


def find_tasks(name: str) -> Entry | OwnFamily:
    """Looks a task family up; it raises as `find` does. One of the user's is not imported before `load`."""
    if not is_own(name):
        return find("task family", TASKS, name)
    module, _, factory = name.partition(":")
    if not factory.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise KeyError(f"no task family {name!r}; one of your own is named MODULE:FACTORY, such as my_module:my_family")
    return OwnFamily(module, factory)


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
