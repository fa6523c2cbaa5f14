# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Second-order gradients by hand
#
# MAML maximises the return *after* an adaptation. Its meta-gradient therefore goes through the adaptation, which is
# itself a gradient step. Here we differentiate `outer.meta_loss`, recompute the result by hand, and then compare six
# estimators of the meta-gradient with the exact one. The exact one is known because the task is so small that all its
# trials can be enumerated.
#
# [Which meta-gradient](../explanation/meta-gradients.md) has the conclusions for use.

# %%
import dataclasses
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl
from jaxmeta.references import meta_gradient
from jaxmeta.types import Array, Discrete, Output, Spec, Step

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## A task with eight outcomes
#
# Two states, two actions, three steps, no randomness. Action 0 stays and action 1 moves to the other state. State 1
# pays more, but moving there costs. The same MDP is `references.meta_gradient.small_mdp()`, whose eight possible
# episodes we compare with ours below.

# %%
REWARD = jnp.array([[0.2, -0.5], [1.0, 0.3]])  # [state, action]


@dataclasses.dataclass(frozen=True)
class TwoStates:
    """The task is the table of rewards, [state, action]."""

    spec = Spec(observation=(2,), action=Discrete(2), horizon=3)

    def reset(self, key, task):
        return jnp.int32(0), jax.nn.one_hot(0, 2)

    def step(self, key, state, action, task):
        following = jnp.where(action == 1, 1 - state, state)
        return following, Step(jax.nn.one_hot(following, 2), reward=task[state, action], terminated=jnp.array(False))


env = TwoStates()
episodes = meta_gradient.small_mdp()
for actions, rewards in zip(episodes.action, episodes.reward, strict=True):
    print("actions", actions, "return", round(float(rewards.sum()), 2))

# %% [markdown]
# The policy is a table of logits θ, [state, action]. Wrapped as a `Network`, it can be used wherever a network can. The
# agent adapts by one step of REINFORCE on three episodes, with plain returns and without a baseline, which would add a
# bias of its own.

# %%
STEP_SIZE, STREAMS = 2.0, 3
theta = jax.random.normal(jax.random.key(0), (2, 2))
table = nets.Network(
    init=lambda key: theta,
    apply=lambda theta, carry, inputs: (carry, Output(dist=inputs.obs @ theta, value=jnp.zeros(()))),
    initial_state=lambda: (),
    head=nets.head_for(Discrete(2)),
)
returns = rl.plain_returns()
plan = jm.Plan(rounds=1, streams=STREAMS)
learner = inner.gradient(inner.policy(table), rl.log_prob, inner.sgd(STEP_SIZE), returns)
params = learner.init(jax.random.key(0))
trial = jm.collect(learner, params, env, REWARD, jax.random.key(1), plan)
print("rewards [rounds + 1, time, streams]:\n", np.round(trial.rounds.reward, 1))

# %% [markdown]
# ## One meta-gradient, by machine and by hand
#
# `outer.meta_loss` replays the adaptation on stored experience and evaluates the last round under the adapted policy.
# It is an ordinary function, so `jax.grad` gives the meta-gradient.

# %%
meta_loss = outer.meta_loss(learner, rl.ratio, returns)
by_machine = jax.grad(meta_loss)(params, jax.tree.map(lambda leaf: leaf[None], trial)).policy

# %% [markdown]
# By hand: let L be the inner loss and J the outer loss. The adapted logits are θ' = θ − α ∇L(θ), so by the chain rule
# the meta-gradient is (I − α ∇²L(θ)) ∇J(θ'). The Hessian is not needed, only its product with one vector, and that is
# the derivative of ∇L in the direction of the vector: `jax.jvp`.


# %%
def loss(logits: Array, experience) -> Array:
    """REINFORCE: minus the mean of log π times the return-to-go; experience has leaves [time, streams, ...]."""
    log_prob = jax.nn.log_softmax(experience.inputs.obs @ logits)
    chosen = jnp.take_along_axis(log_prob, experience.action[..., None], axis=-1)[..., 0]
    to_go = jnp.cumsum(experience.reward[::-1], axis=0)[::-1]
    return -jnp.mean(chosen * to_go)


