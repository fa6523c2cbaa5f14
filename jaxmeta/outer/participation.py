"""Which clients take part in an update of federated meta-training. A client has one task, or several of its own."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.outer.meta_update import Draw, Sampler
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Task

OVERFLOW = 1e-18
"""Largest probability that more clients come to an update than it has places for."""


@dataclasses.dataclass(frozen=True)
class ClientsConfig:
    """The clients of federated meta-training."""

    number: int = 1000
    """M, the number of clients, each with its own tasks from the training distribution. With a finite set of training
    tasks it is ignored: neighbours in the set are the tasks of one client."""
    tasks: int = 1
    """Tasks of each client."""
    participation: Literal["fixed", "poisson"] = "fixed"
    """Which clients take part in an update. `fixed`: n of M, without replacement; all of them, in order, if n = M.
    `poisson`: each independently with probability n / M, which privacy accounting requires."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "number", "tasks")


def num_clients(family: TaskFamily, config: ClientsConfig) -> int:
    """Returns M, the number of clients.

    Raises:
      ValueError: if the family has a finite set of training tasks whose size is not a multiple of `config.tasks`.
    """
    if family.train_tasks is None:
        return config.number
    size = jax.tree.leaves(family.train_tasks)[0].shape[0]
    if size % config.tasks:
        raise ValueError(f"clients.tasks is {config.tasks}; it must divide the training tasks, which are {size}")
    return size // config.tasks


def places(total: int, per_update: int, config: ClientsConfig) -> int:
    """Returns how many clients an update has places for.

    With Poisson participation the number of those that come is random, while the program has a fixed size. It has so
    many places that they are too few with a probability of at most `OVERFLOW`; empty ones have weight zero.

    Args:
      total: M, the number of clients.
      per_update: n, the expected number of participants.

    Raises:
      ValueError: if there are fewer clients than participants.
    """
    if per_update > total:
        raise ValueError(f"num_tasks is {per_update}; an update cannot have more clients than there are, {total}")
    if config.participation == "fixed" or per_update == total:
        return per_update
    from scipy import stats

    # by Bernstein's inequality, the last of these is exceeded with a probability below e^-100
    sizes = np.arange(per_update, per_update + 20 * int(np.sqrt(per_update)) + 100)
    enough = sizes[stats.binom.sf(sizes, total, per_update / total) <= OVERFLOW][0]
    return min(total, -(-int(enough) // devices.PARTS) * devices.PARTS)


def overflow(total: int, per_update: int, config: ClientsConfig) -> float:
    """Returns the probability that more clients come to an update than there are places for; see `participation`."""
    size = places(total, per_update, config)
    if config.participation == "fixed" or size == total:
        return 0.0
    from scipy import stats

    return float(stats.binom.sf(size, total, per_update / total))


def participation(
    family: TaskFamily, per_update: int, message_bytes: int, config: ClientsConfig, *, is_private: bool = False
) -> Sampler:
    """Samples the clients that take part in an update, and counts the bytes that they exchange with the server.

    An update has `places(...)` clients; the tasks of a client are neighbours. Those in empty places have weight zero.
    If more come than there are places for, a uniformly random subset of them takes part.

    Metrics are `participants`, `bytes_down` (params) and `bytes_up` (messages). Who takes part is part of what privacy
    protects, so with `is_private` their expected number is logged instead of the actual one.

    Args:
      family: if it has a finite set of training tasks, they are the tasks of the clients; else every client samples
        its own from the distribution, always the same.
      per_update: n, the expected number of participants.
      message_bytes: size of the params, and so of a message.

    Raises:
      ValueError: if there are fewer clients than participants.
    """
    known, each = family.train_tasks, config.tasks
    total = num_clients(family, config)
    size, rate = places(total, per_update, config), per_update / total

    def init(key: Key) -> Any:
        return () if known is not None else jax.random.key_data(key)

    def choose(key: Key) -> tuple[Array, Array]:
        """Returns the clients in the places of an update, and the weight of each."""
        if per_update == total:
            return jnp.arange(total), jnp.ones(total)
        if config.participation == "fixed":
            return jax.random.choice(key, total, (size,), replace=False), jnp.ones(size)
        draws, chosen = jax.lax.top_k(-jax.random.uniform(key, (total,)), size)
        return chosen, (-draws < rate).astype(jnp.float32)

    def sample(state: Any, params: Params, keys: Key) -> tuple[Any, Draw]:
        if len(keys) != size * each:
            raise ValueError(f"num_tasks is {len(keys)}; {size} clients with {each} tasks each need {size * each}")
        clients, weight = choose(keys[0])
        slot = (clients[:, None] * each + jnp.arange(each)).reshape(-1)
        return state, Draw(tasks_at(state, slot), slot, jnp.repeat(weight, each))

    def tasks_at(state: Any, slot: Array) -> Task:
        if known is not None:
            return jax.tree.map(lambda leaf: leaf[slot], known)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.wrap_key_data(state), slot)
        return devices.map_tasks(family.sample, keys)

    def update(state: Any, draw: Draw, scores: Array, finite: Array) -> tuple[Any, Metrics]:
        count = jnp.float32(per_update) if is_private else jnp.sum(draw.weight > 0, dtype=jnp.float32) / each
        moved = count * message_bytes
        return state, {"participants": count, "bytes_down": moved, "bytes_up": moved}

    essential = "every update visits the clients that participate"
    return Sampler(init, sample, lambda params, outcome: jnp.zeros(()), update, essential=essential)
