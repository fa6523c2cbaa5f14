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
# # Hierarchy
#
# An agent that has to solve many related tasks can share *parts of behaviour* between them: options, or sub-policies.
# What remains to be learned on a task is which of them to follow where. We train two such agents and look inside:
# option-critic on four goals in four rooms, and MLSH, where a new master learns every task from scratch.

# %%
import os

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxmeta import inner
from jaxmeta.algos.hierarchy import mlsh
from jaxmeta.references import moving_bandits, rooms
from jaxmeta.tasks.four_rooms import CELLS, MOVES
from jaxmeta.viz import options

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## Four rooms, four goals, four options
#
# The goal is one of the four hallways. Episodes have 50 steps and start anywhere. All goals share the options, which do
# not know the goal; `masters="per-task"` gives each goal a policy over options of its own. Everything is a table here
# (no hidden layers), and a termination costs a little (`deliberation_cost`), so that options last.

# %%
GOALS = (25, 51, 62, 88)
family = jm.tasks.four_rooms(jm.tasks.FourRoomsConfig(goals=GOALS))
config = jm.OptionCriticConfig(
    num_options=4,
    masters="per-task",
    num_tasks=4,
    streams=4 if QUICK else 40,
    hidden=(),
    ppo=jm.outer.ActorCriticConfig(learning_rate=2e-2, epochs=5, minibatches=1, value_weight=0.5, entropy_weight=0.01),
)
meta = jm.option_critic(family, config)
seen = jm.tasks.with_task_id(family)  # the masters observe which goal it is
history = []
state = jm.train(
    meta,
    jm.init_state(meta, jax.random.key(0)),
    2 if QUICK else 400,
    chunk=1 if QUICK else 50,
    callbacks=[lambda update, state, metrics: history.append(metrics)],
)
learned = {name: np.concatenate([chunk[name] for chunk in history]) for name in history[0]}

# %% [markdown]
# With a known goal the optimal return follows from dynamic programming. The share of steps of each option shows whether
# one of them has taken over.

# %%
optimum = np.mean([rooms.optimal_return(goal) for goal in GOALS])
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(learned["return/last"], color="C0")
left.axhline(optimum, color="0.3", linestyle="--", label="goal known, exact")
left.set(xlabel="update", ylabel="return", title="Mean over the four goals")
left.legend(frameon=False)
shares = [learned[f"use/option_{index}"] for index in range(4)]
right.stackplot(
    np.arange(len(shares[0])), shares, labels=[f"option {index}" for index in range(4)], colors=options.COLORS
)
right.set(xlabel="update", ylabel="share of steps", ylim=(0, 1), title="Who acts")
right.legend(loc="lower right", fontsize=8)
figure.tight_layout()
print(f"an option lasts {learned['use/length'][-1]:.1f} steps; the exact optimum is a return of {optimum:.1f}")

# %% [markdown]
# ### Which option acts where
#
# For every cell and goal: the colour mixes the options by the probability that the master chooses them there, and the
# arrow is the expected move. The star is the goal. With as many options as goals, each goal has nearly claimed one for
# itself; what it has not learned there, another option does.

# %%
spec, num_options = seen.env.spec, config.num_options
cells = jnp.eye(len(CELLS))
network = config.network(spec, len(GOALS))
# an option alone: the same network, and the number of the option that acts
alone = inner.one_option(network)
each = (jax.tree.map(lambda leaf: jnp.stack([leaf] * num_options), state.params), jnp.arange(num_options))
panels = {}
for index, goal in enumerate(GOALS):
    code = jnp.broadcast_to(jax.nn.one_hot(index, len(GOALS)), (len(CELLS), len(GOALS)))
    obs = jnp.concatenate([cells, code], axis=1)
    chosen = options.choice_probabilities(meta.learner, state.params, (), spec, obs)
    actions = options.action_probabilities(alone, each, spec, obs)
    panels[f"goal {goal}"] = options.acting(chosen, actions, MOVES, goals=(goal,))
names = [f"option {index}" for index in range(num_options)]
figure = options.draw_rooms(panels, names, "Options that the masters choose, by goal")
figure.set_dpi(72)
figure

# %% [markdown]
# ### What each option is worth on each goal
#
# Every option acts alone for whole episodes. An option that has specialised is good on one goal and poor on the others;
# no single option is as good on all goals as the masters are.

# %%
matrix = jax.jit(lambda each, key: options.policy_returns(alone, each, seen.env, seen.train_tasks, key))
returns = np.asarray(matrix(each, jax.random.key(1)))
options.draw_returns(returns, names, [f"goal {goal}" for goal in GOALS], "Return of each option alone", optimum)

# %% [markdown]
# ## MLSH: what a new master makes of the sub-policies
#
# Here the master is not kept: on every task a new one is initialised and learns from scratch, for nine rounds, which
# sub-policy to follow. The sub-policies are meta-learned so that this goes fast. The tasks are moving bandits: two
# points on a plane, at new places in every episode. The observation shows both; one of them, the same in the whole
# trial, pays.

