"""Locomotion tasks on Brax: the only part of jaxmeta that imports brax, and only when a family is built."""

from jaxmeta.tasks.brax.ant import AntDirConfig, AntGoalConfig, ant_dir, ant_goal
from jaxmeta.tasks.brax.half_cheetah import (
    HalfCheetahDirConfig,
    HalfCheetahVelConfig,
    half_cheetah_dir,
    half_cheetah_vel,
)
from jaxmeta.tasks.brax.walker import WalkerParamsConfig, walker_params

__all__ = [
    "AntDirConfig",
    "AntGoalConfig",
    "HalfCheetahDirConfig",
    "HalfCheetahVelConfig",
    "WalkerParamsConfig",
    "ant_dir",
    "ant_goal",
    "half_cheetah_dir",
    "half_cheetah_vel",
    "walker_params",
]
