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
# # Models and planning
#
# An agent can adapt to a task by learning how the task *moves*, and then plan. We do so in two ways on a pendulum whose
# physics is unknown: PETS refits an ensemble of models after every episode; GrBAL adapts a meta-learned model by one
# gradient step at every step, fast enough to notice that the motor has been reversed.

# %%
import dataclasses
import os

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxmeta import rl
from jaxmeta.algos.models import grbal, pets, planning
from jaxmeta.references import planner
from jaxmeta.viz import dynamics, online

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## An ensemble that learns one pendulum
#
# Mass and length of the rod are drawn per task. A trial is a few episodes on one of them: the first with random
# actions; after each, five probabilistic networks are fitted to all transitions so far, and the next episode plans in
# them, with the cross-entropy method (CEM): at every step it improves a plan for the next 20 steps on imagined
# trajectories, and takes its first action.

# %%
horizon = 30 if QUICK else 100
family = jm.tasks.pendulum(jm.tasks.PendulumConfig(horizon=horizon))
cem = planning.PlannerConfig(
    "cem", horizon=5 if QUICK else 20, candidates=20 if QUICK else 100, iterations=1 if QUICK else 3
)
config = jm.PETSConfig(episodes=2 if QUICK else 5, members=2 if QUICK else 5, planner=cem)
if QUICK:
    config = dataclasses.replace(config, fit=dataclasses.replace(config.fit, epochs=1))
agent, model = pets.agent(family, config)
params = agent.init(jax.random.key(0))
num_trials = 1 if QUICK else 4
tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), num_trials))
print("masses (kg):", np.asarray(tasks.mass).round(2), "lengths (m):", np.asarray(tasks.length).round(2))


@jax.jit
@jax.vmap
def learn(task, key):
    """Runs a trial; returns its experience, [rounds + 1, T, ...], and what the agent knows in each round."""
    trial = jm.collect(agent, params, family.env, task, key, jm.Plan(config.rounds))
    stream = jax.tree.map(lambda leaf: leaf[:, :, 0], trial.rounds.replace(output=(), reset_key=()))
    return stream, jm.replay_fast(agent, params, trial)


streams, known = learn(tasks, jax.random.split(jax.random.key(2), num_trials))
rewards = np.asarray(streams.reward)  # [trials, episodes, T]
# the pictures below are of the first trial
stream, known = jax.tree.map(lambda leaf: leaf[0], (streams, known))
print("mean return by episode:", rewards.sum(2).mean(0).round())

# %% [markdown]
# The ceiling is the same planner with the true dynamics: a reference agent that observes the state and the task. Starts
# are random, and a low one costs much return. So we compare the rewards of the last 40 steps, when there has been time
# to swing up from nearly anywhere: plans of 20 steps sometimes miss the way, even in the true dynamics. A reward of 0
# is to stand upright, and still.

# %%
oracle = planner.oracle(family.env, cem.build(family))
shown = planner.with_state(family)
oracle_plan = jm.Plan(streams=1 if QUICK else 10)


@jax.jit
@jax.vmap
def plan_in_true_dynamics(task, key):
    return jm.collect(oracle, (), shown.env, task, key, oracle_plan).rounds.reward[0]


best = float(plan_in_true_dynamics(tasks, jax.random.split(jax.random.key(3), num_trials))[:, -40:].mean())
late = rewards[..., -40:].mean(-1)  # [trials, episodes]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
episodes = np.arange(1, config.episodes + 1)
left.plot(episodes, late.T, color="C0", alpha=0.3, linewidth=1)
left.plot(episodes, late.mean(0), "o-", color="C0", label="CEM in the learned ensemble")
left.axhline(best, color="0.3", linestyle="--", label="CEM in the true dynamics")
left.set(
    xlabel="episode",
    ylabel="reward per step",
    xticks=episodes,
    title="Last 40 steps; episode 1 is random",
)
left.legend(frameon=False, loc="lower right")
height = np.asarray(stream.next_obs)[:, :, 0]
for index in sorted({0, 1, config.episodes - 1}):
    right.plot(height[index], label=f"episode {index + 1}")
right.set(xlabel="step (0.05 s)", ylabel="cosine of the angle", title="First trial; 1 is upright")
right.legend(frameon=False, fontsize=8, loc="lower right")
figure.tight_layout()

# %% [markdown]
# ### What the ensemble predicts, and what it does not know
#
# From one observation of the last episode on, the same actions are imagined open loop, by the ensemble of after the
# first episode and by the last one. Every particle follows one member. After one episode of random actions the
# particles spread: the members agree where there were data, and disagree elsewhere.

# %%
start, ahead = (2, 10) if QUICK else (5, 30)
actions = stream.action[-1, start : start + ahead]
true = np.asarray(stream.next_obs[-1, start : start + ahead])
first = stream.inputs.obs[-1, start]


def imagine(index):
    """Imagines the actions with the ensemble of a round: particles [members, particles, T, 3]."""
    fast = jax.tree.map(lambda leaf: leaf[index], known)
    of_members = (fast.model, fast.statistics)
    return np.asarray(
        dynamics.imagined_trajectories(family.env.spec, model, *of_members, first, actions, jax.random.key(4))
    )


rows = [(f"after {index} episode{'s' * (index > 1)}", imagine(index)) for index in sorted({1, config.rounds})]
names = ("cos of the angle", "sin of the angle", "angular velocity (rad/s)")
dynamics.predictions(true, rows, names, f"{ahead} steps of the last episode, open loop")

