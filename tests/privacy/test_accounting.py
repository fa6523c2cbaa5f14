"""ε against published values and closed forms."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import optimize, stats

import jaxmeta as jm
from jaxmeta import privacy
from jaxmeta.config import extras

CASES = [
    # σ, q, updates, δ; RDP, PLD
    ((1.0, 1.0, 1, 1e-5), 4.7285, 4.3772),
    ((1.0, 0.01, 1000, 1e-5), 2.1014, 1.8282),
    ((1.1, 0.01, 10_000, 1e-5), 5.6320, 5.1926),
    ((2.0, 0.2, 200, 1e-3), 6.0554, 5.3536),
]


def gaussian_epsilon(noise_multiplier, delta):
    """ε of one release of the Gaussian mechanism, exactly (Balle and Wang, 2018, arXiv:1805.06530)."""
    cdf = stats.norm.cdf

    def excess(epsilon):
        half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
        return cdf(half - shift) - np.exp(epsilon) * cdf(-half - shift) - delta

    return optimize.brentq(excess, 0.0, 50.0, xtol=1e-10)


@pytest.fixture(scope="module", autouse=True)
def accountant():
    pytest.importorskip("dp_accounting")


@pytest.mark.parametrize(("case", "rdp", "pld"), CASES)
def test_published_values(case, rdp, pld):
    assert jm.privacy.epsilon(*case) == pytest.approx(rdp, abs=1e-3)
    assert jm.privacy.epsilon(*case, method="pld") == pytest.approx(pld, abs=1e-3)


@pytest.mark.parametrize(("noise_multiplier", "delta", "value"), [(1.0, 1e-5, 4.37718), (2.0, 1e-5, 1.99309)])
def test_one_release_to_everybody_is_the_gaussian_mechanism(noise_multiplier, delta, value):
    exact = gaussian_epsilon(noise_multiplier, delta)
    assert exact == pytest.approx(value, abs=1e-5)
    assert privacy.epsilon(noise_multiplier, 1.0, 1, delta, "pld") == pytest.approx(exact, abs=1e-4)
    assert privacy.epsilon(noise_multiplier, 1.0, 1, delta) > exact


def test_epsilon_grows_with_updates_and_rate_and_falls_with_noise_and_delta():
    base = {"noise_multiplier": 1.0, "sampling_rate": 0.02, "rounds": 100, "delta": 1e-5}
    for name, values, sign in (
        ("noise_multiplier", (0.8, 1.0, 2.0), -1),
        ("sampling_rate", (0.01, 0.02, 0.1), 1),
        ("rounds", (1, 100, 1000), 1),
        ("delta", (1e-6, 1e-5, 1e-3), -1),
    ):
        found = [privacy.epsilon(**base | {name: value}) for value in values]
        assert (sign * np.diff(found) > 0).all(), name


def test_noise_that_grows_with_the_root_of_the_updates_keeps_epsilon():
    for updates in (4, 100):
        spread = privacy.epsilon(np.sqrt(updates), 1.0, updates, 1e-5)
        assert spread == pytest.approx(privacy.epsilon(1.0, 1.0, 1, 1e-5), rel=1e-9)


@pytest.mark.parametrize("updates", [1, 7, 1000])
def test_updates_compose(updates):
    accountant = privacy.Accountant.of(1.0, 0.02, 1e-5)
    epsilon, delta = accountant.after(updates)
    assert float(epsilon) == pytest.approx(privacy.epsilon(1.0, 0.02, updates, 1e-5), rel=1e-5)
    assert delta == 1e-5


def test_delta_includes_that_too_many_clients_come():
    accountant = privacy.Accountant.of(1.0, 0.02, 1e-5, overflow=1e-9)
    epsilon, delta = accountant.after(100)
    assert float(epsilon) == pytest.approx(float(accountant._replace(overflow=0.0).after(100)[0]))
    assert float(delta) == pytest.approx(1e-5 + (1 + np.exp(float(epsilon))) * 100 * 1e-9, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0; without noise there is no ε, it must be positive"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0; it must be positive"),
        ({"noise_multiplier": np.nan}, "noise_multiplier is nan; it must be positive"),
        ({"sampling_rate": 0.0}, "sampling_rate is 0.0; it must be above 0 and at most 1"),
        ({"sampling_rate": 1.5}, "sampling_rate is 1.5; it must be above 0 and at most 1"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"delta": 0.0}, "delta is 0.0; it must be above 0 and below 1"),
        ({"delta": 1.0}, "delta is 1.0; it must be above 0 and below 1"),
        ({"method": "rdq"}, "method is 'rdq'; did you mean 'rdp'\\?"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    base = {"noise_multiplier": 1.0, "sampling_rate": 0.02, "rounds": 100, "delta": 1e-5}
    with pytest.raises(ValueError, match=f"^{message}$"):
        privacy.epsilon(**base | changes)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(extras.MissingExtraError, match=r'pip install "jaxmeta\[private\]" installs it'):
        privacy.epsilon(1.0, 0.02, 100, 1e-5)
