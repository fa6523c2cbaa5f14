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
# # RL² and its belief
#
# RL² has no explicit belief about its task: a recurrent policy receives actions and rewards, and is trained to collect
# much reward within a trial. To do that well it has to keep in its hidden state what a Bayesian agent would compute. We
# load two agents that come with jaxmeta and look at how close they are: first on bandits, then on a grid.

# %%
import os

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxmeta.references import bandits, grid
from jaxmeta.viz import in_context

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## Ten arms, ten pulls
#
# Every task is a bandit with ten arms. An arm pays 1 with a probability that is uniform on [0, 1] and unknown to the
# agent. With as many pulls as arms, it never pays to try all of them.

# %%
run = jm.zoo.load("rl2-bandit-10x10")
num_arms = run.config.tasks_config.num_arms
print(run.config.algo, "on", run.config.tasks, "after", run.step, "updates; trained by")
print(jm.zoo.record("rl2-bandit-10x10")["command"])

# %% [markdown]
# Regret is the reward that was lost against always pulling the best arm. References are learners too, so `jm.evaluate`
# runs them on the same tasks. All of them know the prior; RL² had to learn it. For ten pulls, dynamic programming even
# gives the exact value of the Bayes-optimal policy.

# %%
num_tasks = 200 if QUICK else 4000
tasks = jax.vmap(run.family.sample_test)(jax.random.split(jax.random.key(0), num_tasks))
agents = {
    "random": bandits.random(num_arms),
    "Thompson sampling": bandits.thompson(num_arms),
    "UCB1": bandits.ucb1(num_arms),
    "Gittins index": bandits.gittins(num_arms, num_pulls=10),
}
rewards = {}
for name, learner in {**agents, "RL²": run.learner}.items():
    params = run.params if name == "RL²" else learner.init(jax.random.key(0))
    report = jm.evaluate(learner, params, run.family, tasks, jax.random.key(1), run.meta.plan)
    rewards[name] = np.asarray(report.returns)[:, 0, 0]  # [tasks, pulls]

# %%
best = np.asarray(tasks.probability.max(-1))
pulls = np.arange(1, 11)
figure, axes = plt.subplots(figsize=(6.4, 3.8))
for (name, reward), look in zip(rewards.items(), (":", "-.", "--", "s", "-"), strict=True):
    regret = best.mean() * pulls - reward.cumsum(1).mean(0)
    axes.plot(pulls, regret, look, markersize=8, markerfacecolor="none", linewidth=2, label=f"{name}: {regret[-1]:.2f}")
optimum = best.mean() * 10 - bandits.bayes_optimal_value(num_arms, 10)
axes.plot([10], [optimum], "k*", markersize=12, label=f"Bayes-optimal, exact: {optimum:.2f}")
axes.set(xlabel="pull", ylabel="cumulative regret", title=f"Mean over {num_tasks:,} held-out bandits")
axes.legend(frameon=False)
axes.grid(color="0.9")
figure.tight_layout()

# %% [markdown]
# ## What the hidden state knows
#
# The Bayesian belief about an arm with s rewards in n pulls is Beta(1 + s, 1 + n - s), with mean (s + 1) / (n + 2). Can
# it be read off the 64 numbers of the hidden state by a *linear* map? We collect trials, run the learner's `act` over
# the stored inputs again to get the hidden states, fit a ridge regression on one half of the trials and test it on the
# other. An untrained network with the same inputs is the control.


# %%
@jax.jit
def experience(params, tasks, key):
    """Collects a trial on each task: a round with leaves [N, T, 1, ...]."""
    keys = jax.random.split(key, num_tasks)

    def collect(task, key):
        return jm.collect(run.learner, params, run.family.env, task, key, run.meta.plan)

    return jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(collect)(tasks, keys).rounds)


@jax.jit
def hidden_states(params, inputs):
    """Runs the policy over inputs [N, T, 1, ...]; returns its state before each pull, [N, T, H]."""

    def step(carry, moment):
        carry, _ = run.learner.act(params, (), carry, moment)
        return carry, carry["policy"][-1]  # the value network has a state of its own

    start = run.learner.reset(params, (), jax.random.key(0))
    inputs = jax.tree.map(lambda leaf: leaf[:, :, 0], inputs)
    return jax.vmap(lambda one: jax.lax.scan(step, start, one)[1])(inputs)


rounds = experience(run.params, tasks, jax.random.key(2))
pulled = jax.nn.one_hot(rounds.action[..., 0], num_arms)


