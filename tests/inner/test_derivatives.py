"""Ways to differentiate an adaptation of many steps: all give the gradient of plain reverse mode, or a known other."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxmeta import inner, nets, outer
from tests import tiny

FAMILY = tiny.waves()
ENV = FAMILY.env
TASK = FAMILY.sample(jax.random.key(1))
NETWORK = nets.perceptron(1, 1, (6,), "tanh", context=2)
POLICY, LOSS = inner.predictor(NETWORK, ENV.split), inner.support_loss(NETWORK, ENV.split, ENV.loss)
RULES = {
    "all": inner.sgd(0.1),
    "context": inner.adapt_only(inner.sgd(0.1), "context"),
    "rates": inner.per_parameter(0.1),
}


def gradient(learner, rounds, truncation=None):
    loss = outer.query_loss(learner, ENV, rounds, truncation)
    return jax.jit(jax.grad(loss, has_aux=True))(learner.init(jax.random.key(0)), TASK, jax.random.key(2))[0]


@pytest.mark.parametrize("rule", RULES)
def test_mixed_mode_and_rematerialisation_give_the_same_gradient(rule):
    plain = inner.descent(POLICY, LOSS, RULES[rule])
    expected = gradient(plain, 3)
    for other in (
        inner.rematerialised(plain),
        inner.descent(POLICY, LOSS, RULES[rule], differentiate=inner.mixed_mode),
    ):
        chex.assert_trees_all_close(gradient(other, 3), expected, rtol=1e-5, atol=1e-6)


def test_a_truncated_gradient_depends_on_the_last_steps_only():
    plain = inner.descent(POLICY, LOSS, RULES["all"])
    whole = gradient(plain, 3)
    chex.assert_trees_all_equal(gradient(plain, 3, truncation=3), whole)
    # none: that of the adapted params, as in first-order MAML
    first_order = gradient(inner.descent(POLICY, LOSS, inner.first_order(RULES["all"])), 3)
    chex.assert_trees_all_close(gradient(plain, 3, truncation=0), first_order, rtol=1e-5, atol=1e-6)
    one = ravel_pytree(gradient(plain, 3, truncation=1))[0]
    for other in (whole, first_order):
        assert np.abs(one - ravel_pytree(other)[0]).max() > 1e-4


def test_an_implicit_gradient_equals_the_unrolled_one_at_convergence():
    strength, steps, rule = 4.0, 60, inner.sgd(0.1)
    way = inner.descent(POLICY, LOSS, inner.proximal_term(rule, strength))
    settled = inner.implicit(POLICY, LOSS, rule, steps, strength, cg_iterations=30)
    expected, found = (ravel_pytree(gradient(*one).policy)[0] for one in ((way, steps), (settled, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    @jax.jit
    def stationary(params):
        fast = outer.adapted(settled, params, lambda index: ENV.experience(TASK), jax.random.key(2), 1)
        gradient = jax.grad(LOSS)(fast.policy, ENV.experience(TASK))
        return jax.tree.map(
            lambda grad, after, begun: grad + strength * (after - begun), gradient, fast.policy, params.policy
        )

    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(stationary(settled.init(jax.random.key(0))))) < 1e-4
