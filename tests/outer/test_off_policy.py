"""Who learns from what in soft actor-critic with an encoder, and what an update keeps of every task."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, tasks
from jaxmeta.core.checkpoint import Checkpointer, keys_as_data
from jaxmeta.core.train import make_chunk
from jaxmeta.outer.soft_actor_critic import Drawn, drawn, soft_loss
from jaxmeta.rl.replay import Transition, evidence_size, transition_rows
from jaxmeta.types import Continuous, Spec, Step
from tests import tiny

SPEC = Spec((2,), Continuous(2), horizon=3)
LATENT, TASKS, BATCH, ROWS = 2, 2, 3, 4
ENCODER = nets.product_encoder(evidence_size(SPEC, False), LATENT, (8,))
FIXED = outer.OffPolicyConfig(temperature=0.7, kl_weight=0.3, discount=0.9)
LEARNED = dataclasses.replace(FIXED, temperature=None)
KEY = jax.random.key(7)


def networks_of(action_scale=0.5):
    return nets.soft_actor_critic(SPEC, LATENT, (8,), action_scale)


def spread(tree, seed):
    """Moves all params, so that networks heed what they are told."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [leaf + 0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def problem(num_tasks=TASKS):
    """Params, target critics, a batch in which some episodes ended, and evidence."""
    networks = networks_of()
    params = spread(inner.posterior_sampling(networks, ENCODER).init(jax.random.key(0)), 1)
    params = params.replace(log_temperature=jnp.log(0.7))
    targets = spread(params.critics, 2)
    keys = jax.random.split(jax.random.key(3), 5)
    batch = Transition(
        obs=jax.random.normal(keys[0], (num_tasks, BATCH, 2)),
        action=jax.random.uniform(keys[1], (num_tasks, BATCH, 2), minval=-0.5, maxval=0.5),
        reward=jax.random.normal(keys[2], (num_tasks, BATCH)),
        next_obs=jax.random.normal(keys[3], (num_tasks, BATCH, 2)),
        terminated=jnp.tile(jnp.array([0.0, 1.0, 0.0]), (num_tasks, 1)),
    )
    evidence = jax.random.normal(keys[4], (num_tasks, ROWS, evidence_size(SPEC, False)))
    return params, targets, batch, evidence, jnp.ones((num_tasks, ROWS))


def terms(config, num_tasks=TASKS, networks=None, meta_batch=None):
    """Returns a function (params, targets, ...) -> the total loss and its named parts."""
    loss = soft_loss(networks or networks_of(), ENCODER, config.kl_weight * (meta_batch or num_tasks), config)

    def run(params, targets, *data):
        keys = jax.random.split(KEY, len(data[0].reward))
        some = Drawn(*data, jnp.arange(len(keys)))
        total, metrics = jax.tree.map(
            jnp.mean, jax.vmap(functools.partial(loss, targets=targets), (None, 0, 0))(params, some, keys)
        )
        return metrics | {"total": total}

    return run


@pytest.fixture(scope="module")
def gradients():
    """Gradients of every part of the loss by the params, temperature included."""
    return jax.jit(jax.jacrev(terms(LEARNED)))(*problem())


