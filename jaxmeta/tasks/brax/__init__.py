"""Task families on Brax: the only package that imports brax, and only when a family is built.

A family of your own is a body, a config and functions of its physics; `locomotion` describes all of them. Ants whose
motors have a hidden strength:

    import dataclasses

    import jax
    from jaxmeta import tasks

    @dataclasses.dataclass(frozen=True)
    class WeakAntConfig(tasks.LocomotionConfig):
        weakest: float = 0.3

    def weak_ant(config: WeakAntConfig = WeakAntConfig()):
        def sample(key):
            return jax.random.uniform(key, minval=config.weakest)

        def command(action, strength):
            return strength * action

        def reward(outcome, strength):
            return outcome.velocity[0] - 0.5 * outcome.effort

        env = tasks.locomotion("ant", config, tasks.coordinates(hidden=2), reward, command=command)
        return tasks.TaskFamily(env, sample, sample, tasks.flatten_task)

It trains as `jm.rl2(weak_ant())` or, from the file `my_ants.py`, with `jaxmeta train rl2 my_ants:weak_ant`. A
`brax.envs.PipelineEnv` of your own takes the place of the name "ant".
"""

from jaxmeta.tasks.brax.ant import AntDirConfig, AntGoalConfig, ant_dir, ant_goal
from jaxmeta.tasks.brax.bodies import HopperParamsConfig, WalkerParamsConfig, hopper_params, walker_params
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.crippled import (
    AntCrippledConfig,
    HalfCheetahCrippledConfig,
    ant_crippled,
    half_cheetah_crippled,
)
from jaxmeta.tasks.brax.env import Locomotion, Outcome, centre_of_mass, coordinates, locomotion
from jaxmeta.tasks.brax.half_cheetah import (
    HalfCheetahDirConfig,
    HalfCheetahVelConfig,
    half_cheetah_dir,
    half_cheetah_vel,
)
from jaxmeta.tasks.brax.humanoid import HumanoidDirConfig, humanoid_dir
from jaxmeta.tasks.brax.reacher import ReacherGoalConfig, reacher_goal

__all__ = [
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
]
