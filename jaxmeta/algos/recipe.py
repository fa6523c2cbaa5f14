"""What recipes share: the checks of family and config whenever one is built, and the most common meta-update."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from jaxmeta import inner, outer
from jaxmeta.config import settings
from jaxmeta.core import contracts
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot
from jaxmeta.types import Plan

Build = TypeVar("Build", bound=Callable[..., MetaLearner])


@overload
def recipe(build: Build) -> Build: ...


@overload
def recipe(*, supervised: type) -> Callable[[Build], Build]: ...


def recipe(build: Callable[..., MetaLearner] | None = None, *, supervised: type | None = None) -> Any:
    """Decorates an algorithm, a function of `family` and `config`, to check its arguments before it builds anything.

    Args:
      supervised: config class for supervised tasks, if the algorithm takes both kinds of families.

    Raises:
      TypeError: if the family is not a `TaskFamily`, or the config belongs to another algorithm.
      ValueError: if the config is for the other kind of family.
      contracts.ContractError: if the family violates its contract; see `contracts.check_forms`.
    """
    if build is None:
        return functools.partial(_checked, supervised=supervised)
    return _checked(build, supervised)


def _checked(build: Callable[..., MetaLearner], supervised: type | None) -> Callable[..., MetaLearner]:
    signature = inspect.signature(build)
    by_kind = {False: type(signature.parameters["config"].default)}
    by_kind[True] = supervised or by_kind[False]

    @settings.standard()
    @functools.wraps(build)
    def checked(*arguments: Any, **named: Any) -> MetaLearner:
        given = signature.bind(*arguments, **named).arguments
        check_family(build.__name__, family := given["family"])
        right = by_kind[isinstance(family.env, FewShot)]
        config = given.get("config", right())
        _check_config(build.__name__, family, config, right, (*by_kind.values(),))
        contracts.check_forms(family)
        rest = {name: value for name, value in given.items() if name not in ("family", "config")}
        return build(family, config, **rest)

    return checked


def _check_config(name: str, family: Any, config: Any, right: type, known: tuple[type, ...]) -> None:
    """Raises an error if a config does not belong to the algorithm and the kind of family."""
    if isinstance(config, right):
        return
    if isinstance(config, type):
        raise TypeError(f"config is the class {config.__name__}; {name} takes a {right.__name__}()")
    if isinstance(config, known):
        on = f"on tasks of {type(family.env).__name__} it must be a {right.__name__}"
        raise ValueError(f"config is a {type(config).__name__}; {on}")
    raise TypeError(f"config is a {type(config).__name__}; {name} takes a {right.__name__}")


def on_fresh_trials(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    improve: outer.Improve,
    num_tasks: int,
    minibatches: int = 1,
    normalize_observations: bool = False,
) -> MetaLearner:
    """Builds a meta-learner that samples tasks uniformly and learns from one fresh trial on each.

    Args:
      minibatches: minibatches that `improve` splits the tasks of an update into; the tasks of a minibatch are sharded
        over the devices.
      normalize_observations: whether the agent receives observations normalised by running statistics.
    """
    if normalize_observations:
        learner, improve = inner.normalised(learner, family.env.spec), outer.with_statistics(improve)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.fresh(learner, family, plan),
        improve,
        outer.Info(num_tasks, plan, spread=num_tasks // minibatches),
    )


def check_family(name: str, family: Any) -> None:
    """Raises a TypeError if `family` is not a `TaskFamily`; `name` is the algorithm's, for the message."""
    if hasattr(family, "env") and hasattr(family, "sample"):
        return
    if isinstance(family, type) or not hasattr(family, "step"):
        kind = f"the class {family.__name__}" if isinstance(family, type) else f"a {type(family).__name__}"
        raise TypeError(f"family is {kind}; {name} takes a TaskFamily")
    remedy = "(try jm.TaskFamily(env, sample, sample_test, encode))"
    raise TypeError(f"family is a {type(family).__name__}, an environment; {name} takes a TaskFamily {remedy}")
