"""Classic control with the physical parameters as the task; all constants are gymnasium's unless a file says otherwise.

In every family the task holds all parameters. A config has one range (low, high) for each, from which it is drawn
uniformly and independently; where both ends are equal the parameter is fixed. `encode` scales those that vary to
[-1, 1]. Training and held-out tasks have the same distribution.
"""

from jaxmeta.tasks.classic_control.acrobot import Acrobot, AcrobotConfig, AcrobotTask, acrobot
from jaxmeta.tasks.classic_control.cart_pole import CartPole, CartPoleConfig, CartPoleTask, cart_pole
from jaxmeta.tasks.classic_control.cart_pole_swing_up import (
    CartPoleSwingUp,
    CartPoleSwingUpConfig,
    CartPoleSwingUpTask,
    cart_pole_swing_up,
)
from jaxmeta.tasks.classic_control.mixture import ClassicControlConfig, classic_control
from jaxmeta.tasks.classic_control.mountain_car import MountainCar, MountainCarConfig, MountainCarTask, mountain_car
from jaxmeta.tasks.classic_control.pendulum import Pendulum, PendulumConfig, PendulumTask, pendulum

__all__ = [
    "Acrobot",
    "AcrobotConfig",
    "AcrobotTask",
    "CartPole",
    "CartPoleConfig",
    "CartPoleSwingUp",
    "CartPoleSwingUpConfig",
    "CartPoleSwingUpTask",
    "CartPoleTask",
    "ClassicControlConfig",
    "MountainCar",
    "MountainCarConfig",
    "MountainCarTask",
    "Pendulum",
    "PendulumConfig",
    "PendulumTask",
    "acrobot",
    "cart_pole",
    "cart_pole_swing_up",
    "classic_control",
    "mountain_car",
    "pendulum",
]
