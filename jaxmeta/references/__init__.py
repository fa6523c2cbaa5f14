"""Exact optima and classical algorithms, as baselines of meta-learned agents.

Agents are `Learner`s and run in the same `evaluate` as trained ones; their params are those of `learner.init(key)`:

    learner = jm.references.bandits.thompson(num_arms=5)
    report = jm.evaluate(learner, learner.init(key), family.env, tasks, key, jm.Plan(episodes=10))

* `bandits`: Bernoulli arms. Learners `random`, `greedy`, `epsilon_greedy`, `ucb1`, `thompson`, `optimistic_thompson`,
  `gittins`; the value of the Bayes-optimal policy `bayes_optimal_value` and the table `gittins_index`.
* `dark_room`: a hidden goal in a dark room. The Bayes-optimal explorer `bayes_optimal` and an agent that knows the goal
  `oracle`, both as learners; their exact returns `bayes_optimal_returns` and `oracle_return`.
* `grid`: a hidden goal on a small grid. The Bayes-optimal explorer `bayes_optimal` and an agent that knows the goal
  `oracle`, both as learners; their exact returns `bayes_optimal_returns` and `oracle_return`.
* `maze`: the shortest path from the start `shortest_steps` and from everywhere `steps_to_go`, in steps, and the return
  of an agent that knows the maze `oracle_return`.
* `meta_gradient`: the exact meta-gradient on a small MDP `exact_gradient`, and the expectation, bias and variance of
  the estimators of `jm.outer.META_GRADIENTS`, `expected_gradient` and `quality`.
* `optimizers`: hand-designed optimisers on supervised tasks: gradient descent, momentum and Adam, `optimiser`.
* `point`: point robots. The return of an agent that knows the goal, `oracle_return` and `sparse_oracle_return`, and
  its mean over goals and starts, `expected_return` and `expected_sparse_return`.
* `random_walk`: a chain with a hidden end that pays, as `dark_room`.
* `tabular`: random MDPs. The values of the known MDP `optimal_value` and of random actions `random_value`; learners
  `random`, `epsilon_greedy`, `psrl`, `optimistic_psrl`, `ucrl2`, `beb`.
"""

from jaxmeta.references import bandits, dark_room, grid, maze, meta_gradient, optimizers, point, random_walk, tabular

__all__ = [
    "bandits",
    "dark_room",
    "grid",
    "maze",
    "meta_gradient",
    "optimizers",
    "point",
    "random_walk",
    "tabular",
]
