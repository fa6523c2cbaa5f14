from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmeta.nets.heads import mostly
from jaxmeta.references import base


@pytest.mark.parametrize("concentration", [1.0, 3.0, 40.0])
def test_gamma_samples_have_the_gamma_distribution(concentration):
    values = jax.jit(base.gamma)(jax.random.key(0), jnp.full(20_000, concentration))
    assert stats.kstest(np.asarray(values), stats.gamma(concentration).cdf).pvalue > 0.01


def test_epsilon_is_the_share_of_random_actions():
    logits = mostly(base.best(jnp.array([1.0, 2.0, 2.0, 0.0])), 0.2)
    np.testing.assert_allclose(jnp.exp(logits), [0.05, 0.45, 0.45, 0.05], rtol=1e-6)
