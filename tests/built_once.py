"""Builds what has the same configuration once, so that several runs of it are traced and compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jaxmeta.experiment import registry, runs

BUILD, BUILD_FAMILY = runs.RunConfig.build, runs.RunConfig.build_family


def remembering() -> Iterator[None]:
    """A fixture of a module: `RunConfig.build` and `build_family` return what they have built before.

    Not for families of one's own, whose module may change. Runs that load others are built every time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.RunConfig, "build", _remembered(BUILD, _all_parts))
        patch.setattr(runs.RunConfig, "build_family", _remembered(BUILD_FAMILY, _tasks))
        yield


def built_anew() -> Callable[..., Any]:
    """Returns a `RunConfig.build` that remembers only what it builds itself, for tests that change what is built."""
    return _remembered(BUILD, _all_parts)


def _tasks(config: runs.RunConfig) -> tuple[Any, ...]:
    task_id = registry.observes_task_id(config.algo, config.algo_config)
    return config.tasks, config.tasks_config, config.reveal, task_id


def _all_parts(config: runs.RunConfig) -> tuple[Any, ...]:
    return config.algo, config.algo_config, config.sampler, config.sampler_config, *_tasks(config)


def _remembered(build: Callable[..., Any], key_of: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    known = {}

    def built(config):
        if config.expert is not None or config.library is not None:
            return build(config)
        key = key_of(config)
        if key not in known:
            known[key] = build(config)
        return known[key]

    return built
