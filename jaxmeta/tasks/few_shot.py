"""Few-shot prediction as an environment of one step: what supervised tasks are to all agents."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array, Continuous, Examples, Input, Key, Output, Rollout, Spec, Step


class FewShotTask(struct.PyTreeNode):
    """A task is its data."""

    support: Examples
    """What may be learned from."""
    query: Examples
    """What is then asked; it shares no example with the support."""
    generator: Any
    """What drew both, such as the parameters of a function; no agent sees it."""


@dataclasses.dataclass(frozen=True)
class FewShot:
    """A question of one step: the support with its targets, and the inputs of the query, whose targets are hidden.

    An observation is [shots + queries, size + outputs], an example a row: its input and then its target, which is zero
    for a query. An action is the prediction for all queries, [queries x outputs]: values, or logits of classes. The
    reward is minus the mean squared error of a regression, and the accuracy of a classification. The same question is
    asked after every adaptation, so that the rounds of a trial are the steps of the inner loop.
    """

    shots: int
    queries: int
    size: int
    """Length of an input."""
    outputs: int
    """Length of a target, one-hot in a classification."""
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
        """Lays a task out as what an agent sees of it."""
        hidden = task.query.replace(targets=jnp.zeros_like(task.query.targets))
        rows = [jnp.concatenate([one.inputs, one.targets], axis=1) for one in (task.support, hidden)]
        return jnp.concatenate(rows)

    def split(self, question: Array) -> tuple[Examples, Array]:
        """Returns the support and the inputs of the query; of these there may be more than in meta-training."""
        support = question[: self.shots]
        return Examples(support[:, : self.size], support[:, self.size :]), question[self.shots :, : self.size]

    def loss(self, prediction: Array, targets: Array) -> Array:
        """Computes what learning minimises, from [M, outputs] each: squared error or cross-entropy, on average."""
        if self.kind == "regression":
            return jnp.mean(jnp.square(prediction - targets))
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(prediction), axis=-1))

    def score(self, prediction: Array, targets: Array) -> Array:
        """Computes what a prediction is paid."""
        if self.kind == "regression":
            return -self.loss(prediction, targets)
        return jnp.mean((jnp.argmax(prediction, -1) == jnp.argmax(targets, -1)).astype(jnp.float32))

    def experience(self, task: FewShotTask) -> Rollout:
        """Returns what a round on a task shows, [1, 1, ...]: no policy is needed, as none decides what is seen."""
        nothing = jnp.zeros((1, 1))
        question = self.question(task)[None, None]
        answer = jnp.zeros((1, 1, self.queries * self.outputs))
        inputs = Input(question, answer, nothing, nothing, question, nothing + 1)
        output = Output(dist=answer, value=nothing)
        episode = (inputs, answer, question, nothing, nothing + 1, nothing + 1, nothing, output)
        never = jnp.zeros((1, 1), bool)
        no_key: Any = ()  # no policy drew anything
        return Rollout(*episode, reset_key=no_key, success=never, fault=jnp.zeros(never.shape, jnp.int8))