def before(count):
    return jnp.cumsum(count, 1) - count


counts, successes = before(pulled), before(pulled * rounds.reward)
posterior_mean = np.asarray((successes + 1) / (counts + 2))  # [N, T, arms]


# %%
def probe(states, targets, ridge=1e-2):
    """Predicts targets [N, D] linearly from states [N, H]; returns R² on the half that it was not fitted on."""
    half = len(states) // 2
    x = np.concatenate([states, np.ones((len(states), 1))], 1)
    weights = np.linalg.solve(x[:half].T @ x[:half] + ridge * np.eye(x.shape[1]), x[:half].T @ targets[:half])
    rest = targets[half:]
    return 1 - np.square(x[half:] @ weights - rest).mean() / np.square(rest - rest.mean(0)).mean()


untrained = run.learner.init(jax.random.key(3))
r_squared = {}
for name, params in {"trained": run.params, "untrained": untrained}.items():
    states = np.asarray(hidden_states(params, rounds.inputs))
    r_squared[name] = [probe(states[:, t], posterior_mean[:, t]) for t in range(1, 10)]
print({name: np.round(values, 2).tolist() for name, values in r_squared.items()})

# %% [markdown]
# The control is a warning: a random recurrent network remembers ten pulls just as well. That the belief *can be read
# off* does not show that it is *used*. Training even lets go of something: with few pulls left, it matters less which
# arms were rejected.
#
# So we also look at what the policy does with its belief. The Gittins index is computed from the exact posterior; how
# much of its probability does the policy put on arms with the highest index, in the same situations?

# %%
reference = agents["Gittins index"]
table = reference.init(jax.random.key(0))
logits = jax.jit(jax.vmap(lambda one: jm.unroll(reference, table, (), one).dist))(rounds)[:, :, 0]
recommended = np.asarray(logits) > -1.0  # the rest has a logit of -1e9


def agreement(params):
    """Computes the probability that the policy puts on recommended arms, before each pull, [T]."""
    logits = jax.jit(jax.vmap(lambda one: jm.unroll(run.learner, params, (), one).dist))(rounds)[:, :, 0]
    return np.asarray((jax.nn.softmax(logits) * recommended).sum(-1).mean(0))


agrees = {"trained": agreement(run.params), "untrained": agreement(untrained)}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
for name, look in (("trained", "o-"), ("untrained", "s--")):
    left.plot(pulls[1:], r_squared[name], look, label=f"{name} network")
    right.plot(pulls, agrees[name], look, label=f"{name} network")
left.set(xlabel="before pull", ylabel="R² on held-out trials", title="Posterior means, read off linearly")
right.set(xlabel="pull", ylabel="probability", title="Arms with the highest Gittins index")
for axes in (left, right):
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, loc="lower left")
    axes.grid(color="0.9")
figure.tight_layout()

# %% [markdown]
# Untrained, the policy is uniform, and agrees as often as there are recommended arms: all at first, then mostly the one
# that paid, or the ones that were not tried yet. On a single bandit, beside the exact posterior over the *best* arm:
# RL² stays with an arm that pays, and leaves one that does not.

# %%
in_context.beside_posterior(run, "RL² on one bandit", seed=20)

# %% [markdown]
# ## A hidden goal on a grid
#
# GridNavi has 5 × 5 cells. One of 21 cells is the goal, and it is seen only by the reward of stepping on it. Four
# episodes of 15 steps are one trial, and the goal stays. The belief is simple here: the goal is equally likely in every
# cell that was not visited yet, until it is found. What is hard is the planning: which way to search?

# %%
run = jm.zoo.load("rl2-gridnavi")
family, plan = run.family, run.meta.plan
goals = jm.tasks.all_goals()
num_goals = len(goals.goal)
repeats = 2 if QUICK else 40
often = jax.tree.map(lambda leaf: jnp.tile(leaf, (repeats, 1)), goals)
report = jm.evaluate(run.learner, run.params, family, often, jax.random.key(5), plan)
ours = np.asarray(report.returns)[:, 0, 0].mean(0)
optimal = grid.bayes_optimal_returns(episodes=plan.episodes)

figure, axes = plt.subplots(figsize=(6.4, 3.4))
episodes = np.arange(1, plan.episodes + 1)
axes.bar(episodes - 0.2, ours, 0.4, label="RL²")
axes.bar(episodes + 0.2, optimal, 0.4, label="Bayes-optimal planner, exact")
axes.axhline(grid.oracle_return(), color="0.3", linestyle="--", label="goal known, exact")
axes.set(xlabel="episode of the trial", ylabel="return", xticks=episodes, title="All 21 goals", ylim=(0, 15))
axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)
figure.tight_layout()
print(f"RL² {ours.sum():.2f}, Bayes-optimal {optimal.sum():.2f} in the whole trial")

