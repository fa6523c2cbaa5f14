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
    """Attention heads; the paper has one. With one head per action, each can look up one action."""
    key_size: int = 32
    """Width of the keys and queries of a head."""
    value_size: int = 32
    """Width of the values of a head."""
    readout: tuple[int, ...] = ()
    """Widths of hidden layers between attention and heads; they also receive the input of the attention. The paper
    has none."""
    look_back: int | None = None
    """Context length in steps; by default the whole trial. It decides `layers` unless those are given, so an agent
    that is to continue on longer trials (`--start-from`) needs the context of the longest."""
    layers: int | None = None
    """Convolutions per block; by default ⌈log2 look-back⌉, with which the receptive field is the whole context."""
    init_gain: float = 1.0
    """Initial scale of the first layer and of keys and queries, relative to LeCun's; with one-hot inputs, attention
    is learned faster with 2.5."""
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
    """Builds SNAIL (Mishra et al., 2018, arXiv:1707.03141) with PPO instead of the paper's TRPO.

    As in RL², the policy is conditioned on the whole trial and maximises its return. It attends to every earlier step
    instead of compressing them into a recurrent state.
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
