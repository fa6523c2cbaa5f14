"""Agents that act step by step on NumPy arrays: equal to the engine's trials, here and in a process without jaxmeta."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import deploy, tasks
from jaxmeta.core import learner as learners
from jaxmeta.core.rollout import collect
from tests import tiny

KEY = jax.random.key(0)


class Brief(tasks.Navigation):
    """Ends by chance."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, terminates=True)

    def step(self, key, state, action, task):
        state, step = super().step(key, state, action, task)
        return state, step.replace(terminated=jax.random.bernoulli(key, 0.2))


def brief():
    return tasks.navigation()._replace(env=Brief(horizon=4))


def moving(params):
    """Adds noise: the mode of an untrained policy hardly moves."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def played(agent, trial, plan, horizon):
    """Lets an agent see the observations and rewards of a trial, and returns its actions beside those of the trial."""
    pairs = []
    for index in range(plan.rounds + 1):
        one = jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index]), trial.rounds.replace(reset_key=()))
        for stream in range(plan.streams):
            for start in range(0, plan.episodes * horizon, horizon):
                action = agent.act(one.inputs.obs[start, stream])
                for step in range(start, start + horizon):
                    pairs.append((action, one.action[step, stream]))
                    over = one.done[step, stream] > 0
                    arguments = (one.next_obs[step, stream], one.reward[step, stream], over)
                    action = agent.act(*arguments, terminated=one.terminated[step, stream] > 0)
                    if over:
                        break
        if index < plan.rounds:
            agent.adapt()
    return [np.stack(actions) for actions in zip(*pairs, strict=True)]


@pytest.mark.parametrize("name", ["rl2", "maml", "varibad"])
def test_an_agent_acts_as_in_evaluation(name):
    family = brief()
    meta = tiny.algo(name, family)
    params, plan = moving(meta.learner.init(KEY)), meta.plan
    acting = learners.deterministic(meta.learner)
    trial = jax.jit(lambda key: collect(acting, params, family.env, family.sample(KEY), key, plan))(KEY)
    assert 0 < float(trial.rounds.terminated.sum()) < float(trial.rounds.done.sum())  # some episodes end early, not all
    agent = deploy.agent_of(meta.learner, params, family.env.spec, plan, deterministic=True)
    for _ in range(2):  # a new task begins as the first one
        agent.reset(task_begins=True)
        own, engine = played(agent, trial, plan, 4)
        np.testing.assert_allclose(own, engine, atol=1e-5)


@pytest.fixture(scope="module")
def walker():
    family = tiny.family()
    meta = tiny.algo("maml", family)
    return deploy.agent_of(meta.learner, meta.learner.init(KEY), family.env.spec, meta.plan)


def test_actions_are_sampled_and_a_seed_repeats_them(walker):
    def actions():
        agent = deploy.Agent(walker._programs, walker.form, seed=3)
        agent.reset()
        return np.stack([agent.act(np.zeros(2)), agent.act(np.zeros(2), 0.0)])

    np.testing.assert_array_equal(actions(), actions())
    assert not np.array_equal(*actions())


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (lambda agent: agent.act(np.zeros(3)), r"obs has arrays of shape \[\[3\]\]; the agent observes \[\[2\]\]"),
        (lambda agent: agent.act(np.full(2, np.nan)), "obs has nan; all its numbers must be finite"),
        (lambda agent: agent.act(np.zeros(2), 1.0), "no episode has begun"),
        (lambda agent: [agent.act(np.zeros(2)), agent.act(np.zeros(2))], "reward is missing: an episode goes on"),
        (lambda agent: [agent.act(np.zeros(2)), agent.act(np.zeros(2), np.inf)], "reward is inf"),
        (lambda agent: agent.act(np.zeros(2), done=True), "done is True without a reward"),
        (
            lambda agent: [agent.act(np.zeros(2))] + [agent.act(np.zeros(2), 0.0) for _ in range(4)],
            "done is False after 4 steps",
        ),
        (lambda agent: agent.adapt(), "the round has 0 of 3 streams of 1 episodes"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(walker, calls, message):
    agent = deploy.Agent(walker._programs, walker.form)
    agent.reset()
    with pytest.raises(ValueError, match=message):
        calls(agent)


def test_without_a_task_nothing_is_done(walker):
    with pytest.raises(ValueError, match="no task has begun"):
        deploy.Agent(walker._programs, walker.form).act(np.zeros(2))


ALONE = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("jaxmeta", "flax", "optax", "brax", "distrax", "chex"):
                raise ImportError(f"{name} is not there")

    sys.meta_path.insert(0, Refuse())
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    import agent

    actor = agent.load(sys.argv[1], seed=3)
    actor.reset(task_begins=True)
    for round in range(2):
        for stream in range(3):
            action = actor.act(np.full(2, 0.1 * stream))
            for step in range(1, 5):
                print(*action)
                action = actor.act(np.full(2, 0.1 * step), -float(step), done=step == 4)
        if round == 0:
            actor.adapt()
"""


def test_an_exported_agent_acts_and_adapts_without_jaxmeta(tmp_path, walker):
    family = tiny.family()
    meta = tiny.algo("maml", family)
    deploy.export(tmp_path, meta.learner, meta.learner.init(KEY), family.env.spec, meta.plan, platforms=("cpu",))
    command = [sys.executable, "-c", textwrap.dedent(ALONE), str(tmp_path)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    here = []
    agent = deploy.Agent(walker._programs, walker.form, seed=3)
    agent.reset(task_begins=True)
    for index in range(2):
        for stream in range(3):
            action = agent.act(np.full(2, 0.1 * stream))
            for step in range(1, 5):
                here.append(action)
                action = agent.act(np.full(2, 0.1 * step), -float(step), done=step == 4)
        if index == 0:
            agent.adapt()
    there = np.array([[float(number) for number in line.split()] for line in there.splitlines()])
    np.testing.assert_allclose(there, np.stack(here), atol=1e-4)  # another process, with the compiler's optimisations
    assert {path.name for path in tmp_path.iterdir()} >= {"agent.py", "README.md", "act.bin", "adapt.bin"}
    with pytest.raises(ValueError, match=r"has no agent\.json"):
        deploy.load(tmp_path / "nowhere")
    (tmp_path / "agent.json").write_text('{"format": 1, "obs')
    with pytest.raises(ValueError, match=r"agent\.json is damaged \(.*\); export the run again"):
        deploy.load(tmp_path)


def test_a_discrete_agent_returns_a_number():
    family = tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=3))
    meta = tiny.algo("rl2", family)
    agent = deploy.agent_of(meta.learner, meta.learner.init(KEY), family.env.spec, meta.plan)
    agent.reset()
    obs = np.asarray(family.env.spec.example_obs())
    assert int(agent.act(obs)) in (0, 1) and jnp.ndim(agent.act(obs, 1.0)) == 0
    assert agent.act(obs, 1.0, done=True) is None
    with pytest.raises(ValueError, match="adapts by memory"):
        agent.adapt()
    assert jm.deploy.form(family.env.spec, meta.plan).limit is None
