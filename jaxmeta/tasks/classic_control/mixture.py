"""Several kinds of classic control as one family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.acrobot import AcrobotConfig, AcrobotTask, acrobot
from jaxmeta.tasks.classic_control.cart_pole import CartPoleConfig, CartPoleTask, cart_pole
from jaxmeta.tasks.classic_control.cart_pole_swing_up import (
    CartPoleSwingUpConfig,
    CartPoleSwingUpTask,
    cart_pole_swing_up,
)
from jaxmeta.tasks.classic_control.mountain_car import MountainCarConfig, MountainCarTask, mountain_car
from jaxmeta.tasks.classic_control.pendulum import PendulumConfig, PendulumTask, pendulum
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, fixed
from jaxmeta.tasks.several import several


class _Kind(NamedTuple):
    factory: Callable[[Any], TaskFamily]
    config: type[PhysicsConfig]
    parameters: type


KINDS = {
    "acrobot": _Kind(acrobot, AcrobotConfig, AcrobotTask),
    "cart-pole": _Kind(cart_pole, CartPoleConfig, CartPoleTask),
    "cart-pole-swing-up": _Kind(cart_pole_swing_up, CartPoleSwingUpConfig, CartPoleSwingUpTask),
    "mountain-car": _Kind(mountain_car, MountainCarConfig, MountainCarTask),
    "pendulum": _Kind(pendulum, PendulumConfig, PendulumTask),
}
Name = Literal["acrobot", "cart-pole", "cart-pole-swing-up", "mountain-car", "pendulum"]


@dataclasses.dataclass(frozen=True)
class ClassicControlConfig:
    """`classic-control`: several kinds of classic control in one family, by default cart-pole and acrobot.

    Dynamics, reward, end and success are those of each kind; see the families `cart-pole`, `acrobot`, `mountain-car`,
    with discrete actions, or `pendulum` and `cart-pole-swing-up`, with continuous ones.
    Tasks: a kind drawn uniformly, with its standard physics or, with `vary`, physics drawn as in the kind's family.
    Horizon: 200 steps by default. Action: those of the kind with the most; others are masked, see `jm.tasks.several`.
    Observation: that of the kind, padded with zeros, and the mask. Without `reveal` the kind is hidden too.
    Training and held-out tasks have the same distribution.
    """

    kinds: tuple[Name, ...] = ("cart-pole", "acrobot")
    """Names of the kinds, all with discrete or all with continuous actions."""
    vary: bool = False
    """Whether physical parameters vary within a kind."""
    horizon: int = 200
    """Steps in an episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)
        if not self.kinds:
            raise ValueError(f"tasks.kinds is {self.kinds}; it needs at least one of {', '.join(KINDS)}")
        for name in self.kinds:
            if name not in KINDS:
                hint = checks.near_miss(name, KINDS, otherwise="it must be one of")
                raise ValueError(f"tasks.kinds has {name!r}; {hint}")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"tasks.kinds is {' '.join(self.kinds)}; name every kind once")


def classic_control(config: ClassicControlConfig = ClassicControlConfig()) -> TaskFamily:
    """Builds the family of several kinds.

    Raises:
      ValueError: if some kinds have discrete actions and some continuous ones.
    """
    return several(*(_family(KINDS[name], config) for name in config.kinds))


def _family(kind: _Kind, config: ClassicControlConfig) -> TaskFamily:
    own = kind.config(horizon=config.horizon, num_episodes=config.num_episodes)
    return kind.factory(own if config.vary else fixed(own, kind.parameters))
