"""The proximal point of losses whose minimum is known, and the memory of its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta import inner

CURVATURE = jnp.array([[2.0, 0.5], [0.5, 1.0]])
TARGET, ANCHOR, STRENGTH = jnp.array([1.0, -1.0]), jnp.array([0.3, 0.4]), 2.0


def quadratic(point):
    return 0.5 * point["x"] @ CURVATURE @ point["x"] - TARGET @ point["x"]


def solution(anchor, steps=100, cg_iterations=5, loss=quadratic, tx=optax.sgd(0.3), damping=0.0):
    return inner.proximal_point(loss, {"x": anchor}, tx, STRENGTH, steps, cg_iterations, damping)[0]["x"]


def test_solution_and_derivative_of_a_quadratic():
    """φ = (A + λ)⁻¹ (b + λθ), and dφ/dθ = (I + A / λ)⁻¹, in both modes."""
    inverse = np.linalg.inv(CURVATURE + STRENGTH * np.eye(2))
    np.testing.assert_allclose(solution(ANCHOR), inverse @ (TARGET + STRENGTH * ANCHOR), rtol=1e-5)
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(mode(solution)(ANCHOR), STRENGTH * inverse, rtol=1e-5)


def test_damping_raises_the_strength_in_the_derivative_alone():
    np.testing.assert_array_equal(solution(ANCHOR, damping=3.0), solution(ANCHOR))
    raised = STRENGTH + 3.0
    expected = raised * np.linalg.inv(CURVATURE + raised * np.eye(2))
    np.testing.assert_allclose(jax.jacrev(lambda anchor: solution(anchor, damping=3.0))(ANCHOR), expected, rtol=1e-5)


def test_derivative_equals_that_of_the_unrolled_descent_at_convergence():
    def loss(point):
        return quadratic(point) + 0.1 * jnp.sum(point["x"] ** 4)

    def unrolled(anchor):
        def step(point, _):
            gradient = jax.grad(loss)({"x": point})["x"] + STRENGTH * (point - anchor)
            return point - 0.1 * gradient, None

        return jax.lax.scan(step, anchor, None, 200)[0]

    implicit = lambda anchor: solution(anchor, 200, loss=loss, tx=optax.sgd(0.1))  # noqa: E731
    np.testing.assert_allclose(implicit(ANCHOR), unrolled(ANCHOR), rtol=1e-5)
    np.testing.assert_allclose(jax.jacrev(implicit)(ANCHOR), jax.jacrev(unrolled)(ANCHOR), rtol=1e-4)


def test_without_cg_iterations_the_gradient_is_first_order():
    np.testing.assert_array_equal(jax.jacrev(lambda anchor: solution(anchor, cg_iterations=0))(ANCHOR), np.eye(2))


@pytest.mark.parametrize(("way", "most"), [("implicit", 1.05), ("unrolled", None)])
def test_memory_does_not_grow_with_the_steps(way, most):
    inputs = jnp.linspace(-1.0, 1.0, 64)[:, None]

    def loss(point):
        return jnp.mean(jnp.square(jnp.tanh(inputs * point["x"]).sum(1) - 1.0))

    def unrolled(anchor, steps):
        def step(point, _):
            return point - 0.1 * jax.grad(loss)({"x": point})["x"], None

        return jax.lax.scan(step, anchor, None, steps)[0]

    def bytes_of(steps):
        after = {"implicit": lambda at: solution(at, steps, loss=loss), "unrolled": lambda at: unrolled(at, steps)}[way]
        compiled = jax.jit(jax.grad(lambda at: loss({"x": after(at)}))).lower(jnp.ones(32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    growth = bytes_of(64) / bytes_of(4)
    assert growth <= most if most else growth > 4
