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
# # Inferred beliefs: VariBAD and PEARL
#
# Both algorithms make the belief about the task explicit: a Gaussian over a latent variable z, inferred from
# experience. VariBAD updates it at every step and acts on the whole belief. PEARL samples one z for a whole episode,
# acts as if it were true, and updates the belief between episodes. We look at what the beliefs say, where the exact
# answer is known.

# %%
import os

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxmeta.algos.inference import pearl
from jaxmeta.viz import beliefs

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## VariBAD on a grid with a hidden goal
#
# GridNavi has 5 × 5 cells, and the goal is in one of 21 of them. It is seen only by the reward of stepping on it. A
# trial has four episodes of 15 steps. An encoder, a recurrent network, maps the transitions so far to the belief over
# z; a decoder, which is needed in training only, predicts from z which cell holds the goal. So the belief can be
# decoded.

# %%
run = jm.zoo.load("varibad-gridnavi")
family, plan = run.family, run.meta.plan
print(run.config.algo, "on", run.config.tasks, "after", run.step, "updates; trained by")
print(jm.zoo.record("varibad-gridnavi")["command"])
goals = jm.tasks.all_goals()
num_goals = len(goals.goal)


@jax.jit
def trials(params):
    """Runs a trial on each of the 21 goals; cells [N, T, 2], rewards [N, T], decoded beliefs and z's deviations."""

    def one(task, key):
        experience = jm.collect(jm.deterministic(run.learner), params, family.env, task, key, plan).rounds
        stream = jax.tree.map(lambda leaf: leaf[-1], experience.replace(reset_key=()))
        decoded = beliefs.along(family, run.config.algo_config, params, stream)
        deviation = jnp.exp(0.5 * stream.output.aux.log_var[:, 0])
        return stream.next_obs[:, 0], stream.reward[:, 0], decoded, deviation

    return jax.vmap(one)(goals, jax.random.split(jax.random.key(0), num_goals))


cells, rewards, decoded, deviation = (np.asarray(part) for part in trials(run.params))
returns = rewards.reshape(num_goals, plan.episodes, -1).sum(-1).mean(0)
optimal = jm.references.grid.bayes_optimal_returns(episodes=plan.episodes)
print("return by episode:", np.round(returns, 2), "Bayes-optimal:", np.round(optimal, 2))

# %% [markdown]
# The exact posterior is simple. Until the goal is found it is uniform over the cells that were not visited; then it is
# certain. The decoder does not know that there is exactly one goal, so we divide its probabilities by their sum.


# %%
def posterior(path, goal):
    """Computes the exact posterior over cells before and after each step of a path [T, 2], [T + 1, 5, 5]."""
    possible = np.ones((5, 5))
    possible[:2, :2] = 0  # no goal lies there
    steps = [possible / possible.sum()]
    for x, y in path.astype(int):
        if (x, y) == tuple(goal):
            possible = np.zeros((5, 5))
            possible[x, y] = 1
        elif possible.sum() > 1:
            possible = possible.copy()
            possible[x, y] = 0
        steps.append(possible / possible.sum())
    return np.stack(steps)


exact = np.stack([posterior(path, goal) for path, goal in zip(cells, goals.goal.tolist(), strict=True)])
relative = decoded / decoded.sum((-1, -2), keepdims=True)

# %%
found_at = (rewards > 0).argmax(1) + 1
# a goal that is found in the first episode, but late
index = int(np.argmin(np.abs(found_at - 12)))
times = (0, 3, 6, 9, 12, 15)
figure, panels = plt.subplots(2, len(times), figsize=(10, 4.1), layout="constrained")
walk = np.concatenate([[[0, 0]], cells[index]])
for row, name, belief in zip(panels, ("decoded from z", "exact posterior"), (relative, exact), strict=True):
    for axes, time in zip(row, times, strict=True):
        image = axes.imshow(belief[index, time].T ** 0.5, cmap="Blues", vmin=0, vmax=1, origin="lower")
        axes.plot(*walk[: time + 1].T, color="C1", linewidth=2)
        axes.plot(*walk[time], "o", color="C1")
        axes.plot(*np.asarray(goals.goal[index]), "*", color="C2", markerfacecolor="none", markersize=11)
        axes.set(xticks=np.arange(6) - 0.5, yticks=np.arange(6) - 0.5, xticklabels=[], yticklabels=[])
        axes.set_title(f"step {time}", fontsize=9)
        axes.tick_params(length=0)
        axes.grid(color="0.8")
    row[0].set_ylabel(name)
bar = figure.colorbar(image, ax=panels, shrink=0.7, label="probability of the goal")
bar.set_ticks(np.sqrt([0, 0.05, 0.2, 0.5, 1]), labels=["0", "0.05", "0.2", "0.5", "1"])

