"""VariBAD: act on a belief about the task that is learned by variational inference."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from jaxmeta import devices, inner, nets, outer
from jaxmeta.algos.memory.whole_trials import TrialsConfig, scaled
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class VariBADConfig(TrialsConfig):
    """VariBAD: act on a learned belief about the task (Zintgraf et al., 2020, arXiv:1910.08348)."""

    num_tasks: int = 128
    """Trials per meta-update, each on a task of its own."""
    discount: float = 0.95
    """γ, across the episodes of a trial."""
    trace: float = 0.95
    """λ of generalised advantage estimation."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers, of the policy and of the values."""
    activation: Literal["tanh", "relu", "swish"] = "relu"
    """Nonlinearity of both. The paper's tanh saturates, as nothing bounds the means of the belief."""
    latent: int = 5
    """Dimension of the latent task variable."""
    encoder_hidden: int = 64
    """Size of the encoder's recurrent state."""
    action_embedding: int = 8
    """Size of the action embedding; 0 hides actions from the encoder."""
    reward_embedding: int = 8
    """Size of the reward embedding; 0 hides rewards."""
    obs_embedding: int = 8
    """Size of the observation embedding; 0 hides observations."""
    decoder_hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of each decoder."""
    reward_decoder: Literal["cells", "transition", "next-obs"] | None = None
    """Input of the reward decoder besides the latent: cells predicts the rewards of all cells of a grid at once,
    transition that of one step from the whole transition, next-obs from the next observation alone. By default cells
    where the tasks have them, else transition."""
    reward_weight: float = 1.0
    """Weight of the reward decoder's loss; with 0 there is no reward decoder."""
    state_weight: float = 0.0
    """Weight of the loss of the state decoder, which predicts the next observation; with 0 there is none."""
    kl_weight: float = 0.01
    """Weight of the KL divergence of each posterior from the previous one, relative to the negative log likelihood of
    cells or half the squared error of other predictions."""
    vae: outer.VariationalConfig = outer.VariationalConfig()
    """The optimiser of encoder and decoders."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=1e-3, epochs=2, minibatches=8, value_weight=0.5, entropy_weight=0.05
    )
    """The optimiser of the policy; values are in units of the discounted length of a trial."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "latent", "encoder_hidden")
        checks.not_negative(self, "action_embedding", "reward_embedding", "obs_embedding")
        checks.not_negative(self, "reward_weight", "state_weight", "kl_weight")
        checks.widths(self, "hidden")
        if self.reward_decoder is not None and not self.reward_weight:
            raise ValueError(f"reward_decoder is {self.reward_decoder!r}, but reward_weight is 0, which disables it")
        checks.widths(self, "decoder_hidden")
        self.ppo.check_divides(self.num_tasks)
        if not any(self.embeddings):
            raise ValueError("action_embedding, reward_embedding and obs_embedding are 0; the encoder has no input")
        if not self.reward_weight and not self.state_weight:
            raise ValueError("reward_weight and state_weight are 0; the belief needs at least one decoder")

    @property
    def embeddings(self) -> tuple[int, int, int]:
        """Sizes of action, reward and observation."""
        return self.action_embedding, self.reward_embedding, self.obs_embedding


@recipe
def varibad(family: TaskFamily, config: VariBADConfig = VariBADConfig()) -> MetaLearner:
    """Builds VariBAD (Zintgraf et al., 2020, arXiv:1910.08348).

    An update samples tasks and collects one trial on each, while the encoder updates the belief at every step. PPO
    improves the policy, which is conditioned on observation and belief. The trials are stored in a ring buffer; encoder
    and decoders are trained on samples from it, so that the belief at any step predicts the rewards of the whole trial,
    future ones included. Unlike in the official code, the policy receives no flag at the end of an episode.
    """
    spec, scale = family.env.spec, config.value_scale(family)
    encoder, decoders = belief_model(family, config)
    policy = nets.actor_critic(
        inner.hyper_spec(spec, config.latent), config.hidden, config.activation, config.init_log_std, value=True
    )
    policy = nets.scale_value(policy, scale)
    weights = {"reward": config.reward_weight, "state": config.state_weight}
    learner, plan = inner.belief(policy, encoder, decoders), config.plan(family)
    example = outer.example_trajectory(family, plan)
    part = config.num_tasks // config.ppo.minibatches
    strata = devices.num_strata(math.gcd(part, config.vae.batch_size, config.vae.capacity))
    if config.vae.capacity < config.num_tasks:
        raise ValueError(
            f"capacity is {config.vae.capacity}; the ring must hold the {config.num_tasks} trials of an update"
        )
    ring = outer.trajectory_ring(inner.trajectories, example, config.vae.capacity // strata)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.replay(outer.fresh(learner, family, plan), {"trials": ring}, strata, by_task=False),
        outer.variational(
            inner.policy(policy),
            inner.hyper_trials,
            inner.negative_elbo(encoder, decoders, weights, config.kl_weight),
            example,
            config.advantage(),
            scaled(config.ppo, scale),
            config.vae,
            strata,
        ),
        outer.Info(config.num_tasks, plan, spread=math.gcd(part, strata)),
    )


def belief_model(family: TaskFamily, config: VariBADConfig) -> tuple[nets.BeliefEncoder, dict[str, nets.BeliefDecoder]]:
    """Builds the encoder, and the decoders whose weights are not zero: `reward` and `state`.

    Raises:
      ValueError: if `reward_decoder` is cells and the tasks are not on a grid of cells.
    """
    spec = family.env.spec
    encoder = nets.recurrent_belief(
        spec, config.latent, config.encoder_hidden, config.embeddings, config.length(family)
    )
    decoders = {}
    if config.reward_weight:
        decoders["reward"] = _reward_decoder(family, config)
    if config.state_weight:
        decoders["state"] = nets.state_decoder(spec, config.latent, config.decoder_hidden)
    return encoder, decoders


def _reward_decoder(family: TaskFamily, config: VariBADConfig) -> nets.BeliefDecoder:
    kind = config.reward_decoder or ("transition" if family.cells is None else "cells")
    if kind != "cells":
        return nets.reward_decoder(family.env.spec, config.latent, config.decoder_hidden, kind == "transition")
    if family.cells is None:
        raise ValueError("reward_decoder is 'cells'; that needs tasks on a grid of cells, such as grid-navigation")
    return nets.cell_decoder(family.cells.number, family.cells.of, config.latent, config.decoder_hidden)
