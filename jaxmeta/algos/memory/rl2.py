"""RL²: a recurrent policy is the learning algorithm."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import nets, outer
from jaxmeta.algos.memory.whole_trials import WholeTrialsConfig, on_whole_trials
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class RL2Config(WholeTrialsConfig):
    """RL²: adapt in the hidden state of a recurrent policy (Duan et al., 2016, arXiv:1611.02779)."""

    cell: Literal["gru", "lstm", "lru", "associative", "transformer", "s5", "mamba", "mlstm"] = "gru"
    """Sequence model: lru is a linear recurrent unit, associative a memory of fast weights, transformer attends to the
    whole trial, s5 and mamba are state-space models, mlstm has a matrix memory."""
    hidden: int = 64
    """Size of the state of gru and lstm; else width of the layers, for transformer a multiple of 8, for mlstm of 4."""
    layers: int = 2
    """Layers of lru, transformer, s5, mamba and mlstm; the other cells have one."""
    readout: tuple[int, ...] = ()
    """Widths of hidden layers between recurrent state and heads; they also receive the input. The paper has none."""
    separate_value: bool = True
    """Whether values have a separate network, as in the paper; with `outer_loop` trpo they always do."""
    outer_loop: Literal["ppo", "trpo"] = "ppo"
    """Optimiser of the outer loop; the paper's is TRPO."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=2e-3, epochs=2, minibatches=8, value_weight=0.5, entropy_weight=0.05
    )
    """Used with `outer_loop` ppo; values are in units of the discounted length of a trial."""
    trpo: outer.TrustRegionCriticConfig = outer.TrustRegionCriticConfig()
    """Used with `outer_loop` trpo."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "hidden", "layers")
        checks.widths(self, "readout")
        if self.outer_loop == "ppo":
            self.ppo.check_divides(self.num_tasks)


@recipe
def rl2(family: TaskFamily, config: RL2Config = RL2Config()) -> MetaLearner:
    """Builds RL² (Duan et al., 2016, arXiv:1611.02779).

    A trial is several episodes on one task. The hidden state persists across them, and the policy maximises the return
    of the whole trial, so that exploration in early episodes is rewarded by the later ones.
    """
    network = nets.recurrent_actor_critic(
        family.env.spec,
        config.cell,
        config.hidden,
        config.init_log_std,
        config.length(family),
        config.readout,
        config.layers,
    )
    return on_whole_trials(network, family, config, config.ppo if config.outer_loop == "ppo" else config.trpo)
