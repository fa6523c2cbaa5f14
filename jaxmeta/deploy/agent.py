"""An agent that acts in environments outside of JAX, one step at a time, with NumPy arrays.

This file needs NumPy and JAX alone: `jaxmeta export` puts a copy of it beside the programs that it writes.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

FORMAT = 1
MANIFEST, SUFFIX = "agent.json", ".bin"
Arrays = list[Any]


class Programs(NamedTuple):
    """The compiled functions of an agent. They take and return lists of arrays; `key` is uint32 [2], `count` a number.

    Random numbers depend on both, so that no two calls draw the same.
    """

    start: Callable[..., Arrays]
    """(key, count) -> what the agent keeps for one task."""
    reset: Callable[..., tuple[Arrays, Any]]
    """(fast, key, count) -> (what it remembers in one stream of episodes, the key of the stream [2])."""
    act: Callable[..., tuple[Arrays, Any, Arrays]]
    """(fast, carry, inputs, key, count) -> (carry, action, output)."""
    adapt: Callable[..., Arrays] | None
    """(fast, experience, key, count) -> fast; None for an agent that adapts by memory alone."""


class Form(NamedTuple):
    """What an agent observes and does."""

    observation: list[tuple[list[int], str]]
    """Shape and dtype of each array of an observation, in the order of `jax.tree.leaves`."""
    action: tuple[list[int], str]
    limit: float | None
    """Continuous actions beyond [-limit, limit] were clipped by the environment in training."""
    horizon: int
    """Steps of an episode."""
    streams: int
    """Streams of episodes in a round; the agent remembers within a stream, and adapts after a round."""
    episodes: int
    """Episodes of a stream."""


class Agent:
    """Acts on one task after another.

        agent.reset(task_begins=True)
        action = agent.act(obs)                  # at the start of an episode
        action = agent.act(obs, reward)          # after each step
        agent.act(obs, reward, done=True)        # after the last step; returns None
        agent.adapt()                            # after a round, if the agent adapts between rounds

    A round is `form.streams` streams of `form.episodes` episodes. An agent that adapts by memory has a single stream,
    which lasts until the next `reset`; the others begin a new stream by themselves when one is complete.

    Args:
      seed: decides all random numbers of the agent, such as sampled actions.
    """

    def __init__(self, programs: Programs, form: Form, seed: int = 0):
        self.form, self._programs = form, programs
        self._key, self._count = np.asarray(jax.random.key_data(jax.random.key(seed))), 0
        self._fast: Arrays | None = None
        self._round: collections.deque[_Stream] = collections.deque(maxlen=form.streams)
        self._stream: _Stream | None = None

    @property
    def adapts(self) -> bool:
        """Whether the agent adapts between rounds, by `adapt`."""
        return self._programs.adapt is not None

    def reset(self, task_begins: bool = True) -> None:
        """Begins a new stream of episodes: what the agent remembers of the last one is gone.

        Args:
          task_begins: whether the task is new too; then what the agent learned by `adapt` is gone as well.
        """
        if task_begins or self._fast is None:
            self._fast = self._programs.start(self._key, self._next())
            self._round.clear()
        self._stream = None

    def act(self, obs: Any, reward: float | None = None, done: bool = False, terminated: bool | None = None) -> Any:
        """Takes in what the environment returned, and returns the next action.

        Args:
          obs: an observation as in training.
          reward: the reward of the last action; None at the start of an episode, and only there.
          done: whether the episode is over; `obs` is then its final observation.
          terminated: whether the environment ended the episode, and not a time limit; by default an episode that is
            over before the horizon. It matters to agents that bootstrap.

        Returns:
          The action, a NumPy array or number; None if the episode is over.

        Raises:
          ValueError: if an argument has another form than in training, or does not fit the course of the episode.
        """
        if self._fast is None:
            raise ValueError("no task has begun; call reset(task_begins=True) first")
        stream, leaves = self._open_stream(starts=reward is None), self._checked(obs)
        if reward is None:
            if done:
                raise ValueError("done is True without a reward; give the reward of the last action")
            stream.begin_episode(leaves)
        else:
            if not np.isfinite(reward):
                raise ValueError(f"reward is {reward}; it must be a finite number")
            stream.observe(leaves, float(reward), bool(done), terminated)
            if done:
                if self.adapts and stream.episodes == self.form.episodes:
                    self._round.append(stream)
                return None
        stream.carry, action, output = self._programs.act(
            self._fast, stream.carry, stream.inputs, self._key, self._next()
        )
        stream.decide(np.asarray(action), output)
        return stream.action[()]

    def adapt(self) -> None:
        """Adapts to the last round.

        Raises:
          ValueError: if the agent has nothing to adapt, or the round is not complete.
        """
        if self._programs.adapt is None:
            raise ValueError("this agent adapts by memory, in act; it has nothing to adapt between rounds")
        found, needed = len(self._round), self.form.streams
        if found < needed:
            raise ValueError(
                f"the round has {found} of {needed} streams of {self.form.episodes} episodes; act in the others first"
            )
        keys, *steps = zip(*(stream.experience() for stream in self._round), strict=True)
        experience = [np.stack(keys), *(np.stack(leaves, axis=1) for leaves in steps)]
        self._fast = self._programs.adapt(self._fast, experience, self._key, self._next())
        self._round.clear()
        self._stream = None

    def _next(self) -> np.uint32:
        self._count += 1
        return np.uint32(self._count)

    def _open_stream(self, starts: bool) -> _Stream:
        """Returns the stream that goes on; a new one if there is none or, between rounds, if it is complete."""
        stream = self._stream
        complete = stream is not None and self.adapts and stream.episodes == self.form.episodes and not stream.running
        if stream is None or complete:
            if not starts:
                raise ValueError("reward is given, but no episode has begun; call act(obs) at its start")
            assert self._fast is not None
            carry, key = self._programs.reset(self._fast, self._key, self._next())
            stream = self._stream = _Stream(self.form, carry, np.asarray(key), keep=self.adapts)
        elif starts == stream.running:
            why = "reward is missing: an episode goes on" if starts else "reward is given, but the episode is over"
            raise ValueError(f"{why}; call act(obs) at the start of an episode and act(obs, reward) within it")
        return stream

    def _checked(self, obs: Any) -> Arrays:
        """Returns the arrays of an observation in the dtypes of training."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(obs)]
        found, expected = [list(leaf.shape) for leaf in leaves], [shape for shape, _ in self.form.observation]
        if found != expected:
            raise ValueError(f"obs has arrays of shape {found}; the agent observes {expected}")
        for leaf in leaves:
            if not (finite := np.isfinite(leaf)).all():
                raise ValueError(f"obs has {leaf[~finite].flat[0]}; all its numbers must be finite")
        return [leaf.astype(dtype) for leaf, (_, dtype) in zip(leaves, self.form.observation, strict=True)]


