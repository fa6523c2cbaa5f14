"""Soft actor-critic as an outer loop (Haarnoja et al., 2018, arXiv:1812.05905), on what each task has replayed.

With an encoder it is PEARL's meta-training (Rakelly et al., 2019, arXiv:1903.08254): actor and critics are told a draw
z from the belief about their task, and the encoder learns from the critics alone. It differs from the paper's code in
what soft actor-critic itself has become since: critics with targets of their own instead of a value network, and no
penalties on the size of the policy's mean and deviation; and all networks step at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import checks
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import collect, stepping_chunk
from jaxmeta.nets import ContextEncoder, ContextParams, SoftActorCritic, SquashedGaussian
from jaxmeta.outer.on_policy import trial_metrics
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.rl import replay as rings
from jaxmeta.rl.replay import TaskRings, Transition
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Plan, Task, TrainState, Trial


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """Soft actor-critic with twin critics and target networks."""

    learning_rate: float = 3e-4
    """Adam's step size, for all networks."""
    anneal_over: int | None = None
    """Updates, those that warm up included, over which it falls linearly to zero; None keeps it."""
    gradient_steps: int = 500
    """Steps of gradient descent per update."""
    meta_batch: int = 16
    """Training tasks in a gradient step; at most as many as there are."""
    batch_size: int = 256
    """Transitions of each of them."""
    discount: float = 0.99
    """γ, within an episode."""
    target_rate: float = 0.005
    """Part of the way that target networks go towards the critics in a gradient step."""
    reward_scale: float = 5.0
    """Factor of rewards in the critics' targets, and nowhere else."""
    temperature: float | None = 1.0
    """Price of entropy, in scaled rewards per nat; None learns it, for an entropy of minus the action's size."""
    kl_weight: float = 0.1
    """Weight of KL(belief || prior), summed over the tasks of a meta-batch and the dimensions of z; of PEARL alone.

    It competes with the critics' squared error, which grows with the square of `reward_scale`: where `kl_from_prior`
    stays near 0 nothing is inferred, where it far exceeds the logarithm of the number of tasks they are learned by
    heart, and what is drawn from the prior resembles none of them."""
    replay_capacity: int = 20_000
    """Transitions that are kept of every training task."""
    warmup_passes: int = 1
    """Passes over all training tasks, in which the updates only collect."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "reward_scale", "temperature", "target_rate")
        checks.at_least_one(self, "gradient_steps", "meta_batch", "batch_size", "replay_capacity", "warmup_passes")
        checks.at_least_one(self, "anneal_over")
        checks.not_negative(self, "kl_weight")
        checks.fraction(self, "discount", "target_rate")


class Replay(struct.PyTreeNode):
    """What is kept of the N training tasks, leaves [N, ...]."""

    tasks: Task
    transitions: TaskRings
    """For actor and critics; rewards are those that they are to maximise."""
    context: TaskRings
    """For the encoder: of the latest visit to the task alone, and rewards as the environment pays them."""


class SoftState(struct.PyTreeNode):
    """What gradient steps change besides the params."""

    adam: Any
    target_critics: Any


def off_policy(
    networks: SoftActorCritic,
    encoder: ContextEncoder,
    collector: Learner,
    family: TaskFamily,
    plan: Plan,
    *,
    num_train_tasks: int,
    tasks_per_update: int,
    context_batch: int = 1,
    context_rounds: int = 1,
    vary_context: bool = False,
    use_next_obs: bool = False,
    config: OffPolicyConfig = OffPolicyConfig(),
    evaluation: tuple[Learner, Plan] | None = None,
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds a meta-learner that replays what it collected on a fixed set of training tasks.

    An update visits some training tasks, stores what happens there, and takes many gradient steps on batches of all.
    The rounds of `plan` are collected one after the other, with an adaptation of the collector in between. All of it
    goes to the tasks' replay. The encoder is trained on the latest visit, by default on its first round alone: that was
    collected before anything of the task was known.

    Args:
      collector: acts while training; its params are `ContextParams`.
      num_train_tasks: size of the set, drawn from `family.sample` when training begins; where the family has finitely
        many (`train_tasks`), those are taken instead.
      tasks_per_update: tasks visited by an update, at most as many as there are.
      context_batch: transitions that the encoder sees of a task in a gradient step.
      context_rounds: rounds of a visit, from the first on, that they are drawn from.
      vary_context: whether they are the first of a visit, a random number of them, as an evaluation brings them: so the
        encoder learns what little experience is worth.
      use_next_obs: as in `inner.context`.
      evaluation: the learner to evaluate and its plan, if not the collector by its own.
      num_devices: by default as many as divide the numbers of all tasks, of those visited and of those in a batch.

    Raises:
      ValueError: if a ring cannot hold what one visit brings.
    """
    known = family.train_tasks
    num_tasks = num_train_tasks if known is None else jax.tree.leaves(known)[0].shape[0]
    visits, meta_batch = min(tasks_per_update, num_tasks), min(config.meta_batch, num_tasks)
    shared = math.gcd(num_tasks, visits, meta_batch)
    devices = num_devices or parallel.num_devices_for(shared)
    if shared % devices:
        raise ValueError(
            f"num_devices is {devices}; it must divide the training tasks, those visited and those in a batch, which"
            f" are {num_tasks}, {visits} and {meta_batch}"
        )
    spec = family.env.spec
    layout = rings.transition_rows(spec)
    round_size = plan.streams * plan.episodes * spec.horizon
    if config.replay_capacity < (plan.rounds + 1) * round_size:
        raise ValueError(
            f"replay_capacity is {config.replay_capacity}; one visit to a task brings {(plan.rounds + 1) * round_size}"
            " transitions"
        )
    # tasks are visited and drawn within strata of neighbours, so that chance is the same on 1, 2, 4 and 8 devices
    strata = parallel.parts_of(shared)
    if strata % devices:
        strata = devices
    warmup = -(-config.warmup_passes * num_tasks // visits)
    step = gradient_step(networks, encoder, meta_batch, config)
    tx = optax.adam(config.learning_rate)

    def init(key: Key) -> TrainState:
        params_key, tasks_key, key = jax.random.split(key, 3)
        params = collector.init(params_key)
        if config.temperature is not None:
            params = params.replace(log_temperature=jnp.log(jnp.float32(config.temperature)))
        tasks = jax.vmap(family.sample)(jax.random.split(tasks_key, num_tasks)) if known is None else known
        return TrainState(
            params=params,
            opt_state=SoftState(adam=tx.init(params), target_critics=jax.tree.map(jnp.array, params.critics)),
            key=key,
            step=jnp.zeros((), jnp.int32),
            replay=Replay(
                tasks=tasks,
                transitions=rings.empty_rings(num_tasks, config.replay_capacity, layout.width),
                context=rings.empty_rings(num_tasks, context_rounds * round_size if encoder.size else 1, layout.width),
            ),
        )

    def remember(replay: Replay, visited: Array, tasks: Task, trials: Trial) -> Replay:
        rounds = trials.rounds
        rows = layout.pack(_transitions(rounds, family, tasks))
        kept = rings.write(replay.transitions, visited, _in_order(rows), _in_order(rounds.valid))
        if not encoder.size:
            return replay.replace(transitions=kept)
        first = jax.tree.map(lambda leaf: leaf[:, :context_rounds], rounds.replace(reset_key=()))
        rows = layout.pack(rings.stored(first))
        # out of bounds, so not forgotten: tasks whose visit brought nothing because of a fault
        sound = jnp.where(guard.faulty_tasks(trials), num_tasks, visited)
        recent = rings.forget(replay.context, sound)
        recent = rings.write(recent, visited, _in_order(rows), _in_order(first.valid))
        return replay.replace(transitions=kept, context=recent)

    def draw(replay: Replay, key: Key) -> tuple[Transition, Array, Array, Array]:
        task_key, batch_key, context_key = jax.random.split(key, 3)
        # visits may have brought nothing because of a fault: such tasks come last, and do not count
        filled = replay.transitions.size > 0
        order = jax.random.permutation(task_key, num_tasks // strata)
        some = order[jnp.argsort(~filled[order], stable=True)][: meta_batch // strata]
        counts = filled[some].astype(jnp.float32)
        batch = layout.unpack(rings.draw(replay.transitions, some, batch_key, config.batch_size))
        if not encoder.size:
            return batch, jnp.zeros((len(some), 1, 0)), jnp.zeros((len(some), 1)), counts
        if encoder.ordered or vary_context:
            rows, valid = rings.draw_beginning(replay.context, some, context_key, context_batch)
        else:
            rows = rings.draw(replay.context, some, context_key, context_batch)
            valid = jnp.ones(rows.shape[:2])
        return batch, rings.context_rows(layout.unpack(rows), use_next_obs), valid, counts

    def local_update(shared, per_task):
        params, opt_state, updates = shared
        replay, keys = per_task
        first = keys[:: num_tasks // strata]
        choose_keys, collect_keys, learn_keys = jnp.unstack(_split_each(first, 3), axis=1)
        size, some = num_tasks // strata, visits // strata
        visited = jax.vmap(lambda key: _visited(updates, warmup, key, size, some))(choose_keys)
        visited = _flat(visited + size * jnp.arange(len(first))[:, None])
        tasks = jax.tree.map(lambda leaf: leaf[visited], replay.tasks)

        def one(task_and_key):
            task, key = task_and_key
            return collect(collector, params, family.env, task, key, plan)

        trial_keys = _flat(_split_each(collect_keys, visits // strata))
        trials = parallel.chunked_vmap(one, (tasks, trial_keys), stepping_chunk(family.env, tasks, plan))
        trials = guard.empty_faulty(trials)
        replay = remember(replay, visited, tasks, trials)
        strata_here = jax.tree.map(lambda leaf: leaf.reshape(len(first), -1, *leaf.shape[1:]), replay.replace(tasks=()))

        def learn():
            def one(state, keys):
                draw_keys, step_keys = jnp.unstack(_split_each(keys, 2), axis=1)
                drawn = jax.tree.map(_flat, jax.vmap(draw)(strata_here, draw_keys))
                step_keys = _flat(_split_each(step_keys, meta_batch // strata))
                return step(state, *drawn, step_keys, tx, remaining_share(updates, config.anneal_over))

            step_keys = jnp.swapaxes(_split_each(learn_keys, config.gradient_steps), 0, 1)
            state, metrics = jax.lax.scan(one, (params, opt_state), step_keys)
            return state, jax.tree.map(lambda leaf: leaf.mean(0), metrics)

        idle = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(learn)[1])
        (params, opt_state), metrics = jax.lax.cond(updates >= warmup, learn, lambda: ((params, opt_state), idle))
        fill = replay.transitions.size / config.replay_capacity
        metrics["replay"] = parallel.mean_over_tasks(jnp.mean, fill)
        metrics |= trial_metrics(trials, plan, visits)
        return (params, opt_state, metrics), replay

    def update(state: TrainState) -> tuple[TrainState, Metrics]:
        key, task_key = jax.random.split(state.key)
        keys = jax.random.split(task_key, num_tasks)
        (params, opt_state, metrics), replay = parallel.over_tasks(local_update, num_tasks, devices, keeps=True)(
            (state.params, state.opt_state, state.step), (state.replay, keys)
        )
        return TrainState(params, opt_state, key, state.step + 1, replay), metrics

    learner, evaluated_by = evaluation or (collector, plan)
    return MetaLearner(learner, evaluated_by, init, update, devices, collects=(visits, plan), warmup=warmup)


def gradient_step(
    networks: SoftActorCritic, encoder: ContextEncoder, meta_batch: int, config: OffPolicyConfig
) -> Callable[..., tuple[tuple[ContextParams, SoftState], Metrics]]:
    """Builds one step of all networks at once, each by its own part of one loss.

    Returns:
      ((params, state), batch [B, b], context [B, n, D], valid [B, n], 1.0 for tasks that count [B], keys [B], tx, share
      of the step size that is left) -> ((params, state), metrics), where B are the tasks of one device; of all devices
      at least one must count.
    """
    loss = soft_loss(networks, encoder, meta_batch, config)

    def step(
        state,
        batch: Transition,
        context: Array,
        valid: Array,
        counts: Array,
        keys: Key,
        tx: optax.GradientTransformation,
        remaining: float | Array = 1.0,
    ):
        params, soft = state

        def mean(params: ContextParams, some: tuple) -> tuple[Array, tuple[Metrics, Array]]:
            *seen, counts = some
            said = jax.vmap(loss, (None, None, 0))(params, soft.target_critics, tuple(seen))
            total, metrics = jax.tree.map(lambda leaf: jnp.mean(leaf * counts), said)
            return total, (metrics, jnp.mean(counts))

        gradient, (metrics, share) = parallel.mean_over_tasks(
            lambda some: jax.grad(mean, has_aux=True)(params, some),
            (batch, context, valid, keys, counts),
            _gradient_chunk(params, batch),
        )
        (gradient, metrics), *_ = guard.over_kept((gradient, metrics), (share, share), meta_batch)
        change, adam = tx.update(gradient, soft.adam, params)
        change = jax.tree.map(lambda leaf: leaf * remaining, change)
        params = cast(ContextParams, optax.apply_updates(params, change))
        targets = optax.incremental_update(params.critics, soft.target_critics, config.target_rate)
        return (params, SoftState(adam, targets)), metrics

    return step


def _gradient_chunk(params: ContextParams, batch: Transition) -> int | None:
    """Returns how many tasks to differentiate side by side so that what a layer says of them stays in cache."""
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(params.critics))
    return parallel.cache_chunk(batch.reward[0].nbytes * widest)


def soft_loss(
    networks: SoftActorCritic, encoder: ContextEncoder, meta_batch: int, config: OffPolicyConfig
) -> Callable[[ContextParams, Any, tuple[Transition, Array, Array, Key]], tuple[Array, Metrics]]:
    """Builds the sum of all losses on one task; what each network must not learn from is cut off.

    Actions, and so entropies, are in units of the box that the actor can reach, whose largest entropy is |A| log 2.
    The critics' error teaches critics and encoder; actor, temperature and targets take z as given. The KL term teaches
    the encoder: of a meta-batch it is the sum, where everything else is the mean.

    Returns:
      (params, target critics, (batch [b], context [n, D], valid [n], key)) -> (scalar, metrics).
    """
    fixed = jax.lax.stop_gradient

    def loss(params: ContextParams, targets: Any, seen: tuple[Transition, Array, Array, Key]):
        batch, context, valid, key = seen
        z_key, next_key, actor_key = jax.random.split(key, 3)
        belief = encoder.belief(params.encoder, encoder.add(params.encoder, encoder.start(), context, valid))
        z = jnp.broadcast_to(belief.sample(z_key), (*batch.reward.shape, encoder.size))
        given = fixed(z)
        temperature = jnp.exp(fixed(params.log_temperature))

        def act(actor: Any, obs: Array, key: Key) -> tuple[Array, Array]:
            return SquashedGaussian(networks.actor(actor, obs, given)).sample_and_log_prob(key)

        next_action, next_log_prob = act(fixed(params.actor), batch.next_obs, next_key)
        next_value = jnp.minimum(*networks.critics(targets, batch.next_obs, next_action, given))
        next_value -= temperature * next_log_prob
        goes_on = config.discount * (1.0 - batch.terminated)
        target = fixed(config.reward_scale * batch.reward + goes_on * next_value)
        predictions = networks.critics(params.critics, batch.obs, batch.action / networks.action_scale, z)
        critic_loss = sum(jnp.mean(jnp.square(prediction - target)) for prediction in predictions)

        action, log_prob = act(params.actor, batch.obs, actor_key)
        value = jnp.minimum(*networks.critics(fixed(params.critics), batch.obs, action, given))
        actor_loss = jnp.mean(temperature * log_prob - value)

        total = critic_loss + actor_loss
        metrics = {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "value": jnp.mean(predictions[0]),
            "entropy": -jnp.mean(log_prob),
        }
        if encoder.size:
            divergence = belief.kl_from_prior()
            total += config.kl_weight * meta_batch * divergence
            metrics["kl_from_prior"] = divergence
        if config.temperature is None:
            # more entropy than the target lowers its price
            wanted = -batch.action.shape[-1]
            total += params.log_temperature * fixed(-jnp.mean(log_prob) - wanted)
            metrics["temperature"] = temperature
        return total, metrics

    return loss


def _visited(updates: Array, warmup: int, key: Key, num_tasks: int, visits: int) -> Array:
    """Chooses the tasks of an update, int [visits]: in turn while warming up, then at random without repetition."""
    in_turn = (updates * visits + jnp.arange(visits)) % num_tasks
    at_random = jax.random.choice(key, num_tasks, (visits,), replace=False)
    return jnp.where(updates < warmup, in_turn, at_random)


def _transitions(rounds: Any, family: TaskFamily, tasks: Task) -> Transition:
    """Takes the transitions out of rounds [M, R, T, E], with the rewards to train on.

    Where an environment pays rarely it may offer a `dense_reward(next_obs, task)`, from which actor and critics learn.
    """
    stored = rings.stored(rounds)
    dense = getattr(family.env, "dense_reward", None)
    if dense is None:
        return stored
    for _ in range(3):
        dense = jax.vmap(dense, (0, None))
    return stored.replace(reward=jax.vmap(dense)(stored.next_obs, tasks))


def _split_each(keys: Key, count: int) -> Key:
    """Splits keys [s] into [s, count]."""
    return jax.vmap(lambda key: jax.random.split(key, count))(keys)


def _flat(leaf: Array) -> Array:
    """Takes the first two axes as one."""
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])


def _in_order(leaf: Array) -> Array:
    """Lays rounds [M, R, T, E, ...] out as one sequence for each task, stream after stream: [M, R E T, ...]."""
    return jnp.swapaxes(leaf, 2, 3).reshape(leaf.shape[0], -1, *leaf.shape[4:])