def size_of(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_the_loss_is_that_of_a_loop_over_transitions():
    """Soft Bellman targets of the lesser target critic, scaled rewards, nothing after a terminal, a summed KL."""
    networks, config = networks_of(), FIXED
    params, targets, batch, evidence, valid = problem()
    squared, actor, divergences = [], [], []
    for task, key in enumerate(jax.random.split(KEY, TASKS)):
        z_key, next_key, actor_key = jax.random.split(key, 3)
        belief = ENCODER.belief(
            params.encoder, ENCODER.add(params.encoder, ENCODER.start(), evidence[task], valid[task])
        )
        z = belief.mean + jnp.sqrt(belief.variance) * jax.random.normal(z_key, (LATENT,))
        divergences.append(0.5 * np.sum(belief.variance + belief.mean**2 - 1 - np.log(belief.variance)))
        held = jnp.broadcast_to(z, (BATCH, LATENT))
        (next_action, next_log_prob), (action, log_prob) = (
            nets.SquashedGaussian(networks.actor(params.actor, obs[task], held)).sample_and_log_prob(key)
            for obs, key in ((batch.next_obs, next_key), (batch.obs, actor_key))
        )
        for index in range(BATCH):
            at = (task, index)
            following = min(networks.critics(targets, batch.next_obs[at], next_action[index], z))
            following = float(following) - 0.7 * float(next_log_prob[index])
            target = 5.0 * float(batch.reward[at])
            if batch.terminated[at] == 0:
                target += 0.9 * following
            for said in networks.critics(params.critics, batch.obs[at], batch.action[at] / 0.5, z):
                squared.append((float(said) - target) ** 2)
            value = min(networks.critics(params.critics, batch.obs[at], action[index], z))
            actor.append(0.7 * float(log_prob[index]) - float(value))
    said = jax.jit(terms(config))(params, targets, batch, evidence, valid)
    # the two critics' errors are added, not averaged
    np.testing.assert_allclose(said["loss/critic"], 2 * np.mean(squared), rtol=1e-4)
    np.testing.assert_allclose(said["loss/actor"], np.mean(actor), rtol=1e-4)
    expected = 2 * np.mean(squared) + np.mean(actor) + 0.3 * np.sum(divergences)
    np.testing.assert_allclose(said["total"], expected, rtol=1e-4)


def test_the_encoder_learns_from_the_critics_and_not_from_the_actor(gradients):
    assert size_of(gradients["loss/actor"].encoder) == 0.0
    assert size_of(gradients["loss/critic"].encoder) > 1e-3


def test_actor_and_critics_learn_each_from_its_own_loss(gradients):
    assert size_of(gradients["loss/critic"].actor) == 0.0
    assert size_of(gradients["loss/actor"].critics) == 0.0
    assert size_of(gradients["loss/actor"].actor) > 1e-3
    assert size_of(gradients["loss/critic"].critics) > 1e-3


def test_the_temperature_learns_from_its_own_term_alone(gradients):
    for part in ("loss/critic", "loss/actor", "kl_from_prior"):
        assert gradients[part].log_temperature == 0.0
    entropy = jax.jit(terms(LEARNED))(*problem())["entropy"]
    # the wanted entropy is minus the size of an action, 2
    np.testing.assert_allclose(gradients["total"].log_temperature, entropy + 2.0, rtol=1e-4)


def test_the_loss_has_no_other_terms(gradients):
    def expected(name):
        weights = {"loss/critic": 1.0, "loss/actor": 1.0, "kl_from_prior": 0.3 * TASKS}
        parts = [
            jax.tree.map(lambda leaf, w=w: w * leaf, getattr(gradients[part], name)) for part, w in weights.items()
        ]
        return jax.tree.map(lambda *leaves: sum(leaves), *parts)

    for name in ("encoder", "actor", "critics"):
        chex.assert_trees_all_close(getattr(gradients["total"], name), expected(name), rtol=1e-4, atol=1e-5)


def test_target_critics_get_no_gradient():
    params, targets, *data = problem()
    gradient = jax.jit(jax.grad(lambda targets: terms(LEARNED)(params, targets, *data)["total"]))(targets)
    assert size_of(gradient) == 0.0


def actor_of_width(params, log_scale):
    """An actor that draws its actions from one fixed Gaussian."""
    actor = jax.tree.map(jnp.zeros_like, params.actor)
    last = max(actor["params"], key=lambda name: int(name.split("_")[1]))
    actor["params"][last]["bias"] = jnp.array([0.0, 0.0, log_scale, log_scale])
    return params.replace(actor=actor)


@pytest.mark.parametrize(
    "scale",
    [
        1.0,
        0.1,
    ],
)
def test_temperature_rises_below_the_target_entropy_and_falls_above_it(scale):
    params, *data = problem()
    run = terms(LEARNED, networks=networks_of(scale))
    gradient = jax.jit(jax.grad(lambda params: run(params, *data)["total"]))
    assert gradient(actor_of_width(params, -6.0)).log_temperature < -1.0
    assert gradient(actor_of_width(params, 0.0)).log_temperature > 0.5


def test_the_divergence_is_summed_over_the_tasks_of_a_meta_batch():
    """Twice as many tasks weigh it twice against the mean error of the critics, on however many devices."""
    params, targets, *data = problem()

    def divergence(num_tasks, meta_batch):
        double = [jax.tree.map(lambda leaf: jnp.concatenate([leaf] * (num_tasks // TASKS)), part) for part in data]
        said = jax.jit(terms(FIXED, meta_batch=meta_batch))(params, targets, *double)
        return said["total"] - said["loss/critic"] - said["loss/actor"], said["kl_from_prior"]

    once, mean = divergence(TASKS, TASKS)
    np.testing.assert_allclose(once, 0.3 * TASKS * mean, rtol=1e-4)
    twice, same_mean = divergence(2 * TASKS, 2 * TASKS)
    np.testing.assert_allclose(same_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4)
    # one of two devices sees half of the tasks, and the mean over devices is the sum over all
    np.testing.assert_allclose(divergence(TASKS, 2 * TASKS)[0], twice, rtol=1e-4)


def gradient(params, targets, data, keys, weight, piece=None):
    loss = functools.partial(soft_loss(networks_of(), ENCODER, 4 * LEARNED.kl_weight, LEARNED), targets=targets)
    batch = outer.Batch(Drawn(*data, jnp.arange(len(keys))), keys, weight)
    return outer.mean()(loss, params, batch, piece).gradient


def test_a_step_does_not_depend_on_the_gradient_chunk():
    params, targets, *data = problem(4)
    together, apart = (
        jax.jit(functools.partial(gradient, piece=piece))(params, targets, data, jax.random.split(KEY, 4), jnp.ones(4))
        for piece in (None, 1)
    )
    chex.assert_trees_all_close(together, apart, rtol=1e-5, atol=1e-6)
    assert size_of(apart) > 1e-3


def test_a_task_that_does_not_count_leaves_the_step_to_the_others():
    params, targets, *data = problem(4)
    keys = jax.random.split(KEY, 4)

    def stepped(some, weight):
        data_of, keys_of = jax.tree.map(lambda leaf: leaf[some], (data, keys))
        return jax.jit(gradient)(params, targets, data_of, keys_of, jnp.array(weight))

    two_of_four = stepped(np.arange(4), [0.0, 1.0, 1.0, 0.0])
    chex.assert_trees_all_close(two_of_four, stepped(np.array([1, 2, 1, 2]), np.ones(4)), rtol=1e-5, atol=1e-6)
    apart = jax.tree.map(lambda one, other: one - other, two_of_four, stepped(np.arange(4), np.ones(4)))
    assert size_of(apart) > 1e-3


@dataclasses.dataclass(frozen=True)
class Diary:
    """Shows the task, a number drawn for the episode, and the time; pays the time; ends when the task says so."""

    horizon: int = 4

    @property
    def spec(self):
        return Spec((3,), Continuous(1), self.horizon, terminates=True)

    def reset(self, key, task):
        obs = jnp.stack([task, jax.random.uniform(key), 0.0])
        return obs, obs

    def step(self, key, state, action, task):
        obs = state.at[2].add(1.0)
        return obs, Step(obs=obs, reward=obs[2], terminated=obs[2] >= task)

    def dense_reward(self, obs, task):
        return -obs[2] - 10.0 * task


ENDS = jnp.array([2.0, 9.0, 3.0, 8.0])
"""When each training task ends its episodes: two of them never within the horizon."""
LENGTHS = {0: 2, 1: 4, 2: 3, 3: 4}
DIARY = transition_rows(Diary().spec)


def diary_family():
    def sample(key):
        return ENDS[jax.random.randint(key, (), 0, 4)]

    held_out = lambda key: jax.random.uniform(key, minval=20.0, maxval=30.0)  # noqa: E731
    encode = lambda task: task[None]  # noqa: E731
    return tasks.TaskFamily(Diary(), sample, held_out, encode, train_tasks=ENDS, dense_reward=Diary().dense_reward)


def diary_meta(**changes):
    return jm.pearl(diary_family(), dataclasses.replace(tiny.ALGOS["pearl"], streams=2, **changes))


def updating(meta):
    """One update on all devices, as training does it; the state that it is given stays."""
    chunk = make_chunk(meta, 1)

    def update(state):
        state, metrics = chunk(state.replace(source=jax.tree.map(jnp.copy, state.source)))
        return state, {name: values[0] for name, values in metrics.items()}

    return update


def steps_on(source, sac, evidence, ordered=False, strata=2):
    """What the gradient steps of an update would learn from, leaves [steps, tasks, ...]."""
    minibatches = drawn(Diary().spec, sac, sac.meta_batch, strata, evidence, ordered)
    batch = outer.Batch(((), source), jax.random.split(KEY, strata), jnp.ones(strata))
    return jax.vmap(lambda taken: minibatches.take(batch, taken))(minibatches.deal(batch))


@pytest.fixture(scope="module")
def history():
    """The states after 0, 1, ... 8 updates, on two devices; the first two warm up."""
    meta = diary_meta()
    update, state = updating(meta), jm.init_state(meta, jax.random.key(0))
    states, metrics = [jax.device_get(keys_as_data(state))], []
    for _ in range(8):
        state, said = update(state)
        states.append(jax.device_get(keys_as_data(state)))
        metrics.append(jax.device_get(said))
    return states, metrics, state


def held(rings, task):
    """The transitions of a task, oldest first."""
    size, written = min(int(rings.written[task]), rings.rows.shape[1]), int(rings.written[task])
    return jax.device_get(DIARY.unpack(rings.rows[task, np.arange(written - size, written) % rings.rows.shape[1]]))


def visits(states):
    """(update, task) of every visit, with the transitions that it brought."""
    for index, (before, after) in enumerate(itertools.pairwise(states)):
        more = after.source["transitions"].written - before.source["transitions"].written
        for task in np.flatnonzero(more):
            brought = jax.tree.map(lambda leaf, n=more[task]: leaf[-n:], held(after.source["transitions"], task))
            yield index, task, brought


def test_warmup_visits_tasks_sequentially_and_training_samples_without_replacement():
    sampler = outer.revisit(diary_family()._replace(train_tasks=jnp.arange(6.0)), 6, in_turn=6)
    known, _ = sampler.init(KEY)
    draw = jax.vmap(lambda update, key: sampler.sample((known, update), (), jax.random.split(key, 2))[1])
    drawn_tasks = jax.jit(draw)(jnp.arange(30), jax.random.split(KEY, 30))
    chosen = np.asarray(drawn_tasks.slot)
    np.testing.assert_array_equal(drawn_tasks.tasks, chosen)
    np.testing.assert_array_equal(chosen[:6].ravel(), [*range(6), *range(6)])
    assert (chosen[6:, 0] != chosen[6:, 1]).all()
    assert len(np.unique(np.sort(chosen[6:], axis=1), axis=0)) > 6
    # an update counts, whatever came of it
    assert int(sampler.update((known, jnp.int32(3)), None, jnp.zeros(2), jnp.zeros(2, bool))[0][1]) == 4


def test_warming_up_visits_every_task_and_changes_no_params(history):
    states, metrics, _ = history
    assert {task for index, task, _ in visits(states) if index < 2} == {0, 1, 2, 3}
    chex.assert_trees_all_equal((states[0].params, states[0].opt_state), (states[2].params, states[2].opt_state))
    assert metrics[1]["loss/critic"] == 0.0 != metrics[2]["loss/critic"]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), states[2].params, states[3].params)
    assert all(any(jax.tree.leaves(part)) for part in (moved.encoder, moved.actor, moved.critics))


def test_every_visit_brings_all_its_rounds_and_each_task_keeps_its_own(history):
    states, metrics, _ = history
    steps = np.zeros(8)
    for index, task, brought in visits(states):
        assert len(brought.reward) == 2 * 2 * LENGTHS[task]  # two rounds of two episodes; what is not valid is left out
        np.testing.assert_array_equal(brought.obs[:, 0], ENDS[task])
        np.testing.assert_array_equal(brought.next_obs[:, 2], brought.obs[:, 2] + 1)
        assert len(np.unique(brought.obs[:, 1])) == 4
        steps[index] += len(brought.reward)
    np.testing.assert_array_equal(steps, [said["env_steps"] for said in metrics])
    np.testing.assert_allclose(
        metrics[-1]["replay/transitions"],
        np.mean(np.minimum(states[-1].source["transitions"].written, 40) / 40),
        rtol=1e-6,
    )


def test_the_evidence_holds_the_first_round_of_the_latest_visit_alone(history):
    states, _, _ = history
    revisited = 0
    for index, task, brought in visits(states):
        evidence = held(states[index + 1].source["context"], task)
        half = len(brought.reward) // 2
        for name in ("obs", "action", "next_obs", "terminated"):
            np.testing.assert_array_equal(getattr(evidence, name), getattr(brought, name)[:half])
        # what was collected with z from the belief is not among it
        assert not set(evidence.obs[:, 1]) & set(brought.obs[half:, 1])
        revisited += index >= 2
    assert revisited == 12


@pytest.mark.parametrize("first_ones", [False, True])
def test_batch_and_evidence_of_a_gradient_step_are_of_one_task(first_ones, history):
    """Both show which task they are of."""
    sac, evidence = dataclasses.replace(tiny.SAC, gradient_steps=20), outer.EvidenceConfig(3, first_ones=first_ones)
    steps = steps_on(history[2].source, sac, evidence)
    obs, valid = steps.data.transitions.obs[..., 0], steps.data.valid
    shown = np.concatenate([obs, np.where(valid > 0, steps.data.evidence_rows[..., 0], obs[..., :1])], -1)
    assert (np.ptp(shown, axis=-1) == 0.0).all() and (valid.sum(-1) >= 1.0).all() and (steps.weight == 1.0).all()
    assert set(shown[..., 0].ravel()) == set(np.asarray(ENDS))
    assert (valid == 1.0).all() != first_ones


def test_tasks_without_data_are_not_learned_from():
    """Neither where there are others of its stratum, nor where it is alone in it."""
    lost = jnp.array([jnp.nan, 9.0, 3.0, 8.0])
    config = dataclasses.replace(tiny.ALGOS["pearl"], streams=2, tasks_per_update=4)
    for meta_batch, share in ((2, 1.0), (4, 0.75)):
        sac = dataclasses.replace(config.sac, meta_batch=meta_batch)
        meta = jm.pearl(diary_family()._replace(train_tasks=lost), dataclasses.replace(config, sac=sac))
        update, state = updating(meta), jm.init_state(meta, jax.random.key(0))
        for _ in range(4):
            state, said = update(state)
        np.testing.assert_array_equal(state.source["transitions"].written > 0, [False, True, True, True])
        assert said["nonfinite_tasks"] == 1.0 and np.isfinite(said["loss/critic"]) and said["skipped"] == 0.0
        steps = steps_on(state.source, sac, outer.EvidenceConfig(3), strata=meta_batch)
        obs = np.asarray(steps.data.transitions.obs[..., 0])
        assert (obs[np.asarray(steps.weight) > 0] > 0).all() and float(steps.weight.mean()) == share


def test_a_nonfinite_visit_leaves_the_evidence_of_earlier_ones():
    meta = diary_meta(tasks_per_update=4)
    update, state = updating(meta), jm.init_state(meta, jax.random.key(0))
    state, _ = update(state)
    before, (known, count) = jax.device_get(state.source), state.sampler
    after = update(state.replace(sampler=(known.at[0].set(jnp.nan), count)))[0].source
    np.testing.assert_array_equal(after["transitions"].written[0], before["transitions"].written[0])
    chex.assert_trees_all_equal(held(after["context"], 0), held(before["context"], 0))
    assert after["transitions"].written[1] > before["transitions"].written[1]


def test_a_recurrent_encoder_receives_the_first_steps_of_a_visit_in_order(history):
    steps = steps_on(history[2].source, tiny.SAC, outer.EvidenceConfig(3), ordered=True)
    # from step to step the time goes on, or an episode begins
    time, valid = steps.data.evidence_rows[..., 2], steps.data.valid
    moves = np.where(time[..., 1:] > 0, time[..., 1:] - time[..., :-1] == 1, True) | (valid[..., 1:] == 0)
    assert moves.all() and (time[..., 0] == 0).all()


@pytest.mark.parametrize(("encoder", "vary"), [("recurrent", False), ("product", True)])
def test_config_fields_reach_the_gradient_step(encoder, vary, monkeypatch):
    seen, told = {}, {}

    def note(spec, config, meta_batch, strata, evidence, ordered):
        seen.update(config=config, evidence=evidence, ordered=ordered, meta_batch=meta_batch)
        return outer.whole()

    def note_loss(networks, encoder, kl_weight, config):
        told.update(config=config, ordered=encoder.ordered, kl_weight=kl_weight)
        return soft_loss(networks, encoder, kl_weight, config)

    monkeypatch.setattr(sys.modules["jaxmeta.outer.off_policy"], "drawn", note)
    monkeypatch.setattr("jaxmeta.outer.soft_actor_critic.soft_loss", note_loss)
    sac = dataclasses.replace(tiny.SAC, temperature=0.3, meta_batch=2)
    options = {"vary_context": vary, "posterior_context": True, "context_batch": 9, "use_next_obs": not vary}
    meta = diary_meta(encoder=encoder, sac=sac, **options)
    np.testing.assert_allclose(meta.init(KEY).params.log_temperature, np.log(0.3), rtol=1e-6)
    expected = {"config": sac, "ordered": encoder == "recurrent"}
    evidence = outer.EvidenceConfig(batch=9, rounds=2, first_ones=vary, use_next_obs=not vary)
    assert seen == expected | {"evidence": evidence, "meta_batch": 2}
    assert told == expected | {"kl_weight": 2 * sac.kl_weight}


def test_rounds_that_the_encoder_cannot_reach_are_refused():
    family, config = tasks.point_robot(), dataclasses.replace(tiny.ALGOS["pearl"], streams=2, posterior_context=True)
    reach = 2 * family.env.spec.horizon
    config = dataclasses.replace(config, sac=dataclasses.replace(config.sac, replay_capacity=2 * reach))
    jm.pearl(family, dataclasses.replace(config, context_batch=reach))
    for first_ones in ({"vary_context": True}, {"encoder": "recurrent"}):
        one = dataclasses.replace(config, **first_ones, context_batch=reach)
        with pytest.raises(
            ValueError, match=f"posterior_context is True, but context_batch is {reach}; it must exceed"
        ):
            jm.pearl(family, one)
        jm.pearl(family, dataclasses.replace(one, context_batch=reach + 1))


def test_the_evidence_may_hold_the_rounds_with_z_from_the_belief_too():
    meta = diary_meta(posterior_context=True, vary_context=True)
    update, state = updating(meta), jm.init_state(meta, jax.random.key(0))
    states = [jax.device_get(keys_as_data(state))]
    for _ in range(3):
        state, said = update(state)
        states.append(jax.device_get(keys_as_data(state)))
    for index, task, brought in visits(states):
        evidence = held(states[index + 1].source["context"], task)
        np.testing.assert_array_equal(evidence.obs, brought.obs)
    assert np.isfinite(said["loss/critic"]) and said["loss/critic"] != 0.0


def test_a_visit_changes_only_the_buffers_of_its_tasks(history):
    states, _, _ = history
    pairs = {(index, task) for index, task, _ in visits(states)}
    for index, task in itertools.product(range(8), range(4)):
        if (index, task) not in pairs:
            for ring in ("transitions", "context"):
                before, after = (held(states[i].source[ring], task) for i in (index, index + 1))
                chex.assert_trees_all_equal(before, after)


def test_the_replay_holds_all_visits_until_it_is_full(history):
    states, _, _ = history
    for task in range(4):
        nonces = np.concatenate([brought.obs[:, 1] for _, where, brought in visits(states) if where == task])
        np.testing.assert_array_equal(held(states[-1].source["transitions"], task).obs[:, 1], nonces[-40:])
        assert len(nonces) > 4 * LENGTHS[task]


def test_rewards_are_stored_as_paid_and_unscaled_dense_ones_for_the_critics_alone(history):
    states, _, _ = history
    replay = states[-1].source
    for task in range(4):
        kept, evidence = held(replay["transitions"], task), held(replay["context"], task)
        np.testing.assert_array_equal(evidence.reward, evidence.next_obs[:, 2])
        np.testing.assert_array_equal(kept.reward, -kept.next_obs[:, 2] - 10.0 * ENDS[task])


def test_the_end_of_a_horizon_is_no_terminal_and_an_early_end_is(history):
    states, _, _ = history
    for task in range(4):
        kept = held(states[-1].source["transitions"], task)
        np.testing.assert_array_equal(kept.terminated, kept.next_obs[:, 2] >= ENDS[task])
        assert kept.next_obs[:, 2].max() == LENGTHS[task]
        assert kept.terminated.any() == (LENGTHS[task] < 4)


def test_per_task_state_stays_on_its_device(history):
    state = history[2]
    for leaf in jax.tree.leaves(state.source):
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [2, 2]
        assert {shard.index[0].start or 0 for shard in leaf.addressable_shards} == {0, 2}
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.params, state.opt_state)))


