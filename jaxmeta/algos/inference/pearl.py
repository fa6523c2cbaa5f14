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
    """PEARL: soft actor-critic, told a draw from a belief about the task (Rakelly et al., 2019, arXiv:1903.08254)."""

    num_train_tasks: int = 100
    """Training tasks, drawn when training begins; a family with finitely many brings its own."""
    tasks_per_update: int = 4
    """Tasks visited by an update."""
    streams: int = 2
    """Episodes at a visit with z from the prior, and as many with z from the belief that those gave."""
    latent: int = 5
    """Length of z."""
    encoder: Literal["product", "recurrent"] = "product"
    """How experience becomes a belief: as a product of Gaussians, or read by a recurrent network in its order."""
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    """Widths of the encoder's hidden layers; a recurrent one takes the first as the size of its state."""
    use_next_obs: bool = False
    """Whether the encoder sees what a step led to: needed where tasks differ in their dynamics."""
    context_batch: int = 100
    """Transitions that the encoder sees of a task in a gradient step; with `vary_context` or a recurrent encoder the
    first ones of a visit, so that what comes after them in an evaluation is new to it."""
    vary_context: bool = False
    """Whether it sees what is known after some time: the first transitions of a visit, a random number up to that many.
    So a belief from few episodes is trained too. A recurrent encoder always does."""
    posterior_context: bool = False
    """Whether they also come from the episodes with z from the belief, as those of an evaluation will; not in the
    paper's experiments."""
    hidden: tuple[int, ...] = (300, 300, 300)
    """Widths of the hidden layers, of actor and critics."""
    action_scale: float | None = None
    """Largest absolute action that the actor takes; by default the largest that the environment does."""
    prior_episodes: int = 2
    """Episodes at the begin of an evaluation with z from the prior."""
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
                f"episodes is {self.episodes}; it must exceed prior_episodes, which is {self.prior_episodes}: a belief"
                " is acted on only after those"
            )
        if not self.encoder_hidden and self.encoder == "recurrent":
            raise ValueError("encoder_hidden is (); a recurrent encoder takes the first width as the size of its state")


@recipe
def pearl(family: TaskFamily, config: PEARLConfig = PEARLConfig()) -> MetaLearner:
    """Builds PEARL.

    At a visit to a training task, episodes are collected with z drawn from the prior, then as many with z from the
    belief after those. Actor and critics learn from all of them; the encoder from the critics' error on recent prior
    ones. Evaluation is by the paper's protocol: every episode draws its own z, the first `prior_episodes` from the
    prior, the later ones from the belief so far; the agent acts by its mode throughout.

    Raises:
      ValueError: if the family has discrete actions, or what is asked for cannot be seen by the encoder.
    """
    spec = family.env.spec
    networks = nets.soft_actor_critic(spec, config.latent, config.hidden, config.action_scale)
    size = replay.evidence_size(spec, config.use_next_obs)
    if config.encoder == "product":
        encoder = nets.product_encoder(size, config.latent, config.encoder_hidden)
    else:
        encoder = nets.recurrent_encoder(size, config.latent, config.encoder_hidden[0])
    first_ones, reach = encoder.ordered or config.vary_context, config.streams * spec.horizon
    if config.posterior_context and first_ones and config.context_batch <= reach and not spec.terminates:
        raise ValueError(
            f"posterior_context is True, but context_batch is {config.context_batch}: the first {reach} transitions of"
            " a visit are those with z from the prior"
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