before, after = (jax.tree.map(lambda leaf, index=index: leaf[index], trial.rounds) for index in (0, 1))
gradient = jax.grad(loss)
adapted = theta - STEP_SIZE * gradient(theta, before)
outer_gradient = gradient(adapted, after)
_, hessian_product = jax.jvp(lambda logits: gradient(logits, before), (theta,), (outer_gradient,))
by_hand = outer_gradient - STEP_SIZE * hessian_product

print("by machine  ", np.round(by_machine.ravel(), 5))
print("by hand     ", np.round(by_hand.ravel(), 5))
print("first order ", np.round(outer_gradient.ravel(), 5))
np.testing.assert_allclose(by_machine, by_hand, rtol=1e-4, atol=1e-6)

# %% [markdown]
# The last line leaves out the Hessian. That is first-order MAML: `inner.first_order(inner.sgd(...))`.
#
# ## What the formula forgets
#
# The return after adaptation depends on θ in a second way: the episodes to adapt on were *sampled* by the policy with
# these logits. The exact expected return sums over all of them, and its gradient includes that. It takes a few lines,
# as there are only 8 × 8 × 8 outcomes of three episodes. Finite differences confirm the gradient.


# %%
def chance(logits: Array) -> Array:
    """Probability of each of the eight episodes, [8]."""
    return jnp.exp(jax.nn.log_softmax(logits)[episodes.state, episodes.action].sum(1))


def step_on(logits: Array, chosen: Array) -> Array:
    """Adapts on the episodes with these three indices."""
    log_prob = lambda logits: jax.nn.log_softmax(logits)[episodes.state[chosen], episodes.action[chosen]]
    to_go = jnp.cumsum(episodes.reward[chosen][:, ::-1], axis=1)[:, ::-1]
    return logits + STEP_SIZE * jax.grad(lambda logits: jnp.mean(log_prob(logits) * to_go))(logits)


@jax.jit
def value(logits: Array) -> Array:
    """Expected return after one adaptation."""
    triples = jnp.stack(jnp.meshgrid(*[jnp.arange(8)] * STREAMS), axis=-1).reshape(-1, STREAMS)
    later = jax.vmap(lambda chosen: chance(step_on(logits, chosen)) @ episodes.reward.sum(1))(triples)
    return jnp.prod(chance(logits)[triples], axis=1) @ later


exact = jax.grad(value)(theta)
nudges = 0.01 * jnp.eye(4).reshape(4, 2, 2)
differences = jnp.stack([(value(theta + nudge) - value(theta - nudge)) / 0.02 for nudge in nudges])
print("exact              ", np.round(exact.ravel(), 4))
print("finite differences ", np.round(differences, 4))
np.testing.assert_allclose(differences, exact.ravel(), atol=2e-3)
np.testing.assert_allclose(meta_gradient.exact_gradient(theta, STEP_SIZE, episodes, STREAMS), exact, atol=1e-5)

# %% [markdown]
# ## Six estimators
#
# They differ in the inner objective, which all have the same first derivative and therefore the same inner step, and
# different second derivatives:
#
# - `first-order` ignores second derivatives (FOMAML);
# - `log-prob` is the formula above, taken literally (MAML);
# - `ratio` differentiates likelihood ratios: the low-variance curvature of ProMP;
# - `dice` makes all derivatives of the surrogate correct; `loaded-dice` discounts the distant dependencies;
# - `e-maml` adds the score function of the sampled episodes times the later return: the only unbiased one.
#
# We draw many trials and differentiate `meta_loss` on each. One trial is one estimate of the meta-gradient.