def test_devices_agree_on_the_params(history):
    for leaf in jax.tree.leaves(history[2].params):
        one, two = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(one, two)


def test_target_critics_follow_by_their_rate():
    config = dataclasses.replace(tiny.SAC, gradient_steps=1, target_rate=0.25)
    meta = diary_meta(sac=config)
    state = jm.init_state(meta, jax.random.key(0))
    update = updating(meta)
    state, _ = update(update(state)[0])
    after, _ = update(state)
    expected = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new, state.opt_state.target_critics, after.params.critics
    )
    chex.assert_trees_all_close(after.opt_state.target_critics, expected, rtol=1e-5, atol=1e-7)


# the schedule is that of every optimiser, which tests/outer/test_policy_gradient.py looks at
@pytest.mark.slow
def test_annealing_shrinks_the_steps_to_nothing():
    """Adam's first step is as long as the share of the updates that are left."""
    meta = diary_meta(sac=dataclasses.replace(tiny.SAC, gradient_steps=1, anneal_over=8))
    update, state = updating(meta), jm.init_state(meta, jax.random.key(0))
    for _ in range(meta.info.warmup):
        state, _ = update(state)
    moved = {}

    def counted(count):
        def set_count(node):
            return node._replace(count=jnp.int32(count)) if isinstance(node, optax.ScaleByScheduleState) else node

        is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731
        return jax.tree.map(set_count, state.opt_state, is_leaf=is_schedule)

    for step in (2, 5, 8, 9):
        after, _ = update(state.replace(opt_state=counted(step - 2)))
        change = jax.tree.map(jnp.subtract, after.params, state.params)
        moved[step] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])
    np.testing.assert_allclose(np.abs(moved[2]).max(), 0.75 * tiny.SAC.learning_rate, rtol=1e-3)
    np.testing.assert_allclose(moved[5], 0.5 * moved[2], rtol=1e-3, atol=1e-7)
    for step in (8, 9):
        np.testing.assert_array_equal(moved[step], 0.0)


