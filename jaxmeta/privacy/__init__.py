"""Differential privacy: what the params of a private federated run reveal about one client.

**The unit of privacy is the client.** Params are (ε, δ)-differentially private if adding or removing one client, with
all of its tasks and data, changes the probability of any set of params by at most the factor e^ε, up to δ. M, the
number of clients, and n, the expected number of participants, count as public.

Each update clips the message of a client to norm C, sums the messages, divides by n, and adds Gaussian noise of
standard deviation σ C / n (`outer.FederatedMean`). Clients take part independently, each with probability q = n / M
(`outer.ClientsConfig`), so few updates see the data of any one of them. ε grows with q and with the updates, and falls
with σ. A client is a task, and usual sets of tasks are small: 100 tasks with 20 per update have q = 0.2, and even σ = 2
gives ε = 6.1 at δ = 1e-3 after 200 updates. Useful privacy needs thousands of clients, or σ >= 2 and few updates.

Not covered are params that a run starts from if they were trained on the same clients, several runs on the same
clients, whose ε add up, and the checkpoints of a run, which contain the state of its random numbers.
"""

from jaxmeta.privacy.accounting import Accountant, epsilon, rdp_of_update

__all__ = ["Accountant", "epsilon", "rdp_of_update"]
