"""SNAIL: convolutions and attention over all of the trial are the learning algorithm."""

from __future__ import annotations

import dataclasses

from jaxmeta import nets, outer
from jaxmeta.algos.memory.whole_trials import WholeTrialsConfig, on_whole_trials
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class SNAILConfig(WholeTrialsConfig):
    """SNAIL: adapt by convolution and attention over the trial (Mishra et al., 2018, arXiv:1707.03141)."""

    filters: int = 32
    """Channels that each causal convolution adds."""
    tc_blocks: int = 2
    """Temporal-convolution blocks below the attention."""
    heads: int = 1
    """Heads of the attention, each with keys and values of its own; the paper has one. With as many as there are
    actions each head can look up one action."""
    key_size: int = 32
    """Width of the keys and queries of a head."""
    value_size: int = 32
    """Width of the values of a head."""
    readout: tuple[int, ...] = ()
    """Widths of hidden layers that see all of that before policy and value; the paper has none."""
    look_back: int | None = None
    """Steps that the network sees back; by default all of a trial. Unless `layers` is given it decides their number,
    so that an agent that shall learn on longer trials later (`--start-from`) needs those of the longest."""
    layers: int | None = None
    """Convolutions per block; by default as many as it takes for the last to see all of that, ⌈log2 look-back⌉."""
    init_gain: float = 1.0
    """Initial scale of the first layer and of keys and queries, in units of LeCun's; with one-hot inputs, attention
    learns to look up sooner with 2.5."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=1e-3, epochs=2, minibatches=8, value_weight=5.0, entropy_weight=0.05
    )
    """The outer loop, with values in units of the discounted length of a trial; the paper's is TRPO."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "filters", "tc_blocks", "heads", "key_size", "value_size", "look_back", "layers")
        checks.positive(self, "init_gain")
        checks.widths(self, "readout")
        self.ppo.check_divides(self.num_tasks)


@recipe
def snail(family: TaskFamily, config: SNAILConfig = SNAILConfig()) -> MetaLearner:
    """Builds SNAIL with PPO.

    As in RL², the policy sees the whole trial and maximises its return; but it looks back at every step of it, where
    a recurrent state would have to carry all that may be needed.
    """
    network = nets.snail_actor_critic(
        family.env.spec,
        length=config.look_back or config.length(family),
        filters=config.filters,
        tc_blocks=config.tc_blocks,
        heads=config.heads,
        key_size=config.key_size,
        value_size=config.value_size,
        readout=config.readout,
        layers=config.layers,
        init_gain=config.init_gain,
        init_log_std=config.init_log_std,
    )
    return on_whole_trials(network, family, config, config.ppo)
