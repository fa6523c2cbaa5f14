"""Demonstrations from and to datasets of Minari, the format of offline data of the Farama Foundation.

    dataset = to_minari(demonstrations, "navigation/expert-v0")
    demonstrations = from_minari("D4RL/pointmaze/open-v2", family.env.spec)

It needs the extra `minari`. Minari stores episodes, with no notion of a task: the task, stream and place of an episode
are kept in its metadata, so that demonstrations of jaxmeta survive the round trip, except keys and what invalid steps
hold. In a dataset without this metadata every episode is a task of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxmeta.config import extras
from jaxmeta.core.demonstrations import Demonstrations, DemonstrationsError
from jaxmeta.types import Continuous, Discrete, Input, Rollout, Spec

PLACE = ("task", "stream", "episode")
SUCCESS = "success"


def to_minari(demonstrations: Demonstrations, dataset_id: str, description: str = "") -> Any:
    """Writes demonstrations as a Minari dataset into Minari's folder, `MINARI_DATASETS_PATH`.

    Args:
      dataset_id: its name, such as `navigation/expert-v0`.
      description: who acted, for example; by default the source of the demonstrations.

    Returns:
      The `minari.MinariDataset`.

    Raises:
      MissingExtraError: if Minari is not installed.
      DemonstrationsError: if observations are not one array.
    """
    minari = extras.load("minari", "minari")
    form, rollouts = _observation(demonstrations.spec), demonstrations.rollouts
    buffers, places, horizon = [], [], demonstrations.spec.horizon
    for place in np.ndindex(demonstrations.num_tasks, demonstrations.streams, demonstrations.episodes):
        task, stream, episode = place
        start = episode * horizon
        length = int(np.sum(np.asarray(rollouts.valid)[task, start : start + horizon, stream]))
        of = lambda leaf, at=(task, slice(start, start + length), stream): np.asarray(leaf)[at]  # noqa: E731
        if not length:
            raise DemonstrationsError(f"episode {episode} of stream {stream} on task {task} has no valid step")
        terminated = of(rollouts.terminated) > 0
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=len(buffers),
                observations=np.concatenate([of(rollouts.inputs.obs), of(rollouts.next_obs)[-1:]]),
                actions=of(rollouts.action),
                rewards=of(rollouts.reward),
                terminations=terminated,
                truncations=(of(rollouts.done) > 0) & ~terminated,
                infos={SUCCESS: np.concatenate([[False], of(rollouts.success)])},
            )
        )
        places.append(dict(zip(PLACE, place, strict=True)))
    dataset = minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        observation_space=_box(form),
        action_space=_space(demonstrations.spec),
        description=description or demonstrations.source,
        data_format="hdf5",
        jpeg_encoding=False,
    )
    dataset.storage.update_episode_metadata(places)
    return dataset


def from_minari(dataset: Any, spec: Spec, family: str = "") -> Demonstrations:
    """Reads demonstrations from a Minari dataset; nothing is downloaded.

    Args:
      dataset: a `minari.MinariDataset`, or the id of one in Minari's folder.
      spec: of the environment, as the student observes it. Its horizon must be that of the longest episode, or more.
      family: name of the task family.

    Raises:
      MissingExtraError: if Minari is not installed.
      DemonstrationsError: if the dataset is missing or empty, does not fit the spec, or has not equally many streams
        and episodes of each task.
    """
    minari = extras.load("minari", "minari")
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except FileNotFoundError as error:
            raise DemonstrationsError(f"{dataset} is no dataset in Minari's folder: {error}") from None
    name = dataset.spec.dataset_id
    _observation(spec)
    stored = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    if not stored:
        raise DemonstrationsError(f"{name} is empty")
    known = all(part in one for one in stored for part in PLACE)
    numbers = [[int(one[part]) for part in PLACE] if known else [at, 0, 0] for at, one in enumerate(stored)]
    # some of the tasks may have been filtered out
    columns = [np.unique(column, return_inverse=True)[1] for column in np.array(numbers).T]
    places = [tuple(int(number) for number in place) for place in zip(*columns, strict=True)]
    shape = tuple(int(column.max()) + 1 for column in columns)
    if len(set(places)) != len(places) or np.prod(shape) != len(places):
        raise DemonstrationsError(
            f"{name} has {len(places)} episodes; it needs one of every task, stream and place in the stream"
        )
    episodes = dict(zip(places, dataset.iterate_episodes(), strict=True))
    streams = []
    for task, stream in np.ndindex(shape[:2]):
        before, parts = jax.tree.map(np.asarray, spec.example_input()).replace(first=np.float32(1.0)), []
        for episode in range(shape[2]):
            where = f"{name}: episode {episodes[task, stream, episode].id}"
            part, before = _padded(episodes[task, stream, episode], spec, before, where)
            parts.append(part)
        streams.append(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    rollouts = jax.tree.map(lambda *leaves: np.stack(leaves), *streams)  # [D x E, T, ...]
    grid = lambda leaf: np.moveaxis(leaf.reshape(*shape[:2], *leaf.shape[1:]), 1, 2)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), shape[:2])
    return Demonstrations.of(jax.tree.map(grid, rollouts).replace(reset_key=keys), spec, family, f"Minari: {name}")


def _padded(episode: Any, spec: Spec, before: Input, where: str) -> tuple[Rollout, Input]:
    """Makes a rollout [H, ...] of an episode, as `jm.rollout` would have stored it.

    Args:
      before: the input after the last step of the previous episode of the stream.

    Returns:
      The rollout without keys, and the input after its last step.
    """
    length, horizon = len(episode.rewards), spec.horizon
    example = jax.tree.map(np.asarray, spec.example_input())
    obs, action = (
        _checked(values, form, f"{where}, {what}")
        for what, values, form in (
            ("observations", episode.observations, example.obs),
            ("actions", episode.actions, example.prev_action),
        )
    )
    if not 1 <= length <= horizon or len(obs) != length + 1:
        raise DemonstrationsError(f"{where} has {length} steps; the tasks have episodes of 1 to {horizon}")
    if length < horizon and not spec.terminates:
        raise DemonstrationsError(f"{where} has {length} steps; the episodes of the tasks have {horizon}")
    if not isinstance(spec.action, Continuous):
        numbers = spec.action.num if isinstance(spec.action, Discrete) else np.array(spec.action.nums)
        if ((action < 0) | (action >= numbers)).any():
            raise DemonstrationsError(f"{where} has action {action.max()}; the tasks have {spec.action}")
    reward = _checked(episode.rewards, example.prev_reward, f"{where}, rewards")
    ended = (np.asarray(episode.terminations) | np.asarray(episode.truncations)).astype(np.float32)
    ended[-1] = 1.0
    inputs, after = _inputs(obs, action, reward, ended, before, horizon)
    valid = (np.arange(horizon) < length).astype(np.float32)
    step = np.minimum(np.arange(horizon), length - 1)
    happened = lambda values: (values[step] * valid).astype(np.float32)  # noqa: E731
    success = np.asarray((episode.infos or {}).get(SUCCESS, np.zeros(length, bool)), bool)[-length:]
    record: dict[str, Any] = {
        "inputs": inputs,
        "action": action[step],
        "next_obs": obs[1:][step],
        "reward": happened(reward),
        "valid": valid,
        "done": happened(ended),
        "terminated": happened(np.asarray(episode.terminations)),
        "output": (),
        "reset_key": (),
        "success": success[step] & (valid > 0),
        "fault": np.zeros(horizon, np.int8),
    }
    return Rollout(**record), after


def _inputs(
    obs: np.ndarray, action: np.ndarray, reward: np.ndarray, ended: np.ndarray, before: Input, horizon: int
) -> tuple[Input, Input]:
    """Returns the inputs of the policy at all steps of an episode, [H, ...], and the one after its last step.

    Args:
      obs: [L + 1, ...] for L steps. action, reward, ended: [L, ...].
      before: the input after the last step of the previous episode.
    """
    now = np.minimum(np.arange(horizon), len(reward))  # after the end, inputs are those after the last step
    last = np.maximum(now - 1, 0)
    begun = now > 0

    def previous(values: np.ndarray, earlier: Any) -> np.ndarray:
        return np.where(begun.reshape(-1, *[1] * (values.ndim - 1)), values[last], earlier).astype(values.dtype)

    steps: dict[str, Any] = {
        "obs": obs[now],
        "prev_action": previous(action, before.prev_action),
        "prev_reward": previous(reward, before.prev_reward),
        "prev_done": previous(ended, before.prev_done),
        "prev_next_obs": previous(obs[1:], before.prev_next_obs),
        "first": np.where(begun, np.float32(0.0), before.first).astype(np.float32),
    }
    after: dict[str, Any] = {
        "obs": obs[-1],
        "prev_action": action[-1],
        "prev_reward": reward[-1],
        "prev_done": np.float32(1.0),
        "prev_next_obs": obs[-1],
        "first": np.float32(0.0),
    }
    return Input(**steps), Input(**after)


def _checked(values: Any, form: np.ndarray, where: str) -> np.ndarray:
    """Returns values [T, ...] in the dtype of a form; raises a DemonstrationsError if they do not fit."""
    values = np.asarray(values)
    if values.shape[1:] != form.shape:
        raise DemonstrationsError(f"{where} have shape {list(values.shape[1:])}; the tasks have {list(form.shape)}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DemonstrationsError(f"{where} are not all finite")
    return values.astype(form.dtype)


def _observation(spec: Spec) -> Any:
    """Returns the form of the observation, which must be one array."""
    form = spec.observation_form()
    if not isinstance(form, jax.ShapeDtypeStruct):
        raise DemonstrationsError("spec.observation is not one array; Minari datasets are exchanged only with one")
    return form


def _box(form: Any) -> Any:
    """Returns the space of all observations of a form."""
    spaces = extras.load("gymnasium", "minari").spaces
    if np.issubdtype(form.dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, form.shape, form.dtype)
    if form.dtype == bool:
        return spaces.MultiBinary(form.shape)
    limits = np.iinfo(form.dtype)
    return spaces.Box(limits.min, limits.max, form.shape, form.dtype)


def _space(spec: Spec) -> Any:
    spaces, action = extras.load("gymnasium", "minari").spaces, spec.action
    if isinstance(action, Discrete):
        return spaces.Discrete(action.num, dtype=np.int32)
    if isinstance(action, Continuous):
        # not the limit: stored actions are those before clipping
        return spaces.Box(-np.inf, np.inf, (action.size,), np.float32)
    return spaces.MultiDiscrete(action.nums, dtype=np.int32)
