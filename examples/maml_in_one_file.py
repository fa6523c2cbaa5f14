"""MAML for reinforcement learning in one file: second-order meta-gradients and TRPO, on 2D navigation.

Finn et al., 2017, arXiv:1703.03400. A point starts at the origin and must walk to a goal that it cannot observe. The
policy acts with its initial parameters θ, takes one policy-gradient step on that experience, and acts again with
θ' = θ - α ∇L(θ). MAML moves θ so that the returns of θ' rise; for that it differentiates through the step.

Functions are written for one task, and `jax.vmap` maps them over tasks. Axes: N tasks, T time, E parallel episodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

Array, Key, Params = jax.Array, jax.Array, Any
INNER_LR, DISCOUNT, RIDGE = 0.1, 0.99, 1e-5
MAX_KL, DAMPING, CG_STEPS, BACKTRACK, MAX_TRIES = 0.01, 1e-5, 10, 0.8, 15


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions; leaves are [..., 2]."""

    mean: Array
    log_std: Array

    def log_prob(self, action: Array) -> Array:
        """Computes log densities, [...]."""
        error = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * error**2 + self.log_std + 0.5 * jnp.log(2 * jnp.pi), axis=-1)

    def kl(self, other: Gaussian) -> Array:
        """Computes KL(self || other), [...]."""
        ratio, shift = jnp.exp(self.log_std - other.log_std), (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * jnp.sum(ratio**2 - 1 + shift**2 - 2 * jnp.log(ratio), axis=-1)


class Rollout(NamedTuple):
    """Episodes on one task; leaves are [T, E, ...]."""

    obs: Array
    action: Array
    dist: Gaussian  # of the behaviour policy
    reward: Array  # zero after the end of an episode
    valid: Array  # 1.0 until the episode ended, then 0.0


class Trial(NamedTuple):
    """Experience on one task before and after the gradient step."""

    before: Rollout
    after: Rollout


def init_policy(key: Key, hidden: tuple[int, ...] = (64, 64)) -> Params:
    """Draws an MLP whose last layer is small, so that the first actions hardly depend on the position."""
    sizes, gains = (2, *hidden, 2), [2**0.5] * len(hidden) + [0.01]
    layers = []
    for one, gain, *shape in zip(jax.random.split(key, len(gains)), gains, sizes, sizes[1:], strict=False):
        layers.append((jax.nn.initializers.orthogonal(gain)(one, shape), jnp.zeros(shape[1])))
    return {"layers": layers, "log_std": jnp.zeros(2)}


def policy(params: Params, obs: Array) -> Gaussian:
    """Maps observations [..., 2] to action distributions."""
    *hidden, (last_weight, last_bias) = params["layers"]
    for weight, bias in hidden:
        obs = jnp.tanh(obs @ weight + bias)
    mean = obs @ last_weight + last_bias
    return Gaussian(mean, jnp.broadcast_to(params["log_std"], mean.shape))


def env_step(position: Array, action: Array, goal: Array) -> tuple[Array, Array, Array]:
    """Moves a point by at most 0.1 m per coordinate; returns its position, the reward, and whether it arrived."""
    position = position + jnp.clip(action, -0.1, 0.1)
    return position, -jnp.linalg.norm(position - goal), jnp.all(jnp.abs(position - goal) < 0.01)


def rollout(params: Params, goal: Array, key: Key, episodes: int, horizon: int) -> Rollout:
    """Runs parallel episodes from the origin; one ends where the point arrives."""

    def step(state: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Rollout]:
        position, alive = state
        dist = policy(params, position)
        action = dist.mean + jnp.exp(dist.log_std) * jax.random.normal(key, dist.mean.shape)
        next_position, reward, arrived = jax.vmap(env_step, (0, 0, None))(position, action, goal)
        record = Rollout(position, action, dist, reward * alive, alive.astype(jnp.float32))
        return (jnp.where(alive[:, None], next_position, position), alive & ~arrived), record

    start = (jnp.zeros((episodes, 2)), jnp.ones(episodes, bool))
    return jax.lax.scan(step, start, jax.random.split(key, horizon))[1]


def masked_mean(values: Array, valid: Array) -> Array:
    """Averages over valid steps."""
    return jnp.sum(values * valid) / jnp.maximum(jnp.sum(valid), 1.0)


def advantages(data: Rollout) -> Array:
    """Computes discounted returns less a linear baseline in position and time, standardised, [T, E]."""
    add = lambda later, reward: (reward + DISCOUNT * later,) * 2  # noqa: E731
    returns = jax.lax.scan(add, jnp.zeros(data.reward.shape[1]), data.reward, reverse=True)[1]
    time = jnp.broadcast_to(jnp.arange(len(returns))[:, None, None] / 100, (*returns.shape, 1))
    features = jnp.concatenate([data.obs, data.obs**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)
    features = (features * data.valid[..., None]).reshape(returns.size, -1)
    features /= jnp.linalg.norm(features, axis=0) + 1e-6
    factor = jax.scipy.linalg.cho_factor(features.T @ features + RIDGE * jnp.eye(features.shape[1]))
    weights, error = jnp.zeros(features.shape[1]), returns.reshape(-1)
    for _ in range(2):  # the second solve removes most of the first one's rounding error
        weights += jax.scipy.linalg.cho_solve(factor, features.T @ error - RIDGE * weights)
        error = returns.reshape(-1) - features @ weights
    advantage = error.reshape(returns.shape)
    advantage -= masked_mean(advantage, data.valid)
    return advantage / (jnp.sqrt(masked_mean(jnp.square(advantage), data.valid)) + 1e-8) * data.valid


def surrogate(params: Params, data: Rollout) -> Array:
    """Computes the policy-gradient loss: likelihood ratios, weighted by advantages, which count as constants."""
    ratio = jnp.exp(policy(params, data.obs).log_prob(data.action) - data.dist.log_prob(data.action))
    return -masked_mean(ratio * jax.lax.stop_gradient(advantages(data)), data.valid)


def adapt(params: Params, data: Rollout) -> Params:
    """Takes the inner step, θ' = θ - α ∇L(θ)."""
    return optax.apply_updates(params, optax.tree.scale(-INNER_LR, jax.grad(surrogate)(params, data)))


def collect(params: Params, goal: Array, key: Key, episodes: int, horizon: int) -> Trial:
    """Acts with θ, adapts, and acts with θ'."""
    before_key, after_key = jax.random.split(key)
    before = rollout(params, goal, before_key, episodes, horizon)
    return Trial(before, rollout(adapt(params, before), goal, after_key, episodes, horizon))


def meta_loss(params: Params, trials: Trial) -> Array:
    """Computes the loss of θ' as a function of θ over trials [N, ...]; its gradient goes through `adapt`."""

    def one(trial: Trial) -> Array:
        # per step of the horizon: divided by its valid steps alone, a task would gain or lose by ending early
        return jnp.mean(trial.after.valid) * surrogate(adapt(params, trial.before), trial.after)

    return jnp.mean(jax.vmap(one)(trials))


def trpo_step(params: Params, trials: Trial) -> Params:
    """Lowers the meta-loss within a bound on the mean KL divergence between old and new adapted policies."""
    flat, unravel = ravel_pytree(params)

    def adapted(flat: Array, trials: Trial) -> Gaussian:
        return jax.vmap(lambda trial: policy(adapt(unravel(flat), trial.before), trial.after.obs))(trials)

    # The Hessian of the divergence is JᵀFJ: J maps θ to the adapted distributions, and F is their Fisher matrix. As it
    # only shapes the step, five episodes per task are enough to estimate it.
    some = jax.tree.map(lambda leaf: leaf[:, :, :5], trials)
    dist, push = jax.linearize(lambda flat: adapted(flat, some), flat)
    pull = jax.linear_transpose(push, flat)
    weight = jax.vmap(lambda valid: valid / jnp.sum(valid))(some.after.valid)[..., None] / len(some.after.valid)

    def curvature(vector: Array) -> Array:
        change = push(vector)
        fisher = Gaussian(weight * jnp.exp(-2 * dist.log_std) * change.mean, 2 * weight * change.log_std)
        return pull(fisher)[0] + DAMPING * vector

    loss, gradient = jax.value_and_grad(lambda flat: meta_loss(unravel(flat), trials))(flat)
    direction, _ = jax.scipy.sparse.linalg.cg(curvature, gradient, maxiter=CG_STEPS)
    longest = -direction * jnp.sqrt(2 * MAX_KL / (direction @ curvature(direction)))

    def shorten(state: tuple[Array, Array]) -> tuple[Array, Array]:
        candidate = flat + BACKTRACK ** state[0] * longest
        kl = jnp.mean(jax.vmap(masked_mean)(trials.after.dist.kl(adapted(candidate, trials)), trials.after.valid))
        return state[0] + 1, (meta_loss(unravel(candidate), trials) < loss) & (kl <= MAX_KL)

    tries, accepted = jax.lax.while_loop(lambda state: (state[0] < MAX_TRIES) & ~state[1], shorten, (0.0, False))
    return unravel(jnp.where(accepted, flat + BACKTRACK ** (tries - 1) * longest, flat))


def main(num_updates: int = 100, num_tasks: int = 20, episodes: int = 20, horizon: int = 100) -> Params:
    """Meta-trains, and prints returns before and after one gradient step on new goals."""

    @jax.jit
    def experience(params: Params, key: Key) -> Trial:
        goal_key, *keys = jax.random.split(key, num_tasks + 1)
        goals = jax.random.uniform(goal_key, (num_tasks, 2), minval=-0.5, maxval=0.5)
        return jax.vmap(lambda goal, key: collect(params, goal, key, episodes, horizon))(goals, jnp.stack(keys))

    params, improve = init_policy(jax.random.key(0)), jax.jit(trpo_step)
    for update in range(num_updates + 1):
        trials = experience(params, jax.random.key(update + 1))
        if update % 10 == 0:
            before, after = (data.reward.sum(1).mean() for data in trials)
            print(f"update {update:3}: return {before:5.1f} before and {after:5.1f} after a gradient step", flush=True)
        params = improve(params, trials)
    return params


if __name__ == "__main__":
    main()
