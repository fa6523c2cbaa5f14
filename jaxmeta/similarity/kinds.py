"""Kinds of similarity: of what an agent adapts to on two tasks, of their meta-gradients, and of beliefs about them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import unroll
from jaxmeta.inner.belief import BeliefParams, posteriors, trajectories
from jaxmeta.inner.warm_start import Similarity
from jaxmeta.nets import BeliefEncoder, EvidenceEncoder, SoftActorCriticParams
from jaxmeta.types import Array, Fast, Input, Key, Output, Params, Rollout, Spec


def negative_distance(a: Array, b: Array) -> Array:
    """Returns minus the root-mean-square difference of two descriptions [D], in their units."""
    return -jnp.sqrt(jnp.mean(jnp.square(a - b)))


def cosine(a: Array, b: Array) -> Array:
    """Returns the cosine of two descriptions [D] of length 1; 0 if one of them is zero."""
    return jnp.dot(a, b)


def common_inputs(spec: Spec, obs: Any) -> Rollout:
    """Makes a round whose streams have one step each, at given observations, for `adapted_functions`.

    Args:
      obs: observations, leaves [E, ...].
    """
    count = jax.tree.leaves(obs)[0].shape[0]
    blank = jax.tree.map(lambda leaf: jnp.zeros((1, count, *leaf.shape), leaf.dtype), spec.example_input())
    now = jax.tree.map(lambda leaf: leaf[None], obs)
    zero, never = jnp.zeros((1, count)), jnp.zeros((1, count), bool)
    inputs: Input = blank.replace(obs=now, first=zero + 1)
    return Rollout(
        inputs=inputs,
        action=blank.prev_action,
        next_obs=now,
        reward=zero,
        valid=zero + 1,
        done=zero,
        terminated=zero,
        output=Output(dist=zero, value=zero),
        reset_key=jax.random.split(jax.random.key(0), count),
        success=never,
        fault=never.astype(jnp.int8),
    )


def adapted_functions(
    learner: Learner, probe: Rollout, steps: int = 1, read: Callable[[Output], Any] = lambda output: output.dist
) -> Similarity:
    """Compares what the agent computes on common inputs after it has adapted to each task.

    The similarity is minus the root-mean-square difference of the outputs. It does not depend on how a function is
    represented by params, and equals minus the distance of functions if the inputs are a sample of their domain.

    Args:
      probe: the common inputs, leaves [T, E, ...]: a stored round of any task, or `common_inputs`. A recurrent agent is
        unrolled along it.
      steps: adaptations, all to the same round.
      read: what of the output is compared: by default the params of the action distribution, which for a supervised
        agent are its predictions.
    """
    _require_adaptation(learner)
    _require_steps(steps)

    def describe(params: Params, experience: Rollout, key: Key) -> Array:
        _, fast = _adapted(learner, params, experience, key, steps)
        return _vector(read(unroll(learner, params, fast, probe)))

    return Similarity("adapted functions", describe, negative_distance)


def adapted_params(learner: Learner, steps: int = 1) -> Similarity:
    """Compares the params that the agent adapts: minus the root-mean-square difference after adaptation to each task.

    Of a gradient-based agent the state of the inner optimiser is left out.

    Args:
      steps: adaptations, all to the same round.
    """
    _require_adaptation(learner)
    _require_steps(steps)

    def describe(params: Params, experience: Rollout, key: Key) -> Array:
        return _vector(_params_of(_adapted(learner, params, experience, key, steps)[1]))

    return Similarity("adapted params", describe, negative_distance)


def adaptation_steps(learner: Learner) -> Similarity:
    """Compares the directions of the first adaptation to each task: the cosine of the changes of the adapted params."""
    _require_adaptation(learner)

    def describe(params: Params, experience: Rollout, key: Key) -> Array:
        start, fast = _adapted(learner, params, experience, key, 1)
        return _direction(_vector(_params_of(fast)) - _vector(_params_of(start)))

    return Similarity("adaptation steps", describe, cosine)


def meta_gradients(loss: Callable[[Params, Any, Key], tuple[Array, Any]]) -> Similarity:
    """Compares the gradients of an outer loss on each task: their cosine.

        similarity.meta_gradients(outer.query_loss(learner, env, rounds=1))  # describes supervised tasks
        loss = outer.trial_loss(learner, rl.ratio, rl.linear_baseline())
        similarity.meta_gradients(lambda params, trial, key: loss(params, trial))  # describes trials

    Args:
      loss: (params, data, key) -> (scalar, anything). The data that the similarity describes is that of the loss.
    """

    def describe(params: Params, data: Any, key: Key) -> Array:
        return _direction(_vector(jax.grad(loss, has_aux=True)(params, data, key)[0]))

    return Similarity("meta-gradients", describe, cosine, data="trial")


def beliefs(learner: Learner, encoder: EvidenceEncoder | BeliefEncoder) -> Similarity:
    """Compares the agent's posteriors over z given a round of each task: minus their 2-Wasserstein distance over √(2L).

    A description is the mean and the standard deviation of the posterior, [2L], so that the Euclidean distance of two
    descriptions is the 2-Wasserstein distance of the Gaussians. PEARL's posterior is given all streams of the round; of
    VariBAD's, one per stream, mean and deviation are averaged.

    Args:
      learner: that of `jm.pearl` or `jm.varibad`.
      encoder: its encoder, from `evidence_encoder` or `belief_model` of its recipe.

    Raises:
      ValueError: if the agent has no belief over z, or the encoder is of the other kind of agent.
    """
    params = jax.eval_shape(learner.init, jax.random.key(0))
    kind = BeliefEncoder if isinstance(params, BeliefParams) else EvidenceEncoder
    if not isinstance(params, BeliefParams | SoftActorCriticParams) or encoder.size == 0:
        raise ValueError(
            f"the learner has params of type {type(params).__name__} and no belief over a task variable; a similarity"
            " of beliefs needs one (try that of jm.pearl or jm.varibad)"
        )
    if not isinstance(encoder, kind):
        raise ValueError(f"encoder is a {type(encoder).__name__}; this learner's belief needs a {kind.__name__}")

    def describe(params: Params, experience: Rollout, key: Key) -> Array:
        if isinstance(encoder, EvidenceEncoder):
            _, fast = _adapted(learner, params, experience, key, 1)
            belief = encoder.belief(params.encoder, fast.evidence)
            return jnp.concatenate([belief.mean, jnp.sqrt(belief.variance)])
        streams = trajectories(experience)
        chains = jax.vmap(functools.partial(posteriors, encoder, params.model.encoder))(streams)
        mean, deviation = chains.mean[:, -1], jnp.exp(0.5 * chains.log_var[:, -1])
        return jnp.concatenate([mean.mean(0), deviation.mean(0)])

    return Similarity("beliefs", describe, negative_distance)


def _adapted(learner: Learner, params: Params, experience: Rollout, key: Key, steps: int) -> tuple[Fast, Fast]:
    """Returns an agent's state at the start of a task, and after adaptations to one round."""
    start = learner.start(params, key)

    def adapt(fast: Fast, index: Array) -> tuple[Fast, None]:
        return learner.adapt(params, fast, experience, jax.random.fold_in(key, index)), None

    if steps == 1:
        return start, adapt(start, jnp.int32(0))[0]  # avoids the overhead of a loop
    return start, jax.lax.scan(adapt, start, jnp.arange(steps))[0]


def _params_of(fast: Fast) -> Any:
    """Returns what of an adapted state are params: all but the optimiser's state of a gradient-based agent."""
    return getattr(fast, "policy", fast)


def _vector(tree: Any) -> Array:
    """Concatenates the real-valued leaves of a tree to [D]."""
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _direction(vector: Array) -> Array:
    """Scales a vector to length 1; zero stays zero."""
    # by its largest entry first: squares of float32 over- and underflow
    largest = jnp.max(jnp.abs(vector))
    scaled = vector / jnp.where(largest > 0, largest, 1.0)
    norm = jnp.linalg.norm(scaled)
    return scaled / jnp.where(norm > 0, norm, 1.0)


def _require_adaptation(learner: Learner) -> None:
    """Raises a ValueError if an agent has nothing that adapts between rounds."""
    fast = jax.eval_shape(lambda key: learner.start(learner.init(key), key), jax.random.key(0))
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(_params_of(fast))):
        raise ValueError(
            "the learner adapts nothing between rounds; a similarity of adaptations needs a learner that does (try"
            " similarity.contrastive, or similarity.beliefs for jm.varibad)"
        )


def _require_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}; a similarity of adaptations needs at least 1")
