"""Meta-training in imagination, the outer loop of MB-MPO (Clavera et al., 2018, arXiv:1809.05214)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.outer.meta_update import Batch, Draw, Improve
from jaxmeta.outer.sources import fresh
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Metrics, Params, Plan


def in_imagination(
    learner: Learner,
    plan: Plan,
    imagined: Callable[[Params], TaskFamily],
    fit: Improve,
    improve: Improve,
    steps: int,
    num_tasks: int,
) -> Improve:
    """Fits models of the dynamics to real experience, and improves a policy on fresh trials that the models imagine.

    The params have two fields, `model` and `policy`. Metrics of the imagined trials are means over the steps, with the
    prefix `imagined/`; what they count are no steps of the environment.

    Args:
      learner: the policy, whose params are `params.policy`.
      plan: layout of an imagined trial.
      imagined: params.model -> the imagined tasks.
      fit: improves `params.model` on the batch of real experience.
      improve: improves `params.policy` on a batch of imagined trials.
      steps: improvements of the policy per update.
      num_tasks: imagined trials per real one of the batch, in each of these improvements.
    """

    def of_policy(family: TaskFamily, batch: Batch, updates: Array) -> Callable[..., Any]:
        source = fresh(learner, family, plan)

        def one(state: tuple[Params, Any], index: Array) -> tuple[tuple[Params, Any], Metrics]:
            policy, opt_state = state
            keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index), 3 * num_tasks))(batch.keys)
            task_keys, keys, step_keys = jnp.swapaxes(keys.reshape(-1, 3), 0, 1)
            count = len(keys)
            draw = Draw(jax.vmap(family.sample)(task_keys), jnp.full(count, -1), jnp.ones(count))
            _, trials, seen = source.next((), policy, draw, (), keys)
            some = Batch(trials, step_keys, draw.weight * seen.finite)
            policy, opt_state, metrics = improve.step(policy, opt_state, some, updates)
            return (policy, opt_state), seen.metrics | metrics

        return one

    def step(params: Any, opt_state: dict[str, Any], batch: Batch, updates: Array) -> tuple[Any, Any, Metrics]:
        model, of_model, metrics = fit.step(params.model, opt_state["model"], batch, updates)
        one = of_policy(imagined(model), batch, updates)
        (policy, state), found = jax.lax.scan(one, (params.policy, opt_state["policy"]), jnp.arange(steps))
        told = {f"imagined/{name}": value.mean(0) for name, value in found.items()}
        return params.replace(model=model, policy=policy), {"model": of_model, "policy": state}, metrics | told

    def init(params: Any) -> dict[str, Any]:
        return {"model": fit.init(params.model), "policy": improve.init(params.policy)}

    return Improve(init, step)
