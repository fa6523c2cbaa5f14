"""What recipes of imitation share: the network of the student, the layout of trials, and the meta-update."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from jaxmeta import inner, nets, outer
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan, Spec


@dataclasses.dataclass(frozen=True)
class PerceptronConfig:
    """A memoryless student."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers; with none the student is linear."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity."""

    def __post_init__(self):
        checks.finite(self)
        checks.widths(self, "hidden")


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
    """A student with a recurrent cell or another sequence model."""

    cell: Literal["gru", "lstm", "lru", "associative", "transformer", "s5", "mamba", "mlstm"] = "gru"
    """Sequence model, see `jm.RL2Config.cell`."""
    hidden: int = 64
    """Size of the state of gru and lstm; else width of the layers, for transformer a multiple of 8, for mlstm of 4."""
    layers: int = 2
    """Layers of lru, transformer, s5, mamba and mlstm; the other cells have one."""
    readout: tuple[int, ...] = ()
    """Widths of hidden layers between recurrent state and heads; they also receive the input."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "hidden", "layers")
        checks.widths(self, "readout")


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """A student with SNAIL's convolutions and attention; see `jm.SNAILConfig`."""

    filters: int = 32
    """Channels that each causal convolution adds."""
    tc_blocks: int = 1
    """Temporal-convolution blocks below the attention."""
    heads: int = 1
    """Attention heads."""
    key_size: int = 32
    """Width of the keys and queries of a head."""
    value_size: int = 32
    """Width of the values of a head."""
    readout: tuple[int, ...] = ()
    """Widths of hidden layers between attention and heads."""
    look_back: int | None = None
    """Context length in steps; by default the whole trial."""
    init_gain: float = 2.5
    """Initial scale of the first layer and of keys and queries, relative to LeCun's."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "filters", "tc_blocks", "heads", "key_size", "value_size", "look_back")
        checks.positive(self, "init_gain")
        checks.widths(self, "readout")


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The network of a student. Only the part that `network` names is used."""

    network: Literal["perceptron", "recurrent", "snail"] = "recurrent"
    """Kind of network; a perceptron has no memory."""
    perceptron: PerceptronConfig = PerceptronConfig()
    """Used with `network` perceptron."""
    recurrent: RecurrentConfig = RecurrentConfig()
    """Used with `network` recurrent."""
    snail: AttentionConfig = AttentionConfig()
    """Used with `network` snail."""
    init_log_std: float = -1.0
    """Log standard deviation of a continuous policy at the start."""

    def __post_init__(self):
        checks.finite(self)


@dataclasses.dataclass(frozen=True)
class StudentsConfig:
    """Fields of every recipe of imitation."""

    student: StudentConfig = StudentConfig()
    """The network."""
    episodes: int | None = None
    """Episodes per trial; by default that of the task family."""
    num_tasks: int = 64
    """Trials per update, each on a task of its own."""
    imitation: outer.ImitationConfig = outer.ImitationConfig()
    """The optimiser."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "episodes")

    def longest(self, family: TaskFamily) -> int | None:
        """Returns the episodes that the student's memory is built for; None for a memoryless one."""
        return None if self.student.network == "perceptron" else self.plan(family).episodes

    def plan(self, family: TaskFamily) -> Plan:
        """Returns the layout of a trial: one stream, without adaptation between rounds."""
        return Plan(episodes=self.episodes or family.episodes)


class Imitating(Protocol):
    """What `imitating` reads of a config."""

    @property
    def num_tasks(self) -> int: ...

    @property
    def imitation(self) -> outer.ImitationConfig: ...

    def plan(self, family: TaskFamily) -> Plan: ...


def network(spec: Spec, config: StudentConfig, length: int) -> nets.Network:
    """Builds the network of a student.

    Args:
      length: steps of the longest trial.
    """
    match config.network:
        case "perceptron":
            part = config.perceptron
            return nets.actor_critic(spec, part.hidden, part.activation, config.init_log_std)
        case "recurrent":
            part = config.recurrent
            return nets.recurrent_actor_critic(
                spec, part.cell, part.hidden, config.init_log_std, length, part.readout, part.layers
            )
        case "snail":
            part = config.snail
            return nets.snail_actor_critic(
                spec,
                length=part.look_back or length,
                filters=part.filters,
                tc_blocks=part.tc_blocks,
                heads=part.heads,
                key_size=part.key_size,
                value_size=part.value_size,
                readout=part.readout,
                init_gain=part.init_gain,
                init_log_std=config.init_log_std,
            )


def student(family: TaskFamily, config: StudentsConfig, length: int | None = None) -> Learner:
    """Builds a student, which adapts through its memory only.

    Args:
      length: steps of the longest trial; by default those of `config.plan`.
    """
    steps = config.plan(family).episodes * family.env.spec.horizon
    return inner.memory(network(family.env.spec, config.student, length or steps))


def imitating(
    learner: Learner,
    family: TaskFamily,
    config: Imitating,
    source: outer.Source,
    minibatches: outer.Minibatches | None = None,
    plan: Plan | None = None,
) -> MetaLearner:
    """Trains a student on labelled trials.

    Args:
      minibatches: the data of each gradient step; by default all of the batch.
      plan: layout of the trials that are collected; by default `config.plan`, which is that of evaluation.
    """
    own = config.plan(family)
    essential = "it may learn from stored demonstrations, whose tasks no sampler chooses"
    return outer.meta_update(
        learner,
        own,
        outer.uniform(family)._replace(essential=essential),
        source,
        outer.imitate(learner, config.imitation, minibatches),
        outer.Info(config.num_tasks, plan or own, spread=config.num_tasks),
    )