# %%
family = jm.tasks.moving_bandits()
config = jm.MLSHConfig(num_tasks=2, streams=4, warmup=2, joint=2) if QUICK else jm.MLSHConfig()
meta = jm.mlsh(family, config)
state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 2 if QUICK else 240, chunk=2 if QUICK else 20)

# %% [markdown]
# First the matrix of sub-policies and goals: has each learned to go to one of the points?

# %%
policy, each = mlsh.sub_policies(family.env.spec, config, state.params)
matrix = jax.jit(lambda each, key: options.policy_returns(policy, each, family.env, family.train_tasks, key))
alone_on_goals = np.asarray(matrix(each, jax.random.key(2)))
known = moving_bandits.oracle_return()
options.draw_returns(
    alone_on_goals, ["sub-policy 0", "sub-policy 1"], ["goal 0", "goal 1"], "Return of each sub-policy alone", known
)

# %% [markdown]
# Then trials on both goals. After each round the master learns by PPO from the 20 episodes of the round. The control is
# the same master over *untrained* sub-policies.

# %%
plan = jm.Plan(rounds=config.warmup, streams=config.streams)
trials = 2 if QUICK else 32
tasks = jax.tree.map(lambda leaf: jnp.tile(leaf, trials), family.train_tasks)
fresh = meta.learner.init(jax.random.key(3))
untrained = state.params.replace(learner=fresh.learner)  # with the same statistics of observations
curves = {}
for name, params in {"meta-learned": state.params, "untrained": untrained}.items():
    report = jm.evaluate(meta.learner, params, family, tasks, jax.random.key(4), plan)
    curves[name] = report.by_round_and_episode()

figure, axes = plt.subplots(figsize=(6.4, 3.6))
rounds = np.arange(config.warmup + 1)
for name, curve in curves.items():
    mean = np.array([point[0]["mean"] for point in curve])
    low, high = np.array([point[0]["ci95"] for point in curve]).T
    axes.errorbar(rounds, mean, (mean - low, high - mean), marker="o", capsize=3, label=f"{name} sub-policies")
axes.axhline(known, color="0.3", linestyle="--", label="goal known, exact")
axes.set(xlabel="rounds that the master has learned from", ylabel="return", xticks=rounds, title="A new master")
axes.legend(frameon=False)
axes.grid(color="0.9")
figure.tight_layout()

# %% [markdown]
# Where the two points are at (90, 290) and (310, 130), this is where the sub-policies go from everywhere, and whom a
# new master follows before and after its nine rounds, if goal 0 pays and if goal 1 pays. Between the two colours it is
# undecided.

# %%
from jaxmeta.tasks.moving_bandits import EXTENT
from jaxmeta.tasks.moving_bandits import MOVES as DIRECTIONS

side = EXTENT / 14 * (np.arange(14) + 0.5)
positions = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
points = np.array([[90.0, 290.0], [310.0, 130.0]])
obs = jnp.asarray(
    np.concatenate([positions, np.tile(points.reshape(-1), (len(positions), 1))], 1) / EXTENT, jnp.float32
)


@jax.jit
def masters(task):
    """Runs a trial, and returns which sub-policy the master chooses where, before and after all rounds, [2, P, K]."""
    trial = jm.collect(meta.learner, state.params, family.env, task, jax.random.key(5), plan)
    fast = jm.replay_fast(meta.learner, state.params, trial)

    def choose(one):
        return options.choice_probabilities(meta.learner, state.params, one, family.env.spec, obs)

    return jnp.stack([choose(jax.tree.map(lambda leaf, index=index: leaf[index], fast)) for index in (0, -1)])


actions = jax.jit(lambda: options.action_probabilities(policy, each, family.env.spec, obs))()
every = np.eye(config.num_policies)
panels = {
    f"sub-policy {index}": options.acting(np.tile(every[index], (len(obs), 1)), actions, DIRECTIONS, points)
    for index in range(config.num_policies)
}
for goal in (0, 1):
    before, after = masters(jax.tree.map(lambda leaf, goal=goal: leaf[goal], family.train_tasks))
    if goal == 0:
        panels["master before"] = options.acting(before, actions, DIRECTIONS, points)
    panels[f"master after: goal {goal}"] = options.acting(after, actions, DIRECTIONS, points)
names = ["sub-policy 0", "sub-policy 1"]
figure = options.draw_plane(panels, positions, names, "Sub-policies, and whom a new master follows")
figure.set_dpi(72)
figure

# %%
ends = {name: (curve[0][0]["mean"], curve[-1][0]["mean"]) for name, curve in curves.items()}
if not QUICK:
    assert learned["return/last"][-20:].mean() > 0.85 * optimum
    assert set(alone_on_goals.argmax(0).tolist()) == {0, 1}, "each goal has a sub-policy of its own"
    assert ends["meta-learned"][1] > 2 * ends["untrained"][1]
print(f"four rooms: return {learned['return/last'][-20:].mean():.1f} of {optimum:.1f}")
for name, (first, last) in ends.items():
    print(
        f"a new master over {name} sub-policies: {first:.1f} before it learns, {last:.1f} after {config.warmup} rounds"
    )