# %%
def samples(by: outer.MetaGradient, key, count: int) -> Array:
    """Draws estimates of the gradient of the return, [count, state, action]."""
    updater = inner.sgd(STEP_SIZE)
    updater = inner.first_order(updater) if by.first_order else updater
    agent = inner.gradient(inner.policy(table), by.objective, updater, returns)
    loss = outer.meta_loss(agent, rl.ratio, returns, sampling_correction=by.sampling_correction)

    def one(key):
        trial = jm.collect(agent, params, env, REWARD, key, plan)
        trials = jax.tree.map(lambda leaf: leaf[None], trial)
        # the loss is minus the return per step
        return -env.spec.horizon * jax.grad(loss)(params, trials).policy

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))


names = ["log-prob", "e-maml"] if QUICK else list(outer.META_GRADIENTS)
count = 2_000 if QUICK else 50_000
estimates = {name: samples(outer.META_GRADIENTS[name], jax.random.key(2), count) for name in names}
with np.printoptions(precision=3, suppress=True):
    for name, estimate in estimates.items():
        print(f"{name:>12}: mean of {count:,}", np.asarray(estimate.mean(0)).ravel())
    print(f"{'exact':>12}:               ", np.asarray(exact).ravel())

# %% [markdown]
# ## Bias and variance
#
# An update averages the estimates of N trials. The error of that mean is √(bias² + deviation² / N). The function
# `meta_gradient.quality` computes bias and deviation exactly, by enumeration of all trials; lines are the formula with
# these numbers, and dots are measured on the sampled estimates. All are relative to the norm of the exact
# meta-gradient.

# %%
scale = float(jnp.linalg.norm(exact))
quality = jax.jit(meta_gradient.quality, static_argnums=(1, 3, 4))
qualities = {name: quality(theta, STEP_SIZE, episodes, outer.META_GRADIENTS[name], STREAMS) for name in names}
for name, estimate in estimates.items():
    deviation = np.sqrt(np.sum(estimate.var(0))) / scale
    bias = np.linalg.norm(estimate.mean(0) - exact) / scale
    # the sampled bias and deviation are those of the enumeration, up to sampling error
    assert abs(bias - qualities[name].bias) < 5 * deviation / np.sqrt(count)
    assert abs(deviation / qualities[name].deviation - 1) < 0.1

# %%
counts = np.geomspace(1, 10_000, 60)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
for index, (name, estimate) in enumerate(estimates.items()):
    bias, deviation = (float(getattr(qualities[name], part)) for part in ("bias", "deviation"))
    left.loglog(counts, np.hypot(bias, deviation / np.sqrt(counts)), color=f"C{index}", label=name)
    for trials in (1, 10, 100, 1000)[: 2 if QUICK else 4]:
        means = np.asarray(estimate).reshape(count // trials, trials, 4).mean(1)
        measured = np.sqrt(np.mean(np.sum((means - np.asarray(exact).ravel()) ** 2, axis=1))) / scale
        left.plot(trials, measured, "o", color=f"C{index}", markersize=4)
    right.plot(bias, deviation, "o", color=f"C{index}")
    right.annotate(name, (bias, deviation), (7, 4), textcoords="offset points", fontsize=9)
left.set(xlabel="trials in the mean", ylabel="relative error", title="Error of the mean of N trials")
left.legend(fontsize=8)
right.set(xlabel="bias", ylabel="standard deviation of one trial", yscale="log", title="What a line consists of")
right.margins(x=0.2, y=0.15)
for axes in (left, right):
    axes.grid(color="0.92")
figure.tight_layout()

# %% [markdown]
# With few trials the estimators of low variance are equally good, and E-MAML's correction only adds noise. With many
# trials each line flattens at its bias, and only that of the unbiased one goes on. This is why likelihood ratios are
# the default: their deviation is near that of first order, at a smaller bias. [Which
# meta-gradient](../explanation/meta-gradients.md) has the same numbers for other numbers of episodes, averaged over
# several policies.

# %%
assert qualities["e-maml"].bias < 1e-3 < qualities["log-prob"].bias
for name, found in qualities.items():
    print(f"{name:>12}: bias {found.bias:.3f}, standard deviation of one trial {found.deviation:.2f}")
