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
# # jaxmeta by hand
#
# `jm.maml(family)` is a short recipe. Here its parts are put together one by one: a task family, a network, an inner
# loop, an outer loop. Then we look at what the agent learned: how its return rises with every gradient step on a task
# that it has never seen.
#
# Open this file as a notebook with `jupytext --to ipynb notebooks/quickstart.py`, or run it as a script.

# %%
import os

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxmeta import inner, nets, outer, rl

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## A family of tasks
#
# A point starts at the origin and must find a goal that it cannot see. A *task* is a goal; it is an explicit argument
# of the environment, so any number of tasks can be vmapped.

# %%
family = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=10 if QUICK else 100))
goals = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 5)).goal
print(np.round(np.asarray(goals, float), 2))

# %% [markdown]
# ## An agent that adapts by one gradient step
#
# A network; a plain policy around it; and an inner loop that takes one policy-gradient step on whatever the policy
# experienced. `inner.sgd` could be any optax transformation, learned or not.

# %%
network = nets.actor_critic(family.env.spec, hidden=(16,) if QUICK else (64, 64), init_log_std=-1.5)
advantage = rl.linear_baseline(discount=0.99)
learner = inner.gradient(inner.policy(network), objective=rl.ratio, updater=inner.sgd(0.1), advantage=advantage)
plan = jm.Plan(rounds=1, streams=5 if QUICK else 20)

# %% [markdown]
# One trial on one task: a round of experience, an adaptation, and a round with the adapted policy.

# %%
params = learner.init(jax.random.key(1))
task = family.sample(jax.random.key(2))
trial = jm.collect(learner, params, family.env, task, jax.random.key(3), plan)
print("rewards [rounds + 1, time, streams]:", trial.rounds.reward.shape)

# %% [markdown]
# The meta-loss is a pure function of params and trials. Its gradient goes through the adaptation, second order and all.

# %%
meta_loss = outer.meta_loss(learner, rl.ratio, advantage)
trials = jax.tree.map(lambda leaf: leaf[None], trial)
meta_gradient = jax.jit(jax.grad(meta_loss))(params, trials)
largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(meta_gradient))
print(f"largest entry: {largest:.3f}")

# %% [markdown]
# ## Meta-training
#
# The outer loop follows that gradient within a trust region, on fresh tasks in every update.

# %%
num_tasks, num_updates = (2, 2) if QUICK else (20, 60)
meta = outer.meta_update(
    learner,
    plan,
    outer.uniform(family),
    outer.fresh(learner, family, plan),
    outer.trust_region(learner, advantage),
    outer.Info(num_tasks, plan, spread=num_tasks),
)
history = []
state = jm.train(
    meta,
    jm.init_state(meta, jax.random.key(4)),
    num_updates,
    chunk=1 if QUICK else 5,
    callbacks=[lambda update, state, metrics: history.append(metrics)],
)
before, after = (np.concatenate([chunk[name] for chunk in history]) for name in ("return/first", "return/last"))

# %% [markdown]
# ## Adaptation on held-out tasks
#
# Evaluation is collection on held-out tasks, here with more steps than in training. The same function
# evaluates oracles and classical references.

# %%
num_test = 4 if QUICK else 40
tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(5), num_test))
report = jm.evaluate(
    learner, state.params, family.env, tasks, jax.random.key(6), jm.Plan(rounds=3, streams=plan.streams)
)
curve = [episodes[0] for episodes in report.by_round_and_episode()]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.plot(before, label="before the step")
left.plot(after, label="after the step")
left.set(xlabel="meta-update", ylabel="return", title="Meta-training")
left.legend()
means = np.array([point["mean"] for point in curve])
intervals = np.array([point["ci95"] for point in curve])
right.errorbar(range(len(curve)), means, np.abs(intervals.T - means), marker="o", capsize=3)
right.set(xlabel="gradient steps on the task", ylabel="return", title=f"{num_test} held-out goals, 95 % interval")
right.set_xticks(range(len(curve)))
figure.tight_layout()

# %% [markdown]
# The agent was meta-trained for one step, and the first step on a new goal does all of the work. Later steps overshoot,
# because nothing trained the agent for them; `rounds=3` in the plan of training would.

# %%
gain = report.gain()
low, high = gain["ci95"]
print(f"return before {means[0]:.1f}, after {means[-1]:.1f}")
print(f"gain {gain['mean']:.1f}, 95 % interval {low:.1f} to {high:.1f}")