# %% [markdown]
# ### Where can the goal still be?
#
# The search of both agents side by side, for a goal that they find late. Blue cells can still hold the goal; the
# darker, the fewer there are. Both visit a new cell at nearly every step. The planner sees to it that those that remain
# can be visited on one way from the start; RL² has left one behind.


# %%
@jax.jit
def walks(tasks):
    """Runs both agents on tasks [N, ...], RL² by the mode of its policy; cells (x, y) after each step, [2, N, T, 2]."""

    def of(learner, params):
        keys = jax.random.split(jax.random.key(6), num_goals)

        def collect(task, key):
            return jm.collect(learner, params, family.env, task, key, plan)

        return jax.vmap(collect)(tasks, keys).rounds.next_obs[:, 0, :, 0]

    planner = grid.bayes_optimal(episodes=plan.episodes)
    return jnp.stack([of(jm.deterministic(run.learner), run.params), of(planner, ())])


def possible(path, goal):
    """Returns which cells can still hold the goal, before and after each step of a path [T, 2]: [T + 1, 5, 5]."""
    left = np.ones((5, 5), bool)
    left[:2, :2] = False  # no goal lies there
    steps = [left.copy()]
    for x, y in path.astype(int):
        found = (x, y) == tuple(goal)
        left = np.zeros_like(left) if found else left.copy()
        left[x, y] = found
        steps.append(left.copy())
        if found:
            return np.stack(steps + [left] * (len(path) + 1 - len(steps)))
    return np.stack(steps)


paths = np.asarray(walks(goals))
beliefs = np.stack(
    [[possible(path, goal) for path, goal in zip(one, goals.goal.tolist(), strict=True)] for one in paths]
)

# %%
index = goals.goal.tolist().index([4, 4])
times = (0, 3, 6, 9, 12, 15)
figure, panels = plt.subplots(2, len(times), figsize=(10, 3.9))
for row, name, path, belief in zip(panels, ("RL²", "Bayes-optimal"), paths[:, index], beliefs[:, index], strict=True):
    cells = np.concatenate([[[0, 0]], path[:15]])
    for axes, time in zip(row, times, strict=True):
        axes.imshow((belief[time] / belief[time].sum()).T ** 0.5, cmap="Blues", vmin=0, vmax=1, origin="lower")
        axes.plot(*cells[: time + 1].T, color="C1", linewidth=2)
        axes.plot(*cells[time], "o", color="C1")
        axes.plot(*np.asarray(goals.goal[index]), "*", color="C2", markerfacecolor="none", markersize=11)
        axes.set_title(f"step {time}: {belief[time].sum()} cells", fontsize=9)
        axes.set(xticks=np.arange(6) - 0.5, yticks=np.arange(6) - 0.5, xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
        axes.grid(color="0.8")
    row[0].set_ylabel(name)
figure.tight_layout()

# %% [markdown]
# Averaged over all goals: in the first episode RL² rules out cells as fast as the planner. The second episode shows
# what the cell that was left behind costs.

# %%
left = beliefs.sum((-1, -2)).mean(1)  # [2, T + 1]
figure, axes = plt.subplots(figsize=(6.4, 3.2))
for name, curve, look in zip(("RL²", "Bayes-optimal"), left, ("-", "--"), strict=True):
    axes.plot(curve[:31], look, linewidth=2, label=name)
axes.axvline(15, color="0.6", linewidth=1, linestyle=":")
axes.set(xlabel="step of the trial; dotted: back to the start", ylabel="possible goal cells", title="All 21 goals")
axes.legend(frameon=False)
axes.grid(color="0.9")
figure.tight_layout()

# %%
total = {name: reward.sum(1).mean() for name, reward in rewards.items()}
assert total["RL²"] > total["random"] + 1.0
assert min(agrees["trained"]) > 0.8 and agrees["untrained"][-1] < 0.6
assert ours.sum() > 0.9 * optimal.sum()
print("reward of ten pulls:", {name: round(float(value), 2) for name, value in total.items()})
print(f"of the Bayes-optimal return: bandits {total['RL²'] / bandits.bayes_optimal_value(10, 10):.3f}, ", end="")
print(f"grid {ours.sum() / optimal.sum():.3f}")
