"""Model-based meta-reinforcement learning: agents that plan in a model of the dynamics, and models that adapt."""
