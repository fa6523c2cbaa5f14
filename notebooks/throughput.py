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
# # How fast is it here?
#
# How many environment steps per second do whole meta-updates process on this machine, how does that compare with bare
# physics, and how do speed and memory grow with the number of tasks? The notebook measures, and shows on the way how to
# measure JAX programs honestly. The figures on this page are of a shared CPU with two cores; [speed](../speed.md) has
# recorded ones, also of GPUs.

# %%
import functools
import os
import statistics
import time

import jaxmeta as jm

# on a CPU every core becomes a device; this must come before JAX starts
jm.use_cpu_cores()

import jax
import matplotlib.pyplot as plt
import numpy as np

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))
print(len(jax.devices()), "devices of kind", jax.devices()[0].device_kind)

# %% [markdown]
# ## Two programs
#
# The whole update is ProMP on 2D navigation: collect, adapt, collect again, and differentiate through the adaptation.
# `jax.jit(meta.update)` compiles it for one device.
#
# The bare physics is a scan of `env.step` with random actions: no policy, no learning. It is what any algorithm on
# these tasks has to spend at least.

# %%
HORIZON = 10 if QUICK else 100


@functools.cache
def update(family, num_tasks: int, streams: int):
    """Compiles a meta-update; returns the program, the state to start from, and environment steps per call."""
    meta = jm.promp(family, jm.ProMPConfig(num_tasks=num_tasks, streams=streams))
    state = jax.jit(meta.init)(jax.random.key(0))
    steps = (meta.plan.rounds + 1) * num_tasks * streams * family.env.spec.horizon
    return jax.jit(meta.update).lower(state).compile(), state, steps


def physics(family, num_tasks: int, streams: int):
    """Compiles one round of random actions on all tasks and streams."""
    env = family.env
    example = env.spec.action.example()

    def one(task, key):
        state, _ = env.reset(key, task)

        def step(state, key):
            action = jax.random.uniform(key, example.shape, minval=-1.0, maxval=1.0)
            state, outcome = env.step(key, state, action, task)
            # with the observation, or else the compiler leaves out what it takes
            return state, outcome.reward + outcome.obs.sum()

        return jax.lax.scan(step, state, jax.random.split(key, env.spec.horizon))[1].sum()

    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), num_tasks))
    keys = jax.random.split(jax.random.key(2), (num_tasks, streams))
    compiled = jax.jit(jax.vmap(jax.vmap(one, (None, 0)))).lower(tasks, keys).compile()
    return compiled, (tasks, keys), num_tasks * streams * env.spec.horizon


navigation = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=HORIZON))

# %% [markdown]
# ## Three ways to be wrong
#
# 1. A jitted function compiles when it is first called. Compile ahead of time, as above, and report that time apart.
# 2. JAX returns before the work is done. Without `jax.block_until_ready` one measures how long it takes to *ask*.
# 3. The first run of a compiled program touches new memory, and other processes come and go. Repeat, leave out the
#    first run, and report the median. To compare two programs, run them in turns, so that a slow minute affects both.

# %%
begun = time.perf_counter()
program, state, steps = update(navigation, *((4, 2) if QUICK else (8, 20)))
print(f"compile:              {time.perf_counter() - begun:8.3f} s")
for name in ("first run", "second run"):
    begun = time.perf_counter()
    jax.block_until_ready(program(state))
    print(f"{name + ':':<21} {time.perf_counter() - begun:8.3f} s")
begun = time.perf_counter()
result = program(state)
asked = time.perf_counter() - begun
jax.block_until_ready(result)
print(f"without waiting:      {asked:8.3f} s, and the result was there after {time.perf_counter() - begun:.3f} s")


# %%
def in_turns(programs: dict, repeats: int) -> dict:
    """Times programs in turns; returns the seconds of every run but the first."""
    seconds = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, (program, arguments, _) in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


# %% [markdown]
# ## More tasks, more streams
#
# Every size is a program of its own. We compile all of them, run them in turns, and note the memory that the compiler
# reserves for intermediate results of an update.

# %%
sizes = [(tasks, streams) for streams in (4, 20) for tasks in (1, 8, 64)]
sizes = [(1, 2), (4, 2)] if QUICK else sizes
programs, memory = {}, {}
for size in sizes:
    program, state, steps = update(navigation, *size)
    programs["update", size] = program, (state,), steps
    programs["physics", size] = physics(navigation, *size)
    memory[size] = program.memory_analysis().temp_size_in_bytes
