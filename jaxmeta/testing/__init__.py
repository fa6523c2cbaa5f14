"""Contract tests for environments, learners and algorithms, your own included.

    from jaxmeta import testing

    testing.check_env(family)
    testing.check_learner(meta.learner, family, meta.plan)
    testing.check_algo(meta)

Each check returns None or raises `ContractError` with a message of one line. They compile and run real programs: use
small networks and few tasks.
"""

from jaxmeta.core.contracts import ContractError
from jaxmeta.testing.agents import check_algo, check_learner
from jaxmeta.testing.environments import check_env
from jaxmeta.testing.parts import check_aggregate, check_sampler, check_updater

__all__ = [
    "ContractError",
    "check_aggregate",
    "check_algo",
    "check_env",
    "check_learner",
    "check_sampler",
    "check_updater",
]