def test_a_resumed_run_equals_the_uninterrupted_one_replay_included(tmp_path):
    meta = diary_meta()
    whole = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 4)
    half = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 2)
    Checkpointer(tmp_path).save(2, half)
    restored = Checkpointer(tmp_path).restore(jm.init_state(meta, jax.random.key(5)))
    assert [shard.data.shape[0] for shard in restored.source["context"].rows.addressable_shards] == [2, 2]
    resumed = jm.train(meta, restored, 4)
    chex.assert_trees_all_equal(*jax.device_get((keys_as_data(whole), keys_as_data(resumed))))
    assert size_of(whole.source["transitions"].rows) > 0


def test_a_replay_goes_on_with_another_number_of_devices(tmp_path):
    meta = diary_meta()
    whole = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 4)
    Checkpointer(tmp_path).save(2, jm.train(meta, jm.init_state(meta, jax.random.key(0)), 2))
    one = jm.Execution(devices=1)
    restored = Checkpointer(tmp_path).restore(jm.state_form(meta, execution=one))
    assert [shard.data.shape[0] for shard in restored.source["context"].rows.addressable_shards] == [4]
    resumed = jm.train(meta, restored, 4, execution=one)
    chex.assert_trees_all_close(*jax.device_get((keys_as_data(whole), keys_as_data(resumed))), atol=1e-6)


