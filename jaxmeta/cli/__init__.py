"""The command line: train, evaluate, collect, plot, compare, render, export, reproduce, list. One module per command.

A command is imported when it is called, so that help texts need not wait for JAX.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import jaxmeta as jm

COMMANDS = {
    "train": "jaxmeta.cli.train",
    "evaluate": "jaxmeta.cli.evaluate",
    "collect": "jaxmeta.cli.collect",
    "plot": "jaxmeta.cli.plot",
    "compare": "jaxmeta.cli.compare",
    "render": "jaxmeta.cli.render",
    "export": "jaxmeta.cli.export",
    "reproduce": "jaxmeta.cli.reproduce",
    "list": "jaxmeta.cli.listing",
}
HELP = """usage: jaxmeta COMMAND ...

Meta-reinforcement learning in JAX.

  train ALGO TASKS --out DIR    meta-train an agent; writes a run folder
  evaluate DIR                  adapt the agent to held-out tasks and report its returns
  collect EXPERT TASKS --out FILE  store demonstrations of a planner or of a run, to learn from
  plot DIR                      draw the learning curve and the adaptation curve
  compare DIR DIR ...           draw the learning curves of several runs, with intervals over their seeds
  render DIR                    draw a trial of the agent: its path, its prediction, or a Brax body in motion
  export DIR --out DIR          write the agent as programs that run without jaxmeta
  reproduce NAME                train the agents of a published table; print our numbers next to the published ones
  list                          list algorithms, task families and samplers

`jaxmeta COMMAND --help` shows its flags; `jaxmeta --version` prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    The exit code is 0 on success; 2 for bad input; 1 if memory or disk ran out, or a reproduced number misses its
    requirement; 3 if updates were not finite (the state is in `nonfinite/` of the run folder). A run that is stopped by
    a signal returns 128 plus the signal's number, 130 for Ctrl-C and 143 for SIGTERM. It saves its state first, unless
    the device call does not end within 8 seconds; then its last checkpoint remains. `--resume` continues it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # do not fail on a terminal without Greek letters
    try:
        code = _answer(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _answer(argv: list[str]) -> int:
    """Runs a command; turns errors into one line and an exit code."""
    if argv and argv[0] in ("-h", "--help", "--version"):
        print(f"jaxmeta {jm.__version__}" if argv[0] == "--version" else HELP)
        return 0
    from jaxmeta.cli import parsing, startup
    from jaxmeta.config import codec
    from jaxmeta.experiment import survival

    try:
        return _dispatch(argv)
    except (parsing.UsageError, codec.RunError) as error:
        return _fail(error, 2)
    except SystemExit as stop:  # tyro has printed a help text
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("jaxmeta: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (OSError, survival.SaveError, startup.DeviceError) as error:
        return _fail(error, 1)
    except RuntimeError as error:
        import jax

        if not isinstance(error, jax.errors.JaxRuntimeError):
            raise
        return _fail(_device_error(str(error), argv[0]), 1)


def _fail(what: Any, code: int) -> int:
    """Prints an error in one line and returns the exit code."""
    print("jaxmeta: " + " ".join(str(what).split()), file=sys.stderr)
    return code


def _device_error(text: str, command: str) -> str:
    """Returns the line of a device error that names it, with a remedy if memory ran out."""
    lines = text.strip().split("\n")
    # an error of a simulator on the host is a traceback; after any other, pages may follow: a dump of all buffers
    first = lines[-1 if "error calling callback" in lines[0] else 0][:300]
    flags = {"train": "--algo.num-tasks, --algo.streams or --algo.hidden", "evaluate": "--num-tasks or --streams"}
    flags["collect"] = flags["evaluate"]
    return f"{first}; reduce {flags[command]}" if "RESOURCE_EXHAUSTED" in first and command in flags else first


def _dispatch(argv: list[str]) -> int:
    from jaxmeta.cli import checks, parsing
    from jaxmeta.experiment import registry

    if not argv:
        raise parsing.UsageError(f"no command; choose one of {', '.join(COMMANDS)} (see `jaxmeta --help`)")
    command, *arguments = argv
    if command not in COMMANDS:
        near = registry.near(command, COMMANDS)
        raise parsing.UsageError(f"no command {command!r};{near} `jaxmeta --help` shows all")
    checks.working_directory()
    if os.getcwd() not in sys.path:  # for the user's task families; last, so that it shadows no installed module
        sys.path.append(os.getcwd())
    return importlib.import_module(COMMANDS[command]).run(arguments)