# %% [markdown]
# Over all goals that take a while to find: the probability of the true goal, and the entropy of the belief over cells,
# aligned at the step in which the goal is found. Before it, the exact probability is one over the number of unvisited
# cells.


# %%
def at_goal(belief):
    """Returns the probability of the true goal, [N, T + 1]."""
    return np.stack([one[:, x, y] for one, (x, y) in zip(belief, goals.goal.tolist(), strict=True)])


def entropy(belief):
    """Computes the entropy of beliefs over cells in bits, [N, T + 1]."""
    return -(belief * np.log2(np.maximum(belief, 1e-12))).sum((-1, -2))


late = np.flatnonzero(found_at > 8)
offsets = np.arange(-8, 9)
around = lambda values: np.stack([values[one, found_at[one] + offsets] for one in late])
figure, panels = plt.subplots(1, 2, figsize=(10, 3.5))
for axes, measure in zip(panels, (at_goal, entropy), strict=True):
    for name, belief, look in (("decoded", relative, "-"), ("exact", exact, "--")):
        axes.plot(offsets, around(measure(belief)).mean(0), look, linewidth=2, label=name)
    axes.axvline(0, color="0.6", linestyle=":")
    axes.set(xlabel="step from finding the goal")
    axes.grid(color="0.9")
panels[0].set(ylabel="probability", title="The true goal", ylim=(0, 1.05))
panels[1].set(ylabel="entropy (bits)", title="The belief over cells", ylim=(0, None))
panels[0].legend(frameon=False)
figure.tight_layout()
width = around(np.concatenate([deviation, deviation[:, -1:]], 1).mean(-1)).mean(0)
print(f"mean standard deviation of z: {width[0]:.2f} eight steps before, {width[-1]:.2f} eight steps after")

# %% [markdown]
# The width of the belief over z itself says little: the scale of z is the decoder's own, and need not be the same
# everywhere. What counts is what is decoded.
#
# ## PEARL on a half circle of goals
#
# A point starts at the origin; the goal is on the half circle of radius 1 above it, and there is a reward only within
# 0.2 of it. PEARL learns off-policy. Its belief over z is a product of Gaussian factors, one per transition. With two
# numbers in z we can look at it directly. We train for a short time only.

# %%
family = jm.tasks.sparse_point_robot()
updates = 2 if QUICK else 160
sac = jm.outer.OffPolicyConfig(
    gradient_steps=2 if QUICK else 30,
    batch_size=32,
    discount=0.9,
    learning_rate=2e-3,
    reward_scale=2.0,
    temperature=0.01,
    kl_weight=0.005,
    replay_capacity=10_000,
    anneal_over=updates,
)
config = jm.PEARLConfig(
    num_train_tasks=4 if QUICK else 80,
    tasks_per_update=4 if QUICK else 80,
    streams=4 if QUICK else 20,
    latent=2,
    context_batch=256,
    encoder_hidden=(128, 128),
    hidden=(128, 128),
    prior_episodes=2 if QUICK else 5,
    episodes=4 if QUICK else 20,
    sac=sac,
)
meta = jm.pearl(family, config)
state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), updates, chunk=1 if QUICK else 20)

# %% [markdown]
# In an evaluation the first five episodes sample z from the prior; each later one samples it from the belief given all
# episodes before.

# %%
num_tasks = 4 if QUICK else 100
angles = jnp.linspace(0, jnp.pi, num_tasks)
tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(2), num_tasks))
tasks = tasks.replace(goal=jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1))
encoder = pearl.evidence_encoder(family, config)


@jax.jit
def trials(params):
    """Runs a trial on each task: positions [N, R, T, 2], rewards [N, R, T], and the belief before each episode."""

    def one(task, key):
        trial = jm.collect(meta.learner, params, family.env, task, key, meta.plan)
        fast = jm.replay_fast(meta.learner, params, trial)
        belief = jax.vmap(lambda evidence: encoder.belief(params.encoder, evidence))(fast.evidence)
        return trial.rounds.next_obs[:, :, 0], trial.rounds.reward[:, :, 0], belief

    return jax.vmap(one)(tasks, jax.random.split(jax.random.key(3), num_tasks))


positions, rewards, belief = jax.device_get(trials(state.params))

# %% [markdown]
# Does the return rise where the agent starts to act on its belief? Beside it, episodes of three tasks. One sample of z
# is one consistent plan for a whole episode: samples from the prior search, and those from the posterior exploit what
# was found. The green disc is where the goal pays.