def test_last_layers_are_initially_small_and_of_either_sign():
    """The last layers are small and of either sign."""
    networks = nets.soft_actor_critic(SPEC, 0, (64,))
    for params in (networks.init_actor(KEY), *networks.init_critics(KEY)):
        kernel = np.asarray(params["params"]["Dense_1"]["kernel"])
        assert np.abs(kernel).max() < 3.1e-3
        assert 0.25 < np.mean(kernel < 0) < 0.75


@pytest.mark.parametrize("name", ["pearl", "sac"])
def test_discrete_actions_are_refused(name):
    family = tasks.bandit(tasks.BanditConfig(num_arms=3, num_pulls=2))
    with pytest.raises(ValueError, match="tasks.action is one of 3 choices; soft .* continuous actions"):
        tiny.algo(name, family)


def test_a_replay_that_cannot_hold_one_visit_is_refused():
    config = dataclasses.replace(tiny.SAC, replay_capacity=15)
    with pytest.raises(ValueError, match=r"^replay_capacity is 15; one trial on a task has 16 transitions$"):
        diary_meta(sac=config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 0, "batch_size is 0; it must be at least 1"),
        ("target_rate", 1.5, r"target_rate is 1.5; it must lie in \[0, 1\]"),
        ("temperature", 0.0, "temperature is 0.0; it must be positive"),
        ("kl_weight", -1.0, "kl_weight is -1.0; it must not be negative"),
    ],
)
def test_a_config_says_what_is_wrong(field, value, message):
    with pytest.raises(ValueError, match=message):
        outer.OffPolicyConfig(**{field: value})
