"""Inner loops: how an agent adapts to one task."""

from jaxmeta.inner.gradient import GradientFast, GradientParams, gradient
from jaxmeta.inner.memory import memory
from jaxmeta.inner.updaters import Updater, first_order, sgd

__all__ = ["GradientFast", "GradientParams", "Updater", "first_order", "gradient", "memory", "sgd"]
