"""Agents outside of jaxmeta: one step at a time on NumPy arrays, and as programs that need JAX alone.

agent = jm.load("runs/first").agent()
agent.reset(task_begins=True)
action = agent.act(obs)
"""

from jaxmeta.deploy.agent import Agent, Form, Programs, load
from jaxmeta.deploy.programs import agent_of, export, form

__all__ = ["Agent", "Form", "Programs", "agent_of", "export", "form", "load"]