# %%
returns = rewards.sum(-1)  # [N, R]
prior, last = config.prior_episodes, config.episodes
some = np.linspace(0, num_tasks - 1, 5).round().astype(int)[1:4]
figure, panels = plt.subplots(1, 4, figsize=(13, 3.1), width_ratios=(1.3, 1, 1, 1))
panels[0].plot(np.arange(1, last + 1), returns.mean(0), "o-", markersize=4)
panels[0].axvline(prior + 0.5, color="0.6", linestyle=":")
panels[0].set(xlabel="episode; dotted: from here on z from the posterior", ylabel="return", title="Mean over all goals")
circle = np.linspace(0, np.pi, 100)
for axes, index in zip(panels[1:], some, strict=True):
    axes.plot(np.cos(circle), np.sin(circle), color="0.8", linewidth=1)
    for kind, color, episodes in (("prior", "C1", range(prior)), ("posterior", "C0", range(last - 2, last))):
        for number, episode in enumerate(episodes):
            path = np.concatenate([[[0, 0]], positions[index, episode]])
            axes.plot(*path.T, color=color, linewidth=1.5, label=f"z from the {kind}" if number == 0 else None)
    axes.add_patch(plt.Circle(np.asarray(tasks.goal[index]), 0.2, color="C2", alpha=0.3))
    axes.set(aspect="equal", xlim=(-1.5, 1.5), ylim=(-0.4, 1.5))
    axes.set_title(f"goal at {np.degrees(angles[index]):.0f}°")
panels[1].legend(fontsize=7, loc="lower center", frameon=False)
figure.tight_layout()

# %% [markdown]
# The belief over z. On the left the posterior of every task after the whole trial: its mean, coloured by the direction
# of the goal. Nobody told the agent that there are angles; where colours change gradually, neighbouring goals have
# neighbouring z. On the right the posterior of one task, as ellipses of two standard deviations, after more and more
# episodes.


# %%
def ellipse(axes, mean, variance, **look):
    """Draws a circle of two standard deviations of a diagonal Gaussian."""
    turn = np.linspace(0, 2 * np.pi, 100)
    spread = 2 * np.sqrt(variance)
    axes.plot(mean[0] + spread[0] * np.cos(turn), mean[1] + spread[1] * np.sin(turn), **look)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
dots = left.scatter(*belief.mean[:, -1].T, c=np.degrees(angles), cmap="twilight_shifted", s=20)
figure.colorbar(dots, ax=left, label="direction of the goal (degrees)")
left.set_title("Posterior means after the trial")
index = some[0]
moments = (0, 1, 2, 3) if QUICK else (0, 1, 3, 6, 10, 19)
for number, episode in enumerate(moments):
    color = plt.get_cmap("viridis")(number / len(moments))
    label = "prior" if episode == 0 else f"after {episode} episode{'s' * (episode > 1)}"
    ellipse(right, belief.mean[index, episode], belief.variance[index, episode], color=color, label=label)
right.set_title(f"Goal at {np.degrees(angles[index]):.0f}°")
right.legend(fontsize=8, frameon=False)
for axes in (left, right):
    axes.set(xlabel="z, first number", ylabel="z, second number")

# %% [markdown]
# How wide the beliefs are, over the episodes: every transition multiplies one more factor into the product, with a
# reward or without. The prior is not one of the factors, so after a single episode the belief can be wider than the
# prior.

# %%
deviations = np.sqrt(belief.variance).mean(-1)  # [N, R]
figure, axes = plt.subplots(figsize=(6.4, 3.2))
low, middle, high = np.percentile(deviations, [10, 50, 90], axis=0)
axes.fill_between(np.arange(last), low, high, alpha=0.2, label="10 % to 90 % of the tasks")
axes.plot(np.arange(last), middle, "o-", markersize=4, label="median")
axes.set(xlabel="episodes seen", ylabel="standard deviation of z", yscale="log", title="The belief narrows")
axes.legend(frameon=False)
axes.grid(color="0.9")
figure.tight_layout()

# %%
before, after = returns[:, :prior].mean(), returns[:, -5:].mean() if not QUICK else returns[:, -1].mean()
found = around(at_goal(relative)).mean(0)
if not QUICK:
    assert found[-1] > 0.5 > found[7], "the decoded belief is certain after the goal was found, and not before"
    assert after > 2 * before
    assert deviations[:, -1].mean() < 0.5 * deviations[:, 0].mean()
print(f"VariBAD: the decoded probability of the goal is {found[7]:.2f} one step before it is found, ", end="")
print(f"and {found[-1]:.2f} 8 steps after")
print(f"PEARL: return {before:.1f} with z from the prior, {after:.1f} with z from the posterior")
