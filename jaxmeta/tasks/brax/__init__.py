"""Locomotion tasks on Brax: the only package that imports brax, and only when a family is built."""

from jaxmeta.tasks.brax.ant import AntDirConfig, AntGoalConfig, ant_dir, ant_goal
from jaxmeta.tasks.brax.bodies import HopperParamsConfig, WalkerParamsConfig, hopper_params, walker_params
from jaxmeta.tasks.brax.half_cheetah import (
    HalfCheetahDirConfig,
    HalfCheetahVelConfig,
    half_cheetah_dir,
    half_cheetah_vel,
)
from jaxmeta.tasks.brax.humanoid import HumanoidDirConfig, humanoid_dir

__all__ = [
    "AntDirConfig",
    "AntGoalConfig",
    "HalfCheetahDirConfig",
    "HalfCheetahVelConfig",
    "HopperParamsConfig",
    "HumanoidDirConfig",
    "WalkerParamsConfig",
    "ant_dir",
    "ant_goal",
    "half_cheetah_dir",
    "half_cheetah_vel",
    "hopper_params",
    "humanoid_dir",
    "walker_params",
]
