"""PEARL: meta-learning as inference of the task, off-policy."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets, outer
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner, deterministic
from jaxmeta.rl import replay
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class PEARLConfig:
    """PEARL: soft actor-critic conditioned on a sampled task variable (Rakelly et al., 2019, arXiv:1903.08254)."""

    num_train_tasks: int = 100
    """Training tasks, drawn at the start of training; a family with `train_tasks` uses those."""
    tasks_per_update: int = 4
    """Tasks visited by an update."""
    streams: int = 2
    """Episodes per visit with z from the prior, and as many with z from the posterior given those."""
    latent: int = 5
    """Dimension of z."""
    encoder: Literal["product", "recurrent"] = "product"
    """Form of the posterior: a product of Gaussian factors, one per transition, or a recurrent network over time."""
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    """Widths of the encoder's hidden layers; the first is the state size of a recurrent encoder."""
    use_next_obs: bool = False
    """Whether the encoder receives next observations, which it needs where tasks differ in their dynamics."""
    context_batch: int = 100
    """Transitions per task that the encoder receives in a gradient step; with `vary_context` or a recurrent encoder
    the first ones of a visit."""
    vary_context: bool = False
    """Whether their number is random, from 1 to `context_batch`, so that posteriors given few transitions are trained
    too. A recurrent encoder always does so."""
    posterior_context: bool = False
    """Whether they are also taken from episodes with z from the posterior, as in evaluation; not in the paper's
    experiments."""
    hidden: tuple[int, ...] = (300, 300, 300)
    """Widths of the hidden layers, of actor and critics."""
    action_scale: float | None = None
    """Largest absolute action of the actor; by default the action limit of the environment."""
    prior_episodes: int = 2
    """Episodes at the start of an evaluation with z from the prior."""
    episodes: int = 3
    """Episodes of an evaluation; the last one counts."""
    sac: outer.OffPolicyConfig = outer.OffPolicyConfig()
    """The optimiser."""

    @property
    def rounds(self) -> int:
        """Rounds of adaptation in an evaluation: there is one after every episode but the last."""
        return self.episodes - 1

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_train_tasks", "tasks_per_update", "streams", "latent", "context_batch")
        checks.at_least_one(self, "prior_episodes", "episodes")
        checks.positive(self, "action_scale")
        checks.widths(self, "hidden")
        checks.widths(self, "encoder_hidden")
        if self.episodes <= self.prior_episodes:
            raise ValueError(
                f"episodes is {self.episodes}; it must exceed prior_episodes, which is {self.prior_episodes}: only"
                " later episodes act on the belief"
            )
        if not self.encoder_hidden and self.encoder == "recurrent":
            raise ValueError("encoder_hidden is (); its first width is the state size of a recurrent encoder")


@recipe
def pearl(family: TaskFamily, config: PEARLConfig = PEARLConfig()) -> MetaLearner:
    """Builds PEARL.

    A visit to a training task collects episodes with z sampled from the prior, then as many with z sampled from the
    posterior given those. Actor and critics are trained on all of them, the encoder by the critic loss on recent
    episodes from the prior. Evaluation follows the paper: every episode samples its own z, the first `prior_episodes`
    from the prior, the later ones from the posterior so far, and actions are deterministic.

    Raises:
      ValueError: if the family has discrete actions, or `posterior_context` would have no effect.
    """
    spec = family.env.spec
    networks = nets.soft_actor_critic(spec, config.latent, config.hidden, config.action_scale)
    encoder = evidence_encoder(family, config)
    first_ones, reach = encoder.ordered or config.vary_context, config.streams * spec.horizon
    if config.posterior_context and first_ones and config.context_batch <= reach and not spec.terminates:
        raise ValueError(
            f"posterior_context is True, but context_batch is {config.context_batch}; it must exceed {reach}, the"
            " transitions of a visit with z from the prior"
        )
    collector = inner.posterior_sampling(networks, encoder, config.use_next_obs)
    tested = inner.posterior_sampling(networks, encoder, config.use_next_obs, prior_rounds=config.prior_episodes)
    meta = outer.off_policy(
        networks,
        encoder,
        collector,
        family,
        outer.Visits(config.num_train_tasks, config.tasks_per_update, Plan(rounds=1, streams=config.streams)),
        config.sac,
        outer.EvidenceConfig(
            config.context_batch, 1 + config.posterior_context, config.vary_context, config.use_next_obs
        ),
        evaluation=(deterministic(tested), Plan(rounds=config.rounds)),
    )
    return meta._replace(info=dataclasses.replace(meta.info, prior_rounds=config.prior_episodes))


def evidence_encoder(family: TaskFamily, config: PEARLConfig) -> nets.EvidenceEncoder:
    """Builds the encoder of evidence, from which the posterior over z is computed."""
    size = replay.evidence_size(family.env.spec, config.use_next_obs)
    if config.encoder == "product":
        return nets.product_encoder(size, config.latent, config.encoder_hidden)
    return nets.recurrent_encoder(size, config.latent, config.encoder_hidden[0])
