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
# # A new algorithm from parts
#
# A meta-update has five parts: a learner, a sampler of tasks, a source of experience, an aggregate of gradients and an
# improvement of the params ([explanation](../explanation/meta-update.md)). Here we choose each of them and get an
# algorithm that has no name:
#
# | part | choice |
# |---|---|
# | learner | MAML: one policy-gradient step on each task |
# | source | fresh trials |
# | aggregate | PCGrad: conflicting gradients of tasks are projected onto each other's normal plane |
# | improvement | PPO, differentiated through the inner step |
# | sampler | prioritised level replay (PLR): a curriculum |
#
# Then we compare it with simpler versions, and replace the score of the curriculum by one of our own.

# %%
import inspect
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
# ## Tasks of which few are hard
#
# A point must find a goal that it cannot see. Nine goals in ten are near, at 0.2 m, and one in ten is far, at 0.8 m. A
# uniform sampler rarely visits the far ones. For testing, both are equally frequent.

# %%
FAR = 0.1
navigation = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=5 if QUICK else 20))


def goals(share):
    """Builds a sampler of goals, of which this share is far."""

    def sample(key):
        of_angle, of_radius = jax.random.split(key)
        angle = jax.random.uniform(of_angle, maxval=2 * jnp.pi)
        radius = jnp.where(jax.random.bernoulli(of_radius, share), 0.8, 0.2)
        return navigation.sample(key).replace(goal=radius * jnp.array([jnp.cos(angle), jnp.sin(angle)]))

    return sample


family = navigation._replace(sample=goals(FAR), sample_test=goals(0.5))


def is_far(tasks):
    return jnp.linalg.norm(tasks.goal, axis=-1) > 0.5


# %% [markdown]
# ## The algorithm
#
# PLR replays tasks with a high score. Its usual score is the value loss of the adapted agent. `score` replaces it.

# %%
SEEDS, TASKS, UPDATES = (2, 4, 2) if QUICK else (3, 20, 60)
network = nets.actor_critic(family.env.spec, hidden=(8,) if QUICK else (32, 32), init_log_std=-2.0)
advantage = rl.linear_baseline()
learner = inner.gradient(inner.policy(network), rl.ratio, inner.sgd(0.1), advantage)
plan = jm.Plan(rounds=1, streams=2 if QUICK else 10)


def algorithm(surgery: bool = False, curriculum: bool = False, score=None):
    ppo = outer.PolicyGradientConfig(learning_rate=2e-3, epochs=3)
    aggregate = outer.combined(outer.surgery.pcgrad) if surgery else outer.mean()
    meta = outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.fresh(learner, family, plan),
        outer.policy_gradient(learner, advantage, ppo, aggregate=aggregate),
        outer.Info(num_tasks=TASKS, plan=plan, spread=TASKS),
    )
    sampler = outer.uniform(family)
    if curriculum:
        sampler = outer.prioritised_replay(family, meta, outer.PrioritisedConfig(size=4 * TASKS))
    if score:
        sampler = sampler._replace(score=score)
    return outer.with_sampler(meta, watched(sampler))


print(f"{len(inspect.getsource(algorithm).splitlines())} lines beside the learner, for all variants")

# %% [markdown]
# ## Parts of our own
#
# A sampler is a tuple of four functions, so it can be changed by a function. `watched` logs which tasks were drawn, for
# any sampler. `distance_left` is a score: how far from the goal the adapted agent is at the end of an episode.


# %%
def watched(sampler: outer.Sampler) -> outer.Sampler:
    def update(state, draw, scores, finite):
        state, metrics = sampler.update(state, draw, scores, finite)
        return state, metrics | {"far": is_far(draw.tasks).mean()}

    return sampler._replace(update=update)


def distance_left(params, trial):
    return -trial.rounds.reward[-1, -1].mean()


# %% [markdown]
# ## Training
#
# Each variant has several seeds in parallel: `num_seeds` vmaps the whole meta-training.

# %%
variants = {
    "plain": algorithm(),
    "PCGrad": algorithm(surgery=True),
    "PCGrad, PLR by value loss": algorithm(surgery=True, curriculum=True),
    "PCGrad, PLR by distance left": algorithm(surgery=True, curriculum=True, score=distance_left),
}
if QUICK:
    variants = {name: variants[name] for name in ("plain", "PCGrad, PLR by distance left")}

test = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 20 if QUICK else 100))
far = np.asarray(is_far(test))
states, logs, curves = {}, {}, {}
for name, meta in variants.items():
    log, curve = [], []

    def look(update, state, metrics, log=log, curve=curve):
        log.append(metrics)
        each = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], state.params) for seed in range(SEEDS)]
        reports = [jm.evaluate(learner, one, family, test, jax.random.key(2), plan) for one in each]
        # the return after adaptation, [seeds, tasks]
        curve.append(np.stack([report.returns[:, -1, :, 0].mean(-1) for report in reports]))

    start = jm.init_state(meta, jax.random.key(0), num_seeds=SEEDS)
    states[name] = jm.train(meta, start, UPDATES, chunk=1 if QUICK else 10, num_seeds=SEEDS, callbacks=[look])
    logs[name] = {key: np.concatenate([chunk[key] for chunk in log]) for key in log[0]}
    curves[name] = np.stack(curve)  # [points, seeds, tasks]

# %% [markdown]
# ## What was learned

# %%
updates = np.linspace(0, UPDATES, len(curves["plain"]) + 1)[1:]
figure, panels = plt.subplots(1, 2, figsize=(11, 3.8))
for axes, kind, title in zip(panels, (~far, far), ("near goals", "far goals"), strict=True):
    for index, (name, curve) in enumerate(curves.items()):
        by_seed = curve[..., kind].mean(-1)
        axes.plot(updates, by_seed.mean(1), color=f"C{index}", label=name)
        axes.fill_between(updates, by_seed.min(1), by_seed.max(1), color=f"C{index}", alpha=0.15, linewidth=0)
    axes.set(xlabel="meta-update", ylabel="return after one step", title=f"Held-out {title}")
    axes.grid(color="0.92")
panels[0].legend(fontsize=8)
figure.tight_layout()

# %% [markdown]
# Lines are means and bands the range over seeds. The score of the curriculum decides what is learned. PLR by value loss
# learns what uniform sampling learns, while PLR by distance left makes the agent better on far goals and worse on near
# ones: it seems that one step on ten episodes tells the direction of a goal, but not how far it is. Surgery changes
# little, although almost half of the pairs of gradients conflict.
#
# ## What the curriculum chose, and how often gradients conflict
#
# On the left is the share of far goals among the tasks of an update, as a running mean. Half of the tasks of a
# curriculum are new, and the others are replayed by the rank of their score. In the middle is the buffer of the last
# variant at the end of training. On the right is the share of pairs of tasks whose gradients have a negative inner
# product; without surgery it is not computed.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8))
smooth = lambda values: np.convolve(values.mean(1), np.ones(UPDATES // 10 or 1) / (UPDATES // 10 or 1), "valid")
for index, (name, log) in enumerate(logs.items()):
    left.plot(smooth(log["far"]), color=f"C{index}", label=name)
    if "conflicts" in log:
        right.plot(smooth(log["conflicts"]), color=f"C{index}", label=name)
left.axhline(FAR, color="0.6", linestyle=":", label="in the family")
left.set(xlabel="meta-update", title="Share of far goals")
left.legend(fontsize=8, loc="upper left")
buffer = jax.tree.map(lambda leaf: leaf[0], states["PCGrad, PLR by distance left"].sampler)
known = np.asarray(buffer.full)
points = middle.scatter(*buffer.tasks.goal[known].T, c=buffer.score[known], cmap="viridis", s=14)
figure.colorbar(points, ax=middle, label="score: distance left (m)")
middle.set(xlabel="x (m)", ylabel="y (m)", title="Goals in the buffer", aspect="equal")
right.set(xlabel="meta-update", title="Share of conflicting pairs")
right.legend(fontsize=8)
figure.tight_layout()

# %% [markdown]
# The value loss compares returns with a baseline that is fitted to the same round. It says how much they vary, and not
# how far the agent is from the goal: PLR by value loss visits far goals about as often as uniform sampling. Always look
# at what a curriculum chooses, since its score may not mean what one wants.

# %%
for name, curve in curves.items():
    near_by_seed, far_by_seed = (curve[-1][:, kind].mean(1) for kind in (~far, far))
    spread = f"(seeds {far_by_seed.min():.1f} to {far_by_seed.max():.1f})"
    print(f"{name:>28}: near {near_by_seed.mean():6.2f}, far {far_by_seed.mean():6.2f} {spread}")