# %% [markdown]
# The same over the whole plane of angles and velocities: the colour is how much the members disagree about the next
# velocity (the standard deviation over members of the mean prediction, without torque). Dots are the transitions that
# they were fitted to.

# %%
angle, velocity = np.meshgrid(np.linspace(-np.pi, np.pi, 61), np.linspace(-8, 8, 61), indexing="ij")
states = jnp.asarray(np.stack([np.cos(angle), np.sin(angle), velocity, np.zeros_like(angle)], -1).reshape(-1, 4))


def disagreement(index):
    """Computes the standard deviation over members of the predicted change of the velocity, in rad/s."""
    fast = jax.tree.map(lambda leaf: leaf[index], known)
    mean = jax.vmap(lambda member: model.apply(member, rl.normalised_inputs(fast.statistics, states)).mean)(fast.model)
    return np.asarray(rl.original_outputs(fast.statistics, mean)[..., 2].std(0)).reshape(angle.shape)


figure, panels = plt.subplots(1, len(rows), figsize=(5 * len(rows), 3.8), sharey=True, squeeze=False)
visited = np.asarray(stream.inputs.obs)
for axes, (label, _), index in zip(panels[0], rows, sorted({1, config.rounds}), strict=True):
    image = axes.pcolormesh(angle, velocity, disagreement(index), cmap="viridis", vmin=0, vmax=0.1)
    past = visited[:index].reshape(-1, 3)
    axes.plot(np.arctan2(past[:, 1], past[:, 0]), past[:, 2], ".", color="white", markersize=2)
    axes.set(xlabel="angle (rad), 0 is upright", title=label)
panels[0, 0].set_ylabel("angular velocity (rad/s)")
bar = figure.colorbar(image, ax=panels[0], label="disagreement (rad/s)")

# %% [markdown]
# ## When the motor is reversed in mid-episode
#
# PETS learns between episodes. GrBAL adapts at every step: one gradient step on the last 16 transitions, from
# meta-learned params and with meta-learned step sizes. It is meta-trained so that *after* this step it predicts the
# next transitions. Here the strength of the motor varies and half of the motors are reversed, so without an adaptation
# nobody can tell which way a torque will push. The control is the same model, meta-trained without the step.

# %%
family = jm.tasks.pendulum(jm.tasks.PendulumConfig(horizon=100, gain=(1.4, 2.4), reverse=True))
updates = 1 if QUICK else 10
windows = jm.outer.WindowConfig(learning_rate=2e-3, anneal_over=updates, steps=2 if QUICK else 300)
mppi = planning.PlannerConfig("mppi", horizon=20, candidates=100, iterations=1, temperature=0.2)
configs = {
    name: jm.GrBALConfig(planner=mppi, windows=windows, explore=updates, inner_steps=steps)
    for name, steps in (("GrBAL", 1), ("not adapted", 0))
}
trained = {}
for name, each in configs.items():
    meta = jm.grbal(family, each)  # it collects with random actions, as long as it explores
    trained[name] = jm.train(meta, jm.init_state(meta, jax.random.key(5)), updates).params

# %% [markdown]
# Held-out pendulums, each with a motor that is reversed at some step: the squared error of the prediction of the next
# step, aligned at the change. GrBAL's error jumps above that of a model that never committed to a direction, and falls
# as the window of 16 transitions fills with those of the new motor.

# %%
reversing = jm.tasks.changing(family, lambda key, task: task.replace(gain=-task.gain))
num_tasks = 4 if QUICK else 64
explorer = jm.grbal(reversing, configs["GrBAL"]).learner  # without training it acts at random
blank = explorer.init(jax.random.key(6))


@jax.jit
@jax.vmap
def random_stream(key):
    task_key, key = jax.random.split(key)
    task = reversing.sample_test(task_key)
    experience = jm.rollout(explorer, blank, (), reversing.env, task, key)
    return task.time, experience.replace(output=(), reset_key=())


times, streams = random_stream(jax.random.split(jax.random.key(7), num_tasks))
errors = {}
for name, each in configs.items():
    adapting = grbal.model(family, each)

    def of_one(one, name=name, adapting=adapting):
        return online.errors_over_time(family.env.spec, adapting, trained[name], one)[0]

    found = np.asarray(jax.jit(jax.vmap(of_one))(streams))[:, 0]
    errors[name] = online.around(found, np.asarray(times), before=20, after=30)
online.draw_around_change(
    errors, 20, "The motor is reversed", f"median and quartiles of {num_tasks} held-out pendulums"
)

# %%
median = {name: np.median(error, axis=0) for name, error in errors.items()}
before, at, later = (median["GrBAL"][part].mean() for part in (slice(0, 20), slice(20, 22), slice(40, 50)))
if not QUICK:
    assert late[:, -1].mean() > 0.5 * late[:, 0].mean()
    assert later < at and later < 0.5 * median["not adapted"][40:50].mean()
first_reward, last_reward = late.mean(0)[[0, -1]]
print(f"PETS: late reward {first_reward:.2f} with random actions, {last_reward:.2f} in the last episode; ", end="")
print(f"{best:.2f} with the true dynamics")
print(f"GrBAL: error {before:.3f} before the reversal, {at:.3f} at it, {later:.3f} 20 steps later; ", end="")
print(f"without adaptation {median['not adapted'].mean():.3f}")