class _Stream:
    """One stream of episodes: what the policy receives next and, for agents that adapt to it, all that happened."""

    def __init__(self, form: Form, carry: Arrays, key: np.ndarray, keep: bool):
        self.form, self.carry, self.key, self.keep = form, carry, key, keep
        self.episodes, self.steps, self.running = 0, 0, False
        blank = [np.zeros(shape, dtype) for shape, dtype in form.observation]
        self.obs, self.next_obs = blank, blank
        self.action = np.zeros(*form.action)
        self.previous = [np.float32(0.0), np.float32(0.0), np.float32(1.0)]
        """Previous reward, whether it ended an episode, and whether there was no previous step."""
        self.inputs: Arrays = []
        self.output: Arrays = []
        self.rows: list[Arrays] = []

    def begin_episode(self, obs: Arrays) -> None:
        self.obs, self.steps, self.running = obs, 0, True
        self._refresh()

    def observe(self, obs: Arrays, reward: float, done: bool, terminated: bool | None) -> None:
        """Takes in the transition that the last action led to."""
        self.steps += 1
        if self.keep and self.steps == self.form.horizon and not done:
            raise ValueError(f"done is False after {self.steps} steps; an episode of this agent has no more")
        if terminated is None:
            terminated = done and self.steps < self.form.horizon
        flags = [np.float32(flag) for flag in (1.0, done, terminated)]
        row = [*self.inputs, self.action, *obs, np.float32(reward), *flags, *self.output]
        self.obs, self.next_obs, self.previous = obs, obs, [np.float32(reward), flags[1], np.float32(0.0)]
        self._refresh()
        if self.keep:
            self.rows.append(row)
        if done:
            self.running = False
            self.episodes += 1
            if self.keep:
                # nothing after the end is valid: reward, valid, done and terminated are zero
                flat = [np.float32(0.0)] * 4
                padding = [*self.inputs, self.action, *obs, *flat, *self.output]
                self.rows += [padding] * (self.form.horizon - self.steps)

    def decide(self, action: np.ndarray, output: Arrays) -> None:
        """Notes the action."""
        self.action, self.output = action, output

    def experience(self) -> Arrays:
        """Returns the key of the stream [2] and all steps, leaves [T, ...]."""
        rows = jax.device_get(self.rows)
        return [self.key, *(np.stack(leaves) for leaves in zip(*rows, strict=True))]

    def _refresh(self) -> None:
        self.inputs = [*self.obs, self.action, *self.previous[:2], *self.next_obs, self.previous[2]]


def load(folder: str | Path, seed: int = 0) -> Agent:
    """Loads an exported agent.

    Raises:
      ValueError: if the folder holds no agent, or one of another version.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} has no {MANIFEST}; give a folder that `jaxmeta export` wrote")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({error}); export the run again") from None
    if manifest.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / MANIFEST} has another format than {FORMAT}; export the run again")
    from jax import export

    files = {name: folder / f"{name}{SUFFIX}" for name in Programs._fields}
    programs = {
        name: jax.jit(export.deserialize(bytearray(file.read_bytes())).call) if file.is_file() else None
        for name, file in files.items()
    }
    return Agent(Programs(**programs), Form(**manifest), seed)  # pyright: ignore[reportArgumentType]
