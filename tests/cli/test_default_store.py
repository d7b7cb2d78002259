"""The store that a command line leaves out, in every command that is about one."""

import inspect
import json
from pathlib import Path

import pytest

from gigacli.cli import command as module
from gigacli.cli.command import STORE, run_command
from gigacli.cli.tools import TOOLS
from gigacli.cli.verbs import VERBS
from gigacli.errors import GigaError
from tests.helpers import run_giga

COMMANDS = {command.name: command for command in (*VERBS, *TOOLS)}
EMPTY = inspect.Parameter.empty
ABOUT_A_STORE = [name for name, command in COMMANDS.items() if STORE in command.arguments]


@pytest.fixture
def called(monkeypatch, tmp_path):
    """``called("search", "S1")``: the positional arguments that the function of a command gets."""
    monkeypatch.chdir(tmp_path)

    def call(name, *words):
        got = []

        def function(*arguments, **_):
            got.append(arguments)
            raise GigaError("enough")

        monkeypatch.setattr(module, "_load", lambda home: function)
        needed = [word for a in COMMANDS[name].arguments if a.flag and a.default is EMPTY for word in (a.flag, "x")]
        assert run_command([name, *words, *needed]) == 2
        return got[0] if got else None

    return call


def test_every_command_that_takes_a_store_takes_it_the_same_way():
    others = [name for name in COMMANDS if name not in ABOUT_A_STORE]
    assert others == ["merge", "encoders", "doctor", "demo"]
    for name in ABOUT_A_STORE:
        assert COMMANDS[name].arguments[0] is STORE
        assert "$GIGA_STORE, ./cohort.zarr, or the only *.zarr" in " ".join(run_giga(name, "--help").stdout.split())


@pytest.mark.parametrize("name", ABOUT_A_STORE)
def test_a_store_that_is_not_named_is_found(called, monkeypatch, name):
    words = ["S1"] if any(a.default is EMPTY and not a.flag for a in COMMANDS[name].arguments) else []
    rest = {"import": (["S1"],), "tile": ((),), "export": (None,), "view": (None,)}.get(name, tuple(words))
    assert called(name, *words) is None  # there is none
    Path("b.zarr").mkdir()
    assert called(name, *words)[0] == "b.zarr"
    monkeypatch.setenv("GIGA_STORE", "s3://bucket/x.zarr")
    found = called(name, *words)
    assert (found[0], [list(r) if isinstance(r, tuple) else r for r in found[1:]]) == (
        "s3://bucket/x.zarr",
        [list(r) if isinstance(r, tuple) else r for r in rest],
    )
    assert called(name, "c.zarr", *words)[0] == "c.zarr"


@pytest.mark.parametrize(
    ("line", "store", "rest"),
    [
        ("tile slides", "here.zarr", ["slides"]),
        ("tile full full/a.svs", "here.zarr", ["full", "full/a.svs"]),
        ("tile new full", "new", ["full"]),
        ("tile empty full", "empty", ["full"]),
        ("tile s3://b/c full", "s3://b/c", ["full"]),
        ("import full/a.svs full/a.svs", "here.zarr", ["full/a.svs", "full/a.svs"]),
        ("export features", "here.zarr", "features"),
        ("export plain", "plain", None),
        ("export plain tiles", "plain", "tiles"),
        ("search S1", "here.zarr", "S1"),
        ("view S1", "here.zarr", "S1"),
        ("search plain S1", "plain", "S1"),
    ],
)
def test_which_word_is_the_store(called, line, store, rest):
    Path("here.zarr").mkdir()
    Path("empty").mkdir()
    for file in ("full/a.svs", "plain/zarr.json"):
        Path(file).parent.mkdir()
        Path(file).touch()
    found = called(*line.split())
    assert (found[0], list(found[1]) if isinstance(found[1], tuple) else found[1]) == (store, rest)


def test_it_works_from_the_shell(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("GIGA_STORE", str(chain("embed")))
    assert json.loads(run_giga("info", "--json", cwd=tmp_path).stdout)["url"] == str(chain("embed"))
    found = json.loads(run_giga("search", "lab1_patient01_a", "--json", cwd=tmp_path).stdout)
    assert found["slide"] == "lab1_patient01_a"
    disk = json.loads(run_giga("doctor", "--no-self-test", "--json", cwd=tmp_path).stdout)
    assert any(str(chain("embed").parent) in check["found"] for check in disk["checks"] if check["name"] == "disk")
