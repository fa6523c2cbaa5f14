"""Warm starts: a new task is adapted to from the adapted state of the most similar known task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from jaxmeta.core.contracts import require, same_form
from jaxmeta.core.learner import Learner
from jaxmeta.types import Array, Carry, Fast, Input, Key, Output, Params, Rollout, Task


class Similarity(NamedTuple):
    """A measure of how alike two tasks are: each task is described once, and descriptions are compared in pairs."""

    name: str
    describe: Callable[[Params, Rollout, Key], Array]
    """(params, data, key) -> the description of one task, [D]. Data is one round of the task's experience, leaves
    [T, E, ...], or something else as `data` says. Sampling the data is up to the caller."""
    compare: Callable[[Array, Array], Array]
    """(a [D], b [D]) -> scalar, symmetric, larger where the tasks are more alike. It decreases with the Euclidean
    distance of a and b, so that descriptions are also an embedding of tasks."""
    data: Literal["round", "trial"] = "round"
    """What is described: one round of experience, or whatever the loss of `similarity.meta_gradients` takes."""

    def require_rounds(self) -> None:
        """Raises a ValueError unless tasks are described by one round of experience."""
        if self.data != "round":
            raise ValueError(
                f"similarity is {self.name!r}, which describes whole trials; here a task is described by its first"
                " round (try similarity.adaptation_steps)"
            )


class Library(struct.PyTreeNode):
    """Known tasks, and what an agent adapted to on each; see `similarity.library`."""

    tasks: Task
    """Leaves [N, ...]."""
    fast: Fast
    """The agent's adapted state on each task, leaves [N, ...]."""
    descriptions: Array
    """[N, D], see `Similarity.describe`."""
    similarity: str = struct.field(pytree_node=False)
    """Name of the similarity of the descriptions."""

    @property
    def size(self) -> int:
        """Number of known tasks, N."""
        return self.descriptions.shape[0]

    def most_similar(self, similarity: Similarity, description: Array) -> Array:
        """Returns the index of the most similar known task, int32 scalar; an undefined similarity counts as lowest."""
        alike = jax.vmap(similarity.compare, (None, 0))(description, self.descriptions)
        return jnp.argmax(jnp.where(jnp.isnan(alike), -jnp.inf, alike)).astype(jnp.int32)

    def entry(self, index: Array) -> Fast:
        """Returns the adapted state of one known task."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self.fast)


class WarmFast(struct.PyTreeNode):
    """The state of an agent with a warm start on one task."""

    fast: Fast
    """The agent's own state."""
    rounds: Array
    """Adaptations so far, int32 scalar."""
    entry: Array
    """Index of the known task that the adaptation started from, int32 scalar; -1 before the first adaptation."""


def warm_start(learner: Learner, library: Library, similarity: Similarity, first_step: bool = True) -> Learner:
    """Builds an agent whose first adaptation starts from the adapted state of the most similar known task.

        known = jax.vmap(family.sample)(jax.random.split(key, 64))
        alike = similarity.adaptation_steps(learner)
        library = similarity.library(learner, params, family.env, known, key, Plan(rounds=3, streams=20), alike)
        warm = inner.warm_start(learner, library, alike)

    The first round is collected with the agent's usual initial state. The first adaptation describes the task from that
    round, takes the adapted state of the most similar entry of the library, and does from there the learner's usual
    adaptation to the same round. Later adaptations are the usual ones. The choice of the entry has no gradient.

    The library is part of the program, and it belongs to the params that it was built with: build it again after
    further meta-training.

    Args:
      library: of the same learner and similarity.
      first_step: whether the first adaptation also takes the learner's step, or ends at the entry itself. A policy
        gradient needs experience of the policy that it improves, and the first round is not of the entry's policy:
        where the two policies differ much, False is better, and the next round is of the entry's policy.

    Raises:
      ValueError: if the library is empty, or belongs to another learner or similarity. At the first trace also if the
        descriptions of the library have another size than those of the task.
    """
    similarity.require_rounds()
    _check_library(learner, library, similarity)
    library = as_constants(library)

    def start(params: Params, key: Key) -> WarmFast:
        return WarmFast(learner.start(params, key), rounds=jnp.zeros((), jnp.int32), entry=jnp.int32(-1))

    def reset(params: Params, fast: WarmFast, key: Key) -> Carry:
        return learner.reset(params, fast.fast, key)

    def act(params: Params, fast: WarmFast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        return learner.act(params, fast.fast, carry, inputs)

    def adapt(params: Params, fast: WarmFast, experience: Rollout, key: Key) -> WarmFast:
        def from_library() -> tuple[Fast, Array]:
            constant = jax.lax.stop_gradient((params, experience))
            description = similarity.describe(*constant, jax.random.fold_in(key, 1))
            same_form("the description of the task", description, "that of a known task", library.descriptions[0])
            entry = library.most_similar(similarity, description)
            return library.entry(entry), entry

        begin, entry = jax.lax.cond(fast.rounds == 0, from_library, lambda: (fast.fast, fast.entry))
        adapted = learner.adapt(params, begin, experience, key)
        if not first_step:
            adapted = jax.tree.map(lambda start, end: jnp.where(fast.rounds == 0, start, end), begin, adapted)
        return WarmFast(adapted, fast.rounds + 1, entry)

    def unroll(params: Params, fast: WarmFast, carry: Carry, experience: Rollout) -> Output:
        assert learner.unroll is not None
        return learner.unroll(params, fast.fast, carry, experience)

    return learner._replace(
        start=start, reset=reset, act=act, adapt=adapt, unroll=unroll if learner.unroll is not None else None
    )


def as_constants(tree: Any) -> Any:
    """Returns arrays as numpy arrays, which a program on any devices can contain; keys and tracers stay as they are."""

    def constant(leaf: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key or isinstance(leaf, Tracer) else np.asarray(leaf)

    return jax.tree.map(constant, tree)


def _check_library(learner: Learner, library: Library, similarity: Similarity) -> None:
    """Raises a ValueError unless a library belongs to a learner and a similarity, and has an entry."""
    if library.similarity != similarity.name:
        raise ValueError(f"similarity is {similarity.name!r}; the library was described by {library.similarity!r}")
    if library.size == 0:
        raise ValueError("library has 0 known tasks; a warm start needs at least 1")
    key = jax.random.key(0)
    mine = jax.eval_shape(lambda key: learner.start(learner.init(key), key), key)
    require(bool(jax.tree.leaves(mine)), "the learner has no state that adapts between rounds; a warm start needs one")
    entry = jax.eval_shape(lambda library: library.entry(0), library)
    same_form("an entry of the library", entry, "the state of the learner", mine)
