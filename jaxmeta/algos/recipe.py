"""What is checked whenever an algorithm is built: its task family, by tracing alone, and the type of its config."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from jaxmeta.config import settings
from jaxmeta.core import contracts
from jaxmeta.core.learner import MetaLearner

Build = TypeVar("Build", bound=Callable[..., MetaLearner])


def recipe(build: Build) -> Build:
    """Lets an algorithm, a function of `family` and `config`, check its arguments before it builds anything.

    Raises:
      TypeError: if the family is no `TaskFamily`, or the config is that of another algorithm.
      contracts.ContractError: if the family does not hold what the engine relies on; see `contracts.check_forms`.
    """
    signature = inspect.signature(build)
    right = type(signature.parameters["config"].default)

    @settings.standard()
    @functools.wraps(build)
    def checked(*arguments: Any, **named: Any) -> MetaLearner:
        given = signature.bind(*arguments, **named)
        given.apply_defaults()
        check_family(build.__name__, given.arguments["family"])
        config = given.arguments["config"]
        if isinstance(config, type):
            raise TypeError(f"config is the class {config.__name__}; {build.__name__} takes a {right.__name__}()")
        if not isinstance(config, right):
            raise TypeError(f"config is a {type(config).__name__}; {build.__name__} takes a {right.__name__}")
        contracts.check_forms(given.arguments["family"])
        return build(*arguments, **named)

    return checked  # pyright: ignore[reportReturnType]  it has the signature of what it wraps


def check_family(name: str, family: Any) -> None:
    """Raises a TypeError where an algorithm of this name is given something else than a task family."""
    if hasattr(family, "env") and hasattr(family, "sample"):
        return
    if isinstance(family, type) or not hasattr(family, "step"):
        kind = f"the class {family.__name__}" if isinstance(family, type) else f"a {type(family).__name__}"
        raise TypeError(f"family is {kind}; {name} takes a TaskFamily")
    remedy = "(try jm.TaskFamily(env, sample, sample_test, encode))"
    raise TypeError(f"family is a {type(family).__name__}, an environment; {name} takes a TaskFamily {remedy}")