seconds = in_turns(programs, repeats=2 if QUICK else 5)
speed = {name: [programs[name][2] / one for one in seconds[name]] for name in programs}

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
for index, streams in enumerate(sorted({streams for _, streams in sizes})):
    counts = [tasks for tasks, found in sizes if found == streams]
    for kind, style in (("physics", "--"), ("update", "-")):
        each = [speed[kind, (tasks, streams)] for tasks in counts]
        middle = [statistics.median(values) for values in each]
        label = f"{'bare physics' if kind == 'physics' else 'whole update'}, {streams} streams"
        left.loglog(counts, middle, style, color=f"C{index}", marker="o", label=label)
        left.fill_between(
            counts, *zip(*((min(some), max(some)) for some in each), strict=True), color=f"C{index}", alpha=0.15
        )
    right.loglog(
        counts, [memory[tasks, streams] / 1e6 for tasks in counts], "o-", color=f"C{index}", label=f"{streams} streams"
    )
left.set(xlabel="tasks per update", ylabel="environment steps per second", title="Navigation, one device")
right.set(xlabel="tasks per update", ylabel="MB", title="Intermediate results of an update")
for axes in (left, right):
    axes.grid(color="0.92", which="both")
    axes.set_xticks(counts, counts)
    axes.legend(fontsize=8)
figure.tight_layout()

# %% [markdown]
# Bands are the range of the runs; other work on the same machine makes them wide. Bare physics gains from larger
# batches, because every step of the scan has a fixed cost. Whole updates gain less: they are mostly learning, which
# keeps the CPU busy from the start; an accelerator has more to fill ([speed](../speed.md)). Memory grows with the
# experience that the backward pass has to keep.
#
# ## How much of it is physics?
#
# The share of bare physics in the time of an update, at every size, and for a simulated robot: half-cheetah with goal
# velocities, in Brax. A point in the plane has nearly free physics, so an update is mostly learning. With a robot it is
# the other way round, so the speed on a toy task says little about the speed on a robot.

# %%
# the short form puts the point in the robot's place, which takes a minute to compile
cheetah = navigation if QUICK else jm.tasks.half_cheetah_vel(jm.tasks.HalfCheetahVelConfig(horizon=50))
robot = (2, 2) if QUICK else (8, 20)
program, state, steps = update(cheetah, *robot)
programs |= {("update", cheetah): (program, (state,), steps), ("physics", cheetah): physics(cheetah, *robot)}
found = in_turns({name: one for name, one in programs.items() if name[1] is cheetah}, repeats=2 if QUICK else 5)
seconds |= found
speeds = {kind: programs[kind, cheetah][2] / statistics.median(found[kind, cheetah]) for kind in ("update", "physics")}
print("half-cheetah, environment steps per second:", {kind: f"{speed:,.0f}" for kind, speed in speeds.items()})

# %%
rounds = 2  # an update steps through the tasks before and after the adaptation
figure, axes = plt.subplots(figsize=(8, 2.8))
names = [f"{tasks} x {streams}" for tasks, streams in sizes] + [f"half-cheetah\n{robot[0]} x {robot[1]}"]
shares = [
    rounds * statistics.median(seconds["physics", size]) / statistics.median(seconds["update", size])
    for size in (*sizes, cheetah)
]
axes.bar(names, shares, color="C2", label="bare physics")
axes.bar(names, 1 - np.array(shares), bottom=shares, color="C0", label="all else")
axes.set(xlabel="tasks x streams", ylabel="share of an update", ylim=(0, 1))
axes.legend(fontsize=8, loc="upper left")
figure.tight_layout()

# %% [markdown]
# ## All devices
#
# So far one device worked. `jm.train` shards the tasks over all of them, and makes several updates per call. Callbacks
# run when the results of a chunk have arrived, so the time between two of them is honest.

# %%
num_tasks, streams = (4, 2) if QUICK else (64, 20)
meta = jm.promp(navigation, jm.ProMPConfig(num_tasks=num_tasks, streams=streams))
steps = 2 * num_tasks * streams * HORIZON
chunk, times = 2 if QUICK else 5, []
note = lambda update, state, metrics: times.append(time.perf_counter())
jm.train(meta, jm.init_state(meta, jax.random.key(0)), 4 * chunk, chunk=chunk, callbacks=[note])
together = chunk * steps / np.diff(times)
print(f"jm.train on {len(jax.devices())} devices: {statistics.median(together):,.0f} environment steps per second")

# %%
size = num_tasks, streams
alone = statistics.median(speed["update", size])
print(f"jax.jit(meta.update) on one device, tasks x streams {size}: {alone:,.0f} environment steps per second")
