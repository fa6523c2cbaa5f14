"""Task families of the user on the command line, named `module:factory`."""

from __future__ import annotations

import json
import os
import sys
import textwrap

import jax
import pytest

import jaxmeta as jm
from jaxmeta import cli
from jaxmeta.cli import train
from jaxmeta.experiment import runs, saving

SIZES = ["--algo.num-tasks", "2", "--algo.streams", "2", "--algo.hidden", "4", "--eval-tasks", "2"]
SIZES += ["--algo.outer-loop", "ppo", "--algo.ppo.epochs", "1"]
MODULE = """
    from __future__ import annotations

    import dataclasses

    import jax.numpy as jnp

    import jaxmeta as jm
    from jaxmeta.tasks import NavigationConfig, navigation

    ZERO = jnp.zeros(())


    @dataclasses.dataclass(frozen=True)
    class WalkConfig:
        length: int = 4
        \"\"\"Steps of an episode.\"\"\"

        def __post_init__(self):
            if self.length < 1:
                raise ValueError(f"length is {self.length}; it must be at least 1")


    @dataclasses.dataclass(frozen=True)
    class FreeConfig:
        shape: list = dataclasses.field(default_factory=lambda: [1])


    def walk(config: WalkConfig) -> jm.TaskFamily:
        \"\"\"Walks of a length.\"\"\"
        if config.length > 50:
            raise ValueError("such walks are too long")
        return navigation(NavigationConfig(horizon=config.length))


    def by_default(config=WalkConfig(length=3)):
        return walk(config)


    def plain():
        return walk(WalkConfig(2))


    def supervised():
        return jm.tasks.sinusoid()


    def nothing():
        return None


    def free(config: FreeConfig):
        return plain()


    def of_a_number(size: int = 3):
        return plain()


    def of_two(config: WalkConfig, size: int):
        return plain()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module in it, and a run of a family of that."""
    folder, name = tmp_path_factory.mktemp("own"), "walks_of_a_user"
    (folder / f"{name}.py").write_text(textwrap.dedent(MODULE))
    before, path = os.getcwd(), list(sys.path)
    os.chdir(folder)
    assert (
        cli.main(["train", "maml", f"{name}:walk", "--out", "run", "--updates", "1", "--tasks.length", "5", *SIZES])
        == 0
    )
    os.chdir(before)
    yield folder
    sys.path[:] = path
    sys.modules.pop(name)


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_a_run_of_an_own_family_is_complete(place):
    config = json.loads((place / "run" / "config.json").read_text())
    assert (config["tasks"], config["tasks_config"]) == ("walks_of_a_user:walk", {"length": 5})
    assert jm.load("run").family.env.spec.horizon == 5
    assert json.loads((place / "run" / "evaluation.json").read_text())["tasks"] == "walks_of_a_user:walk"


def test_it_is_evaluated_plotted_and_resumed_from_its_folder(place, capsys):
    assert cli.main(["train", "maml", "walks_of_a_user:walk", "--out", "run", "--resume", "--updates", "2"]) == 0
    assert "walks_of_a_user:walk: Walks of a length." in capsys.readouterr().out
    assert cli.main(["evaluate", "run", "--num-tasks", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["num_tasks"]) == (2, 3)
    assert cli.main(["plot", "run"]) == 0
    assert (place / "run" / "learning.png").is_file()


@pytest.mark.parametrize(("name", "length"), [("by_default", 4), ("plain", 2)])
def test_a_factory_takes_a_config_or_nothing(name, length):
    _, config = train.configure(["maml", f"walks_of_a_user:{name}", "--out", "new"])
    assert config.build_family().env.spec.horizon == length


def test_help_shows_the_fields_of_the_config(capsys):
    assert cli.main(["train", "maml", "walks_of_a_user:walk", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--tasks.length INT" in printed and "Steps of an episode." in printed


REFUSED = {
    "no_such_module:walk": "cannot be imported: No module named 'no_such_module'",
    "walks_of_a_user:wlak": "the module has no function 'wlak'; did you mean 'walk'?",
    "walks_of_a_user:ZERO": "the module has no function 'ZERO'",
    "walks_of_a_user:": "is named MODULE:FACTORY",
    "../walks:walk": "is named MODULE:FACTORY",
    "walks_of_a_user:of_a_number": "takes (size); it must take one annotated dataclass",
    "walks_of_a_user:of_two": "takes (config, size); it must take one annotated dataclass",
    "walks_of_a_user:nothing": "which returns a NoneType; it must return a jm.TaskFamily",
    "walks_of_a_user:supervised": "a supervised family",
    "walks_of_a_user:free": "config.json cannot hold its FreeConfig",
    "walks_of_a_user:walk --tasks.length 60": "tasks is walks_of_a_user:walk: such walks are too long",
    "walks_of_a_user:walk --tasks.length 0": "tasks.length is 0; it must be at least 1",
    "walks_of_a_user:walk --tasks.lenght 3": "did you mean '--tasks.length'?",
}


@pytest.mark.parametrize("line", REFUSED)
def test_an_invalid_family_is_refused_in_one_line(line, place, capsys):
    assert cli.main(["train", "maml", *line.split(), "--out", "new"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("jaxmeta: ") and printed.err.count("\n") == 1
    assert REFUSED[line] in printed.err
    assert not (place / "new").exists()


def test_a_run_whose_module_is_gone_is_refused_in_one_line(place, tmp_path, capsys):
    config = json.loads((place / "run" / "config.json").read_text()) | {"tasks": "gone:walk"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "task family 'gone:walk' cannot be imported" in said


def test_a_config_that_json_cannot_store_is_refused(place):
    import walks_of_a_user  # pyright: ignore[reportMissingImports]

    config = runs.RunConfig("maml", "walks_of_a_user:free", jm.MAMLConfig(hidden=(4,)), walks_of_a_user.FreeConfig())
    _, meta = config.build()
    with pytest.raises(runs.RunError, match="config.json cannot hold its FreeConfig"):
        saving.save_run("new", config, jm.init_state(meta, jax.random.key(0)))
    assert not (place / "new").exists()
