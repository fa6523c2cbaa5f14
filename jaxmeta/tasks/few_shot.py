"""Few-shot supervised learning as an environment with episodes of one step."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array, Continuous, Examples, Input, Key, Output, Rollout, Spec, Step


class FewShotTask(struct.PyTreeNode):
    """The data of one supervised task."""

    support: Examples
    """The support set."""
    query: Examples
    """The query set; it shares no example with the support set."""
    generator: Any
    """Parameters that generated support and query set, such as amplitude and phase; agents do not observe them."""


@dataclasses.dataclass(frozen=True)
class FewShot:
    """A one-step environment: observe the support set and the query inputs, and predict the query targets.

    An observation is [shots + queries, size + outputs], one example per row: its input and then its target, which is
    zero for queries. An action is the prediction for all queries, [queries x outputs]: values, or class logits. The
    reward is the negative mean squared error in regression, and the accuracy in classification. The observation is the
    same in every round, so that the rounds of a trial are the steps of the inner loop.
    """

    shots: int
    queries: int
    size: int
    """Length of an input."""
    outputs: int
    """Length of a target, one-hot in classification."""
    kind: Literal["regression", "classification"] = "regression"

    @property
    def spec(self) -> Spec:
        rows, columns = self.shots + self.queries, self.size + self.outputs
        action = Continuous(self.queries * self.outputs, limit=sys.float_info.max)
        return Spec(observation=(rows, columns), action=action, horizon=1)

    def reset(self, key: Key, task: FewShotTask) -> tuple[tuple[()], Array]:
        return (), self.question(task)

    def step(self, key: Key, state: tuple[()], action: Array, task: FewShotTask) -> tuple[tuple[()], Step]:
        prediction = action.reshape(self.queries, self.outputs)
        reward = self.score(prediction, task.query.targets)
        return (), Step(obs=self.question(task), reward=reward, terminated=jnp.array(False))

    def question(self, task: FewShotTask) -> Array:
        """Returns what the agent observes: the support set and, without their targets, the query inputs."""
        hidden = task.query.replace(targets=jnp.zeros_like(task.query.targets))
        rows = [jnp.concatenate([one.inputs, one.targets], axis=1) for one in (task.support, hidden)]
        return jnp.concatenate(rows)

    def split(self, question: Array) -> tuple[Examples, Array]:
        """Splits an observation into the support set and the query inputs, which may be more than in meta-training."""
        support = question[: self.shots]
        return Examples(support[:, : self.size], support[:, self.size :]), question[self.shots :, : self.size]

    def loss(self, prediction: Array, targets: Array) -> Array:
        """Computes the training loss from [M, outputs] each: mean squared error or mean cross-entropy."""
        if self.kind == "regression":
            return jnp.mean(jnp.square(prediction - targets))
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(prediction), axis=-1))

    def score(self, prediction: Array, targets: Array) -> Array:
        """Computes the reward of a prediction."""
        if self.kind == "regression":
            return -self.loss(prediction, targets)
        return jnp.mean((jnp.argmax(prediction, -1) == jnp.argmax(targets, -1)).astype(jnp.float32))

    def experience(self, task: FewShotTask) -> Rollout:
        """Returns the experience of a round on a task, [1, 1, ...], which does not depend on a policy."""
        nothing = jnp.zeros((1, 1))
        question = self.question(task)[None, None]
        answer = jnp.zeros((1, 1, self.queries * self.outputs))
        inputs = Input(question, answer, nothing, nothing, question, nothing + 1)
        output = Output(dist=answer, value=nothing)
        episode = (inputs, answer, question, nothing, nothing + 1, nothing + 1, nothing, output)
        never = jnp.zeros((1, 1), bool)
        no_key: Any = ()  # nothing was sampled
        return Rollout(*episode, reset_key=no_key, success=never, fault=jnp.zeros(never.shape, jnp.int8))
