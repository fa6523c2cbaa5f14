"""How the command is started: as a module, from anywhere, on any platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmeta as jm
from jaxmeta import cli

ROOT = Path(jm.__file__).parent.parent


def call(*arguments, **environment):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("module", ["jaxmeta", "jaxmeta.cli"])
def test_modules_are_the_command(module):
    done = call("-m", module, "--version")
    assert (done.returncode, done.stdout) == (0, f"jaxmeta {jm.__version__}\n")
    done = call("-m", module, "trian")
    assert done.returncode == 2 and done.stderr.startswith("jaxmeta: no command 'trian'; did you mean 'train'?")


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
@pytest.mark.parametrize("command", ["train maml navigation --out {}/new", "reproduce bandit --out {}/new"])
def test_a_platform_that_is_not_there_is_one_line(platform, command, tmp_path):
    import jax

    if jax.default_backend() == {"cuda": "gpu"}.get(platform, platform):
        pytest.skip(f"{platform} is there")
    done = call("-m", "jaxmeta", *command.format(tmp_path).split(), JAX_PLATFORMS=platform)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"jaxmeta: JAX_PLATFORMS is {platform!r}, which JAX cannot start here: ")
    assert "(try JAX_PLATFORMS=cpu, or unset it)" in done.stderr
    assert not list(tmp_path.iterdir())


DELETED = """
import os, sys, tempfile
from jaxmeta.cli import main
place = tempfile.mkdtemp()
os.chdir(place)
os.rmdir(place)
sys.exit(main(["train", "maml", "navigation", "--out", "run"]))
"""


def test_a_working_directory_that_is_gone_is_one_line():
    done = call("-c", DELETED)
    assert done.returncode == 2
    assert done.stderr == "jaxmeta: the working directory has been deleted; change to one that exists (try `cd`)\n"


def test_a_home_folder_is_expanded_as_a_shell_would(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("mine")
    assert cli.main(["train", "maml", "navigation", "--out=~/x"]) == 2
    assert f"--out {tmp_path}/x is a file" in capsys.readouterr().err
    assert cli.main(["evaluate", "~/y"]) == 2
    assert f"jaxmeta: {tmp_path}/y is not a run folder" in capsys.readouterr().err


def test_a_closed_pipe_ends_a_help_text_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "jaxmeta", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
