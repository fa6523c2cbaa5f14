"""ε of the Poisson-subsampled Gaussian mechanism, by dp-accounting (extra `private`)."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.config import checks, extras

METHODS = ("rdp", "pld")


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    rounds: int,
    delta: float,
    method: Literal["rdp", "pld"] = "rdp",
) -> float:
    """Computes ε after several updates, for adding or removing one client.

        jm.privacy.epsilon(noise_multiplier=1.0, sampling_rate=0.01, rounds=1000, delta=1e-5)  # 2.101

    Args:
      noise_multiplier: σ, standard deviation of the noise on the sum of the clients' messages, divided by their maximum
        norm.
      sampling_rate: q, the probability that a client takes part in an update.
      rounds: number of updates.
      method: `rdp`, Rényi differential privacy (Mironov et al., 2019, arXiv:1908.10530), is fast; `pld`, the privacy
        loss distribution (Doroshenko et al., 2022, arXiv:2207.04380), is tighter.

    Raises:
      ValueError: if an argument is out of range.
      extras.MissingExtraError: if dp-accounting is not installed.
    """
    _check(noise_multiplier, sampling_rate)
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it must be above 0 and below 1")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; {checks.near_miss(str(method), METHODS)}")
    with _quiet():
        return float(_accountant(method, noise_multiplier, sampling_rate, rounds).get_epsilon(delta))


def rdp_of_update(noise_multiplier: float, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the Rényi divergence of one update, which adds up over updates.

    Returns:
      Orders [K], and the divergence at each, [K]; infinite at orders where it is not known.
    """
    _check(noise_multiplier, sampling_rate)
    with _quiet():
        accountant = _accountant("rdp", noise_multiplier, sampling_rate, 1)
    return accountant.orders, accountant.rdp


class Accountant(NamedTuple):
    """Computes (ε, δ) after any number of updates, inside a program as well."""

    orders: np.ndarray
    """[K]."""
    rdp: np.ndarray
    """Rényi divergence of one update at each order, [K]."""
    delta: float
    """δ of the mechanism without overflow."""
    overflow: float = 0.0
    """Probability per update that more clients come than there are places for, some of which are then left out."""

    @classmethod
    def of(cls, noise_multiplier: float, sampling_rate: float, delta: float, overflow: float = 0.0) -> Accountant:
        """Builds it; arguments and errors are those of `epsilon`."""
        return cls(*rdp_of_update(noise_multiplier, sampling_rate), delta, overflow)

    def after(self, updates: Any) -> tuple[jax.Array, jax.Array]:
        """Returns ε and δ after some updates, scalars.

        ε is by Proposition 12 of arXiv:2004.00010. δ includes the overflow: each update differs from Poisson sampling
        with probability p, which costs (1 + e^ε) p.
        """
        usable = (self.orders > 1.01) & np.isfinite(self.rdp)
        orders, rdp = self.orders[usable], self.rdp[usable]
        constant = np.log1p(-1.0 / orders) - np.log(self.delta * orders) / (orders - 1.0)
        spent = jnp.maximum(jnp.min(updates * jnp.asarray(rdp, jnp.float32) + jnp.asarray(constant, jnp.float32)), 0.0)
        return spent, self.delta + (1.0 + jnp.exp(spent)) * updates * self.overflow


def _check(noise_multiplier: float, sampling_rate: float) -> None:
    if not (noise_multiplier > 0 and math.isfinite(noise_multiplier)):
        why = "without noise there is no ε, " if noise_multiplier == 0 else ""
        raise ValueError(f"noise_multiplier is {noise_multiplier}; {why}it must be positive")
    if not 0 < sampling_rate <= 1:
        raise ValueError(f"sampling_rate is {sampling_rate}; it must be above 0 and at most 1")


def _accountant(method: str, noise_multiplier: float, sampling_rate: float, rounds: int) -> Any:
    """Composes the updates in an accountant of dp-accounting."""
    dp = extras.load("dp_accounting", "private")
    update = dp.PoissonSampledDpEvent(sampling_rate, dp.GaussianDpEvent(noise_multiplier))
    if method == "rdp":
        accountant = extras.load("dp_accounting.rdp", "private").RdpAccountant()
    else:
        accountant = extras.load("dp_accounting.pld", "private").PLDAccountant()
    return accountant.compose(dp.SelfComposedDpEvent(update, rounds))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings about single orders whose divergence did not converge: they are left out."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
