"""What federated recipes share, whatever the clients' tasks: clients, server, privacy, and their checks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import optax

from jaxmeta import devices, outer, privacy
from jaxmeta.algos.gradient.update_rule import UpdateRuleConfig
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Metrics, Params, Plan


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """The optimiser of the server, whose gradient is the mean of the clients' messages (arXiv:2003.00295)."""

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    """The rule; momentum is `sgd` with a decay of 0.9."""
    learning_rate: float = 1.0
    """Step size. With FedAvg, `sgd` and 1.0, the params become the mean of the clients'."""
    anneal_over: int | None = None
    """Updates over which the learning rate is annealed linearly to zero; None keeps it."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate")
        checks.at_least_one(self, "anneal_over")

    def build(self) -> optax.GradientTransformation:
        """Builds the optimiser."""
        rules = {"sgd": optax.sgd, "momentum": functools.partial(optax.sgd, momentum=0.9), "adam": optax.adam}
        return outer.optimiser(self.learning_rate, self.anneal_over, rule=rules[self.optimizer])


class Update(NamedTuple):
    """The parts of a federated update that do not depend on what the clients' tasks are."""

    sampler: outer.Sampler
    mean: outer.FederatedMean
    tx: optax.GradientTransformation
    places: int
    """Clients of an update, those in empty places included."""
    accountant: privacy.Accountant | None
    """None if there is no noise."""


@dataclasses.dataclass(frozen=True)
class FederatedFields(UpdateRuleConfig):
    """The fields of federated meta-training on any kind of tasks."""

    method: Literal["fedavg", "per-fedavg", "per-fedavg-fo"] = "fedavg"
    """What a client sends. `fedavg`: the displacement of its params after `rounds` local gradient steps. `per-fedavg`:
    the gradient of its loss after `rounds` adaptations, through them; with `-fo` without second derivatives."""
    clients: outer.ClientsConfig = outer.ClientsConfig()
    """The clients, and which of them take part in an update."""
    server: ServerConfig = ServerConfig()
    """The optimiser of the server."""
    private: outer.PrivateConfig = outer.PrivateConfig()
    """Clipping of the clients' messages, and differential privacy; see `jm.privacy`."""

    def __post_init__(self):
        super().__post_init__()
        if self.private.is_private and self.clients.participation != "poisson":
            raise ValueError(
                f"clients.participation is {self.clients.participation!r}; with noise ε is accounted for 'poisson' only"
            )

    def accountant(self, family: TaskFamily, per_update: int) -> privacy.Accountant | None:
        """Builds what computes ε; None if there is no noise.

        Raises:
          extras.MissingExtraError: if dp-accounting is not installed.
        """
        if not self.private.is_private:
            return None
        total = outer.num_clients(family, self.clients)
        delta = total**-1.1 if self.private.delta is None else self.private.delta
        too_many = outer.overflow(total, per_update, self.clients)
        return privacy.Accountant.of(self.private.noise_multiplier, per_update / total, delta, too_many)

    def guarantee(self, family: TaskFamily, per_update: int, updates: int) -> dict[str, Any] | None:
        """Returns the privacy guarantee of params after some updates, ready for JSON; None if there is none."""
        if (accountant := self.accountant(family, per_update)) is None:
            return None
        epsilon, delta = accountant.after(updates)
        total = outer.num_clients(family, self.clients)
        return {
            "epsilon": float(epsilon) if updates else 0.0,
            "delta": float(delta),
            "unit": "client",
            "clients": total,
            "sampling_rate": per_update / total,
            "updates": updates,
        } | {name: getattr(self.private, name) for name in ("noise_multiplier", "clip")}

    def update(self, learner: Learner, family: TaskFamily, per_update: int) -> Update:
        """Builds the parts of an update that do not depend on what the clients' tasks are.

        Args:
          per_update: n, the expected number of participants.

        Raises:
          ValueError: if there are fewer clients than participants.
        """
        message = devices.tree_bytes(jax.eval_shape(learner.init, jax.random.key(0)))
        return Update(
            outer.participation(family, per_update, message, self.clients, is_private=self.private.is_private),
            outer.FederatedMean(float(per_update), self.private, self.clients.tasks),
            self.server.build(),
            outer.places(outer.num_clients(family, self.clients), per_update, self.clients),
            self.accountant(family, per_update),
        )


def federate(
    parts: Update, learner: Learner, family: TaskFamily, plan: Plan, source: outer.Source, improve: outer.Improve
) -> MetaLearner:
    """Builds a federated meta-learner; a private one logs ε, and nothing else about its clients than the noised mean.

    Args:
      improve: uses the mean and the optimiser of `parts`.
    """
    num_tasks = parts.places * parts.mean.tasks
    if parts.accountant is not None:
        steps = num_tasks * (plan.rounds + 1) * plan.streams * plan.episodes * family.env.spec.horizon
        source, improve = outer.unreported(source, steps), accounted(improve, parts.accountant)
    info = outer.Info(num_tasks, plan, spread=parts.places)
    return outer.meta_update(learner, plan, parts.sampler, source, improve, info)


def accounted(improve: outer.Improve, accountant: privacy.Accountant) -> outer.Improve:
    """Adds the metrics `privacy/epsilon` and `privacy/delta` after every update; skipped updates count, too."""

    def step(params: Params, opt_state: Any, batch: outer.Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        params, opt_state, metrics = improve.step(params, opt_state, batch, updates)
        epsilon, delta = accountant.after(updates + 1)
        return params, opt_state, metrics | {"privacy/epsilon": epsilon, "privacy/delta": delta}

    return improve._replace(step=step)
