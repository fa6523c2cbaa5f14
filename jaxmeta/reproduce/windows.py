"""Errors of one-step predictions on windows: a model adapts to the first half, and predicts the second."""

from __future__ import annotations

from typing import Any

import jaxmeta as jm

WINDOW = 16
"""Transitions that a model adapts to, and transitions that it then predicts."""


def rows(spec: Any, experience: Any, learns_reward: bool) -> Any:
    """Returns the rows of a stream that windows are cut from, [T, |inputs| + D + 1], not normalised."""
    import jax.numpy as jnp

    found, valid = jm.nets.dynamics_rows(spec, experience.replace(output=(), reset_key=()), learns_reward)
    return jnp.concatenate([found, valid[:, None]], axis=1)


def cut(dynamics: Any, statistics: Any, streams: Any) -> tuple[Any, Any]:
    """Cuts streams [N, T, ...] into normalised windows of `2 * WINDOW` transitions: inputs and outputs, [.., 2 M, ...].

    Args:
      dynamics: the `nets.Dynamics` whose inputs and outputs the rows hold.
    """
    size, length = dynamics.inputs, 2 * WINDOW
    pair = jm.rl.standardised(statistics, (streams[..., :size], streams[..., size:-1]))
    whole = streams.shape[1] // length * length
    part = lambda leaf: leaf[:, :whole].reshape(-1, length, leaf.shape[-1])  # noqa: E731
    return part(pair[0]), part(pair[1])


def error(model: Any, params: Any, streams: Any) -> Any:
    """Returns the mean squared error of an `inner.OnlineModel` on the second halves of the windows of streams."""
    import jax
    import jax.numpy as jnp

    every = jnp.ones(WINDOW)

    @jax.jit
    def mean(params: Any, x: Any, y: Any) -> Any:
        def one(x: Any, y: Any) -> Any:
            prediction = jm.inner.predict_after(model, params.model, (x[:WINDOW], y[:WINDOW], every), x[WINDOW:])
            return jm.nets.prediction_error(prediction, y[WINDOW:], every)

        return jax.vmap(one)(x, y).mean()

    return mean(params, *cut(model.dynamics, params.statistics, streams))
