"""Imitation: the likelihood of labels, and the sources of labelled experience.

All methods minimise the same loss, the negative log-likelihood of actions under the student's policy. They differ in
who acts and in who says which action is right: `Roles`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.demonstrations import Demonstrations
from jaxmeta.core.learner import Learner, adaptation_metrics
from jaxmeta.core.rollout import carry_bytes, collect, replay_fast, stepping_chunk, unroll
from jaxmeta.outer.aggregates import Loss
from jaxmeta.outer.descend import Minibatches, descend, optimiser, whole
from jaxmeta.outer.experts import Expert, acting, expert_actions, mixture
from jaxmeta.outer.loss import gradient_chunk
from jaxmeta.outer.meta_update import Batch, Draw, Improve, Seen, Source
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.sources import trial_metrics
from jaxmeta.rl import masked_mean
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Rollout, Task, Trial

PREFIX = "behaviour/"
"""Prefix of the metrics of trials in which somebody else than the student acted."""


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """Adam on the negative log-likelihood of labels."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    max_grad_norm: float = 1.0
    """Clips the global norm of gradients."""
    anneal_over: int | None = None
    """Meta-updates over which the learning rate is annealed linearly to zero; None keeps it."""
    steps: int = 1
    """Gradient steps per update."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.at_least_one(self, "anneal_over", "steps")


class Labelled(struct.PyTreeNode):
    """A trial on one task and the actions to imitate in its last round."""

    trial: Trial
    label: Array
    """[T, E, ...]."""


def imitation_loss(learner: Learner) -> Loss:
    """Builds the loss of one task: the mean negative log-likelihood of the labels, in nats per step.

    The student replays the trial, its adaptations included, and is judged on the last round. The trial may be anyone's.
    The mean is over all steps, T x E, of which invalid ones count as 0. So the mean over tasks is proportional to the
    negative log-likelihood of all their labels.

    Returns:
      (params, `Labelled`, key) -> (scalar, metrics): `loss`, `nll`, the mean over valid steps, and with discrete
      actions `agreement`, the share of valid steps at which the mode of the policy is the label.
    """

    def loss(params: Params, data: Labelled, key: Key) -> tuple[Array, Metrics]:
        fast, last = jax.tree.map(lambda leaf: leaf[-1], (replay_fast(learner, params, data.trial), data.trial.rounds))
        policy, valid = learner.head(unroll(learner, params, fast, last)), last.valid
        nll = jnp.where(valid > 0, -policy.log_prob(data.label), 0.0)
        total = jnp.mean(nll)
        metrics = {"loss": total, "nll": masked_mean(nll, valid)} | adaptation_metrics(fast)
        if jnp.issubdtype(data.label.dtype, jnp.integer):
            same = (policy.mode() == data.label).reshape(*valid.shape, -1).all(-1)
            metrics["agreement"] = masked_mean(same.astype(jnp.float32), valid)
        return total, metrics

    return loss


def imitate(
    learner: Learner, config: ImitationConfig = ImitationConfig(), minibatches: Minibatches | None = None
) -> Improve:
    """Takes gradient steps on the likelihood of labelled trials; metrics are means over the steps of an update.

    Args:
      minibatches: the data of each step, such as `recalled`; by default all of the batch.
    """
    tx: optax.GradientTransformation = optimiser(
        config.learning_rate,
        config.anneal_over,
        config.steps,
        max_grad_norm=config.max_grad_norm,
        regularise=config.regularise,
    )
    return descend(
        imitation_loss(learner),
        tx,
        minibatches=minibatches or whole(config.steps),
        piece=lambda params, data: gradient_chunk(learner, data.trial),
        average=True,
    )


class Roles(NamedTuple):
    """Who acts, and who labels."""

    act: Callable[[Params, Task, Array], tuple[Learner, Params]]
    """(params of the student, task, number of earlier rounds of DAgger) -> the agent that acts, and its params."""
    label: Callable[[Task, Rollout], Array]
    """(task, last round) -> labels [T, E, ...]."""
    view: Callable[[Trial], Trial] = lambda trial: trial
    """What the student replays of a trial, such as `history`."""
    keep: Callable[[Labelled], Labelled] = lambda data: data
    """Selects from the labelled trial, such as `best_streams`."""
    by_student: bool = False
    """Whether the student acts; else the returns in the log have the prefix `PREFIX`."""


def own_action(task: Task, experience: Rollout) -> Array:
    """Labels steps with the actions that were taken: cloning."""
    return experience.action


def acted_by(expert: Expert) -> Callable[[Params, Task, Array], tuple[Learner, Params]]:
    """Returns the `Roles.act` of an agent that is not trained."""
    return lambda params, task, rounds: (acting(expert, task), expert.params)


def cloning(teacher: Expert) -> Roles:
    """The teacher acts, and the student imitates its actions: behaviour cloning, or algorithm distillation."""
    return Roles(acted_by(teacher), own_action)


def relabelling(behaviour: Expert, expert: Expert) -> Roles:
    """One agent acts and an expert labels: decision pretraining, if the first does not observe the task."""
    return Roles(acted_by(behaviour), lambda task, experience: expert_actions(expert, task, experience))


def mixing(student: Learner, expert: Expert, beta: Callable[[Array], Array]) -> Roles:
    """Student and expert act and the expert labels: DAgger (Ross et al., 2011, arXiv:1011.0686).

    Args:
      beta: number of earlier rounds, int32 -> probability that the expert acts at a step.
    """
    return Roles(
        lambda params, task, rounds: (mixture(student, expert, task, beta(rounds)), params),
        lambda task, experience: expert_actions(expert, task, experience),
        by_student=True,
    )


def selecting(student: Learner, count: int) -> Roles:
    """The student acts and imitates the best of its own streams."""
    return Roles(lambda params, task, rounds: (student, params), own_action, keep=best_streams(count), by_student=True)


def best_streams(count: int) -> Callable[[Labelled], Labelled]:
    """Returns a function that keeps the `count` streams with the highest returns in the last round."""

    def keep(data: Labelled) -> Labelled:
        _, best = jax.lax.top_k(data.trial.rounds.reward[-1].sum(0), count)
        rounds = data.trial.rounds
        shorter = jax.tree.map(lambda leaf: leaf[:, :, best], rounds.replace(reset_key=()))
        shorter = shorter.replace(reset_key=rounds.reset_key[:, best])
        trial = data.trial.replace(rounds=shorter)
        return Labelled(trial, data.label[:, best])

    return keep


def history(trial: Trial) -> Trial:
    """Concatenates the rounds of a trial along time: what a student of a learning algorithm replays.

    The result has one round, [1, (R + 1) T, E, ...], whose first step only is the first of a stream.
    """
    rounds, inputs = trial.rounds, trial.rounds.inputs
    final = jax.tree.map(lambda leaf: leaf[:-1, -1], inputs)
    happened = rounds.valid[:-1, -1] > 0

    def latest(now: Any, frozen: Any) -> Any:
        """Returns what the last valid step led to: after an early end, the inputs stay those after that step."""

        def pick(now: Array, frozen: Array) -> Array:
            return jnp.where(happened.reshape(*happened.shape, *[1] * (frozen.ndim - 2)), now[:-1, -1], frozen)

        return jax.tree.map(pick, now, frozen)

    begins = {
        "prev_action": latest(rounds.action, final.prev_action),
        "prev_reward": latest(rounds.reward, final.prev_reward),
        "prev_done": jnp.ones_like(final.prev_done),
        "prev_next_obs": latest(rounds.next_obs, final.prev_next_obs),
        "first": jnp.zeros_like(final.first),
    }
    put = lambda leaf, value: leaf.at[1:, 0].set(value)  # noqa: E731
    inputs = inputs.replace(**{name: jax.tree.map(put, getattr(inputs, name), value) for name, value in begins.items()})
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), rounds.replace(inputs=inputs, reset_key=(), output=())
    )
    flat = flat.replace(reset_key=rounds.reset_key[:1])
    return Trial(rounds=flat, start_key=trial.start_key, adapt_keys=trial.adapt_keys[:0])


def labelled(roles: Roles, family: TaskFamily, plan: Plan) -> Source:
    """Collects and labels a trial on every task of an update; non-finite trials are left out."""

    def next_trials(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Labelled, Seen]:
        rounds = jnp.zeros(draw.weight.shape, jnp.int32)
        return state, *_collected(roles, family, plan, params, draw, rounds, keys)

    return Source(init=lambda key: (), next=next_trials)


def one_round(experience: Rollout, key: Key) -> Trial:
    """Makes a trial without adaptation of stored experience [T, E, ...]."""
    rounds = jax.tree.map(lambda leaf: leaf[None], experience)
    return _slim(Trial(rounds=rounds, start_key=key, adapt_keys=jax.random.split(key, 1)[:0]))


def stored(
    family: TaskFamily,
    otherwise: Source | None = None,
    episodes: int | None = None,
    layout: Callable[[Rollout, Key], Trial] = one_round,
) -> Source:
    """Draws demonstrations from the data that is passed to `update`, uniformly, with replacement.

    The labels are the demonstrated actions. The tasks of the update play no role.

    Args:
      otherwise: the source of an update without data; by default that is an error.
      episodes: the longest trial that the student has a memory for; None for any length.
      layout: (demonstrations on one task [T, E, ...], key) -> the trial that the student replays, such as
        `support_and_query`.

    Raises:
      ValueError: when an update is traced, if the data is not `Demonstrations` of the family's spec, or longer than the
        student's memory.
    """

    def next_trials(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Labelled, Seen]:
        if not jax.tree.leaves(data) and otherwise is not None:
            return otherwise.next(state, params, draw, data, keys)
        if not isinstance(data, Demonstrations):
            raise ValueError(f"data is a {type(data).__name__}; cloning needs a jm.Demonstrations")
        data.check(family.env.spec)
        if episodes is not None and data.episodes > episodes:
            raise ValueError(
                f"episodes is {episodes}, but the demonstrations have {data.episodes} per stream; the student's memory"
                f" must hold them (try --algo.episodes {data.episodes})"
            )

        def one(key: Key) -> Labelled:
            trial = layout(data.rollout(jax.random.randint(key, (), 0, data.num_tasks)), key)
            return Labelled(trial, trial.rounds.action[-1])

        finite = jnp.ones(draw.weight.shape, bool)
        return state, jax.vmap(one)(keys), Seen(draw.tasks, finite, {"env_steps": jnp.zeros(())})

    return Source(init=lambda key: () if otherwise is None else otherwise.init(key), next=next_trials)


class Recall(struct.PyTreeNode):
    """The labelled trials of the last rounds of DAgger, one lane for each task of an update."""

    data: Labelled
    """Leaves [n, C, ...], ring buffers over rounds; keys are stored as their data."""
    rounds: Array
    """Number of trials stored so far, overwritten ones included, int32 [n]."""


def aggregated(roles: Roles, family: TaskFamily, plan: Plan, student: Learner, num_tasks: int, capacity: int) -> Source:
    """Collects and labels trials, and keeps those of the last `capacity` rounds: DAgger's data set.

    The batch is a `Recall`, for `recalled`. Every task of an update has a ring of its own.
    """

    # of the same form as the trials of `roles`, whose expert need not be there
    own = roles._replace(act=lambda params, task, rounds: (student, params), label=own_action)

    def form(key: Key) -> Labelled:
        draw = Draw(jax.tree.map(lambda leaf: leaf[None], family.sample(key)), jnp.zeros(1, jnp.int32), jnp.ones(1))
        rounds, keys = jnp.zeros(1, jnp.int32), jax.random.split(key, 1)
        return _key_data(_collected(own, family, plan, student.init(key), draw, rounds, keys)[0])

    def init(key: Key) -> Recall:
        empty = lambda leaf: jnp.zeros((num_tasks, capacity, *leaf.shape[1:]), leaf.dtype)  # noqa: E731
        return Recall(jax.tree.map(empty, jax.eval_shape(form, key)), jnp.zeros(num_tasks, jnp.int32))

    def next_trials(state: Recall, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Recall, Recall, Seen]:
        new, seen = _collected(roles, family, plan, params, draw, state.rounds, keys)

        def write(ring: Array, one: Array, rounds: Array, finite: Array) -> Array:
            slot = jnp.where(finite, rounds % capacity, capacity)  # out of bounds: dropped
            return ring.at[slot].set(one, mode="drop")

        write_all = lambda ring, one: jax.vmap(write)(ring, one, state.rounds, seen.finite)  # noqa: E731
        state = Recall(jax.tree.map(write_all, state.data, _key_data(new)), state.rounds + seen.finite)
        fill = devices.task_mean(jnp.mean(jnp.minimum(state.rounds, capacity) / capacity))
        return state, state, seen._replace(metrics=seen.metrics | {"replay/rounds": fill})

    return Source(init, next_trials)


def recalled(steps: int) -> Minibatches:
    """Draws, at every gradient step, one of the kept trials from each lane of a `Recall`, uniformly."""

    def deal(batch: Batch) -> Key:
        return jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, steps))(batch.keys), 0, 1)

    def take(batch: Batch, keys: Key) -> Batch:
        recall: Recall = batch.data
        capacity = jax.tree.leaves(recall.data)[0].shape[1]

        def one(ring: Labelled, rounds: Array, key: Key) -> Labelled:
            index = jax.random.randint(key, (), 0, jnp.clip(rounds, 1, capacity))
            return jax.tree.map(lambda leaf: leaf[index], ring)

        data = _with_keys(jax.vmap(one)(recall.data, recall.rounds, keys), str(jax.random.key_impl(keys)))
        return batch.replace(data=data, keys=keys)

    return Minibatches(deal, take)


def _collected(
    roles: Roles, family: TaskFamily, plan: Plan, params: Params, draw: Draw, rounds: Array, keys: Key
) -> tuple[Labelled, Seen]:
    """Collects and labels a trial on every task, leaves [n, ...]."""
    env = family.env

    def one(moment: tuple[Task, Array, Key]) -> tuple[Trial, Labelled]:
        task, earlier, key = moment
        learner, own = roles.act(params, task, earlier)
        trial = collect(learner, own, env, task, key, plan)
        view = roles.view(trial)
        last = jax.tree.map(lambda leaf: leaf[-1], view.rounds)
        label = roles.label(task, last)
        data = roles.keep(Labelled(view, label))
        return trial.replace(rounds=trial.rounds.replace(output=())), data.replace(trial=_slim(data.trial))

    first = jax.tree.map(lambda leaf: leaf[0], (draw.tasks, rounds))
    chunk = stepping_chunk(env, draw.tasks, plan, carry_bytes(*roles.act(params, *first)))
    trials, data = devices.chunked_vmap(one, (draw.tasks, rounds, keys), chunk)
    bad = guard.nonfinite_trials(trials)
    nothing = bad.reshape(-1, *[1] * (data.label.ndim - 1))
    label = jnp.where(nothing, jnp.zeros((), data.label.dtype), data.label)
    data = Labelled(guard.empty(data.trial, bad), label)
    metrics = trial_metrics(guard.empty(trials, bad), plan, env.spec.success)
    if not roles.by_student:
        about_returns = ("return/", "success/")
        metrics = {PREFIX * name.startswith(about_returns) + name: value for name, value in metrics.items()}
    return data, Seen(trials, ~bad, metrics)


def _key_data(data: Labelled) -> Labelled:
    """Replaces keys by their data, and no keys by (): checkpoints cannot hold empty arrays."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    data = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, data)
    return data if data.trial.adapt_keys.size else data.replace(trial=data.trial.replace(adapt_keys=()))


def _with_keys(data: Labelled, kind: str) -> Labelled:
    """Undoes `_key_data`; `kind` is the implementation of the keys."""
    keys = functools.partial(jax.random.wrap_key_data, impl=kind)
    trial = data.trial
    rounds, start = trial.rounds.replace(reset_key=keys(trial.rounds.reset_key)), keys(trial.start_key)
    adapt = keys(trial.adapt_keys) if jax.tree.leaves(trial.adapt_keys) else start[..., None][..., :0]
    return data.replace(trial=Trial(rounds=rounds, start_key=start, adapt_keys=adapt))


def _slim(trial: Trial) -> Trial:
    """Drops what a student without adaptation between rounds does not replay."""
    if trial.adapt_keys.shape[0]:
        return trial
    rounds = trial.rounds
    return trial.replace(rounds=rounds.replace(output=(), next_obs=(), terminated=(), success=(), fault=()))
