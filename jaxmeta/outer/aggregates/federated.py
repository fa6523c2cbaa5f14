"""The mean over the clients of federated learning: clipped, with a fixed divisor, and with noise if it is private."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.outer.aggregates.base import Gradient, Loss, common_key
from jaxmeta.outer.aggregates.private import PrivateConfig, with_noise
from jaxmeta.outer.meta_update import Batch
from jaxmeta.types import Array, Key, Metrics, Params

NOISE = 0x6E6F6973
"""Separates the key of the noise from those of the first client's loss."""


class _Tasks(NamedTuple):
    """The tasks of one client, leaves [G, ...]."""

    data: Any
    keys: Key
    weight: Array


@dataclasses.dataclass(frozen=True)
class FederatedMean:
    """An aggregate: the sum of the clients' messages, divided by the expected number of participants.

    A client's message is the gradient of its loss, multiplied by its weight and then clipped to norm C. A client whose
    message is non-finite counts as zero. Divisor and noise do not depend on the clients, so that whatever one of them
    sends changes the mean by at most 2 C / n. With noise, every entry of the mean gets Gaussian noise of standard
    deviation σ C / n, drawn once and identical on all devices.

    Metrics are means over the clients with a finite message, with `clipped`, the share of clipped ones, and
    `nonfinite_tasks/gradient`, the number of non-finite ones. With noise there are none, and the loss is 0: they would
    release data of the clients without noise.
    """

    expected: float
    """n, the expected number of participants."""
    private: PrivateConfig = PrivateConfig()
    """Clipping and noise."""
    tasks: int = 1
    """Tasks of each client, neighbours in the batch; its loss is their weighted mean."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "expected")
        checks.at_least_one(self, "tasks")

    @property
    def is_private(self) -> bool:
        """Whether there is noise."""
        return self.private.is_private

    def __call__(self, loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        """Computes the mean; see `Aggregate`."""
        clip = self.private.clip
        if self.tasks > 1:
            loss, batch, piece = _by_client(loss, batch, piece, self.tasks)

        def of_one(one: Batch) -> Any:
            (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, one.data, one.keys)
            # weighted before it is clipped: no weight can make a message longer than C
            message = jax.tree.map(lambda leaf: leaf * one.weight, gradient)
            norm = optax.global_norm(message)
            finite = guard.is_finite((value, metrics, norm))
            if clip is not None:
                scale = jnp.minimum(1.0, clip / norm)
                message = jax.tree.map(lambda leaf: leaf * scale, message)
                metrics = metrics | {"clipped": (norm > clip).astype(jnp.float32)}
            value, metrics = jax.tree.map(lambda leaf: leaf * one.weight, (value, metrics))
            nonfinite = (~finite & (one.weight > 0)).astype(jnp.float32)
            return guard.zero_unless(finite, (value, metrics, message)), finite * one.weight, nonfinite

        def of_some(some: Batch) -> Any:
            output, keep, nonfinite = jax.vmap(of_one)(some)
            return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), (output, keep, nonfinite)), keep

        means, keep = devices.mean_and_each(of_some, batch, piece)
        (output, share, nonfinite), before = devices.task_mean((means, jnp.mean(batch.weight)))
        value, metrics, gradient = output
        places = batch.weight.size * devices.num_devices()
        gradient = jax.tree.map(lambda leaf: leaf * (places / self.expected), gradient)
        weight = jnp.repeat(keep, self.tasks)
        if self.is_private:
            gradient = with_noise(gradient, common_key(batch.keys, NOISE), self.private.deviation(self.expected))
            return Gradient(jnp.zeros(()), gradient, {}, weight)
        # without participants there is nothing to report; if all of them were non-finite, the update is skipped
        share = jnp.where(share > 0, share, jnp.where(before > 0, jnp.nan, 1.0))
        value, metrics = jax.tree.map(lambda leaf: leaf / share, (value, metrics))
        return Gradient(value, gradient, metrics | {guard.NONFINITE + "gradient": nonfinite * places}, weight)


def _by_client(loss: Loss, batch: Batch, piece: int | None, tasks: int) -> tuple[Loss, Batch, int | None]:
    """Groups the tasks of a batch by client.

    Returns:
      The loss of a client, the batch of clients, and the clients that one device differentiates in parallel.
    """
    size = batch.weight.size
    if size % tasks:
        raise ValueError(f"tasks is {tasks}; it must divide the batch of a device, which has {size} tasks")
    grouped = jax.tree.map(lambda leaf: leaf.reshape(size // tasks, tasks, *leaf.shape[1:]), batch)

    def of_client(params: Params, some: _Tasks, key: Key) -> tuple[Array, Metrics]:
        each = jax.vmap(loss, (None, 0, 0))(params, some.data, some.keys)
        return jax.tree.map(lambda leaf: jnp.mean(leaf * some.weight), each)

    weight = (jnp.max(grouped.weight, axis=1) > 0).astype(jnp.float32)
    clients = Batch(_Tasks(grouped.data, grouped.keys, grouped.weight), grouped.keys[:, 0], weight)
    return of_client, clients, None if piece is None else max(1, piece // tasks)
