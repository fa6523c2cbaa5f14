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
# # In-context learning
#
# A sequence model can learn a *learning algorithm* by plain supervised learning. After training its weights are fixed;
# what it learns about a new task it learns by reading the history of the trial. Two ways to train it:
#
# - **DPT** (Lee et al., 2023): somebody else acts at random; the model predicts the *optimal* action of the task from
#   that history. The best prediction is the posterior over the optimal action, so acting by it is posterior sampling.
# - **Algorithm distillation** (Laskin et al., 2022): a learning algorithm acts; the model predicts *its* next action.
#   The best prediction is that algorithm.
#
# On Bernoulli bandits both targets are known exactly: Thompson sampling and UCB1. So we can look at how near the models
# come to them.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.algos.imitation.student import RecurrentConfig, StudentConfig
from jaxmeta.references import bandits
from jaxmeta.viz import in_context

# the test suite runs this file in a short form
QUICK = bool(os.environ.get("JAXMETA_QUICK"))

# %% [markdown]
# ## Bandits of one trial
#
# Every task is a new bandit with five arms, whose probabilities of a reward are uniform on [0, 1]. A trial has 20
# pulls, and the memory of the agent lasts for the whole trial.

# %%
ARMS, PULLS = (2, 4) if QUICK else (5, 20)
family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=ARMS, num_pulls=PULLS))

# %% [markdown]
# ## Two students
#
# The network is the same, a GRU. The two recipes differ in who acts and who labels. `jm.dpt` asks a planner that knows
# the task, `jm.distill` asks UCB1: these are what jaxmeta has for bandits, and both arguments can be replaced.

# %%
UPDATES = 4 if QUICK else 1200
network = StudentConfig(recurrent=RecurrentConfig(cell="gru", hidden=8 if QUICK else 64))
shared = {
    "student": network,
    "num_tasks": 8 if QUICK else 128,
    "imitation": outer.ImitationConfig(learning_rate=3e-3, anneal_over=UPDATES),
}
recipes = {
    "DPT": jm.dpt(family, jm.DPTConfig(**shared)),
    "distillation": jm.distill(family, jm.DistillConfig(**shared)),
}

params, losses = {}, {}
for name, meta in recipes.items():
    chunks = []
    state = jm.train(
        meta,
        jm.init_state(meta, jax.random.key(0)),
        UPDATES,
        chunk=2 if QUICK else 50,
        callbacks=[lambda update, state, metrics, chunks=chunks: chunks.append(metrics)],
    )
    params[name] = state.params
    losses[name] = np.concatenate([chunk["loss"] for chunk in chunks])
print({name: round(float(loss[-50:].mean()), 3) for name, loss in losses.items()})

# %% [markdown]
# ## Rewards along a trial
#
# Evaluation is collection on held-out tasks, the same function for trained agents and for references. The task sets are
# equal, so the curves differ by the agents only.

# %%
trials = 50 if QUICK else 2000
tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), trials))
plan = jm.Plan(episodes=PULLS)
references = {"UCB1": bandits.ucb1(ARMS), "Thompson sampling": bandits.probability_matching(ARMS)}


def curve(learner, params):
    """Mean and 95 % interval of the reward of every pull."""
    return in_context.points(jm.evaluate(learner, params, family.env, tasks, jax.random.key(2), plan))


students = {name: curve(meta.learner, params[name]) for name, meta in recipes.items()}
known = {name: curve(learner, ()) for name, learner in references.items()}
in_context.returns(
    students, known, family.env.spec.horizon, "Rewards in context", f"mean over {trials} held-out bandits"
)

# %% [markdown]
# ## Regret
#
# The regret of a trial is what the best arm would have paid on average, minus what the pulled arms paid. It uses the
# probabilities of the arms, not the rewards, so there is less noise in it. The KL divergence measures how far the
# policy is from the exact posterior over the best arm given the same pulls: a perfect DPT student has zero.


# %%
@jax.jit
def measured(trial):
    """Regret after every pull, and KL divergence from posterior to policy before every pull; [T] each."""
    lost = trial.probability.max() - trial.policy @ trial.probability
    log = lambda chance: jnp.log(jnp.maximum(chance, 1e-30))
    return jnp.cumsum(lost), jnp.sum(trial.posterior * (log(trial.posterior) - log(trial.policy)), axis=-1)


def run(learner, params):
    """Runs a trial on every task; leaves [tasks, T, ...]."""
    one = lambda task, key: in_context.along_pulls(learner, params, family, task, key, PULLS)
    return jax.jit(jax.vmap(one))(tasks, jax.random.split(jax.random.key(3), trials))


agents = {name: (meta.learner, params[name]) for name, meta in recipes.items()}
agents |= {name: (learner, ()) for name, learner in references.items()}
looks = {"DPT": ("C0", "-"), "distillation": ("C1", "-"), "Thompson sampling": ("C0", "--"), "UCB1": ("C1", "--")}
pulls = {name: run(*agent) for name, agent in agents.items()}
found = {name: jax.vmap(measured)(some) for name, some in pulls.items()}

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
for name, (color, style) in looks.items():
    regret, divergence = (np.asarray(part).mean(0) for part in found[name])
    left.plot(np.arange(1, PULLS + 1), regret, color=color, linestyle=style, label=name)
    if name == "DPT":
        right.plot(np.arange(1, PULLS + 1), divergence, color=color)
left.set(xlabel="pull", ylabel="regret so far", title="Students (solid) and their targets (dashed)")
left.legend(fontsize=8)
right.set(xlabel="pull", ylabel="nats", title="KL from the exact posterior to DPT's policy")
right.set_ylim(bottom=0)
for axes in (left, right):
    axes.set_xticks(range(0, PULLS + 1, 5))
    axes.grid(color="0.92")
figure.tight_layout()

# %% [markdown]
# UCB1 has the smaller regret here, and each student comes close to what it imitates. DPT's divergence grows along a
# trial. It was trained on the pulls of random agents, among which the late histories of an agent that mostly pulls good
# arms are rare.
#
# ## What the student believes
#
# One trial, arms sorted by their probability of a reward. Above is the policy of the DPT student, below the exact
# posterior that each arm is the best, from the same pulls. The student never computed a posterior in training: it only
# predicted labels.

# %%
first = jax.tree.map(lambda leaf: leaf[0], pulls["DPT"])
in_context.probabilities(first, "DPT on a held-out bandit")

# %% [markdown]
# And over a hundred trials: every dot is one arm before one pull. On the diagonal the student samples exactly from the
# posterior.

# %%
few = slice(0, 100)
figure, axes = plt.subplots(figsize=(4.4, 4.2))
axes.plot(pulls["DPT"].posterior[few].ravel(), pulls["DPT"].policy[few].ravel(), ".", markersize=1.5, alpha=0.3)
axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
axes.set(xlabel="posterior probability that the arm is the best", ylabel="DPT's probability of pulling it")
figure.tight_layout()

# %%
assert QUICK or found["DPT"][1].mean() < 0.1
total = {name: float(regret[:, -1].mean()) for name, (regret, _) in found.items()}
error = {name: float(regret[:, -1].std()) / np.sqrt(trials) for name, (regret, _) in found.items()}
for name in looks:
    print(f"{name:>18}: regret of a trial {total[name]:.2f} ± {1.96 * error[name]:.2f}")
print(f"KL from the posterior to DPT's policy, mean over pulls: {float(found['DPT'][1].mean()):.3f} nats")
