"""Task families: distributions over tasks that share an environment."""

from __future__ import annotations

from typing import Any

from jaxmeta.tasks.bandit import (
    Bandit,
    BanditConfig,
    BanditTask,
    DependentBanditConfig,
    GaussianBanditConfig,
    GaussianBanditTask,
    bandit,
    dependent_bandit,
    gaussian_bandit,
)
from jaxmeta.tasks.base import Env, TaskFamily, finite, flatten_task, kinds_of, reveal, strong
from jaxmeta.tasks.changing import Changing, ChangingState, ChangingTask, changing
from jaxmeta.tasks.classic_control import (
    Acrobot,
    AcrobotConfig,
    AcrobotTask,
    CartPole,
    CartPoleConfig,
    CartPoleSwingUp,
    CartPoleSwingUpConfig,
    CartPoleSwingUpTask,
    CartPoleTask,
    ClassicControlConfig,
    MountainCar,
    MountainCarConfig,
    MountainCarTask,
    Pendulum,
    PendulumConfig,
    PendulumTask,
    acrobot,
    cart_pole,
    cart_pole_swing_up,
    classic_control,
    mountain_car,
    pendulum,
)
from jaxmeta.tasks.dark_room import DarkRoomConfig, dark_room, dark_room_goals
from jaxmeta.tasks.double_integrator import (
    DoubleIntegrator,
    DoubleIntegratorConfig,
    DoubleIntegratorTask,
    double_integrator,
)
from jaxmeta.tasks.few_shot import FewShot, FewShotTask
from jaxmeta.tasks.four_rooms import FourRooms, FourRoomsConfig, FourRoomsState, FourRoomsTask, four_rooms
from jaxmeta.tasks.glyphs import GlyphsConfig, glyphs
from jaxmeta.tasks.grid import GridConfig, GridNavigation, GridTask, all_goals, grid_navigation
from jaxmeta.tasks.imagined import Imagined, ImaginedTask, imagined
from jaxmeta.tasks.maze import Maze, MazeConfig, MazeState, MazeTask, maze
from jaxmeta.tasks.moving_bandits import (
    MovingBandits,
    MovingBanditsConfig,
    MovingBanditsState,
    MovingBanditsTask,
    moving_bandits,
)
from jaxmeta.tasks.navigation import Navigation, NavigationConfig, PointTask, navigation
from jaxmeta.tasks.numbered import Numbered, NumberedTask, numbered, with_task_id
from jaxmeta.tasks.point import (
    PointRobot,
    PointRobotConfig,
    SparsePointRobot,
    SparsePointRobotConfig,
    point_robot,
    sparse_point_robot,
)
from jaxmeta.tasks.quadratic import QuadraticConfig, quadratic
from jaxmeta.tasks.random_walk import RandomWalk, RandomWalkConfig, RandomWalkTask, random_walk
from jaxmeta.tasks.several import Several, SeveralTask, several
from jaxmeta.tasks.sinusoid import Sinusoid, SinusoidConfig, sinusoid
from jaxmeta.tasks.tabular import Tabular, TabularConfig, TabularTask, tabular

_BRAX = (
    "AntCrippledConfig",
    "AntDirConfig",
    "AntGoalConfig",
    "HalfCheetahCrippledConfig",
    "HalfCheetahDirConfig",
    "HalfCheetahVelConfig",
    "HopperParamsConfig",
    "HumanoidDirConfig",
    "Locomotion",
    "LocomotionConfig",
    "Outcome",
    "ReacherGoalConfig",
    "WalkerParamsConfig",
    "ant_crippled",
    "ant_dir",
    "ant_goal",
    "centre_of_mass",
    "coordinates",
    "half_cheetah_crippled",
    "half_cheetah_dir",
    "half_cheetah_vel",
    "hopper_params",
    "humanoid_dir",
    "locomotion",
    "reacher_goal",
    "walker_params",
)

__all__ = [
    "Acrobot",
    "AcrobotConfig",
    "AcrobotTask",
    "Bandit",
    "BanditConfig",
    "BanditTask",
    "CartPole",
    "CartPoleConfig",
    "CartPoleSwingUp",
    "CartPoleSwingUpConfig",
    "CartPoleSwingUpTask",
    "CartPoleTask",
    "Changing",
    "ChangingState",
    "ChangingTask",
    "ClassicControlConfig",
    "DarkRoomConfig",
    "DoubleIntegrator",
    "DoubleIntegratorConfig",
    "DoubleIntegratorTask",
    "DependentBanditConfig",
    "Env",
    "FewShot",
    "FewShotTask",
    "FourRooms",
    "FourRoomsConfig",
    "FourRoomsState",
    "FourRoomsTask",
    "GaussianBanditConfig",
    "GaussianBanditTask",
    "GlyphsConfig",
    "GridConfig",
    "GridNavigation",
    "GridTask",
    "Imagined",
    "ImaginedTask",
    "Maze",
    "MazeConfig",
    "MazeState",
    "MazeTask",
    "MountainCar",
    "MountainCarConfig",
    "MountainCarTask",
    "MovingBandits",
    "MovingBanditsConfig",
    "MovingBanditsState",
    "MovingBanditsTask",
    "Navigation",
    "NavigationConfig",
    "Numbered",
    "NumberedTask",
    "Pendulum",
    "PendulumConfig",
    "PendulumTask",
    "PointRobot",
    "PointRobotConfig",
    "PointTask",
    "QuadraticConfig",
    "RandomWalk",
    "RandomWalkConfig",
    "RandomWalkTask",
    "Several",
    "SeveralTask",
    "Sinusoid",
    "SinusoidConfig",
    "SparsePointRobot",
    "SparsePointRobotConfig",
    "Tabular",
    "TabularConfig",
    "TabularTask",
    "TaskFamily",
    "acrobot",
    "all_goals",
    "bandit",
    "cart_pole",
    "cart_pole_swing_up",
    "changing",
    "classic_control",
    "dark_room",
    "dark_room_goals",
    "dependent_bandit",
    "double_integrator",
    "finite",
    "flatten_task",
    "four_rooms",
    "gaussian_bandit",
    "glyphs",
    "grid_navigation",
    "imagined",
    "kinds_of",
    "maze",
    "mountain_car",
    "moving_bandits",
    "navigation",
    "numbered",
    "pendulum",
    "point_robot",
    "quadratic",
    "random_walk",
    "reveal",
    "several",
    "sinusoid",
    "sparse_point_robot",
    "strong",
    "tabular",
    "with_task_id",
    *_BRAX,  # pyright: ignore[reportUnsupportedDunderAll]
]


def __getattr__(name: str) -> Any:
    # brax is slow to import and not everyone needs it
    if name in _BRAX:
        from jaxmeta.tasks import brax

        return getattr(brax, name)
    raise AttributeError(f"module 'jaxmeta.tasks' has no attribute {name!r}")
