"""The figures of a small house."""

import sys

import pytest

from benchmarks import house

PLANS = """
[tool.importlinter]
contracts = [
    { type = "independence", modules = ["gigacli.stages.*"] },
    { type = "layers", layers = ["gigacli.cli", "gigacli.a | gigacli.b : gigacli.c"] },
]
"""
INSIDE = '''
"""tiles/count in prose."""
from gigacli.store.layout import NOT_DONE


def _count(store, name):
    """banks/moco."""
    read_columns("tiles/ of another tool")
    return store.array(f"banks/{name}/vectors") and store.root["tiles/count"] and self.store.array("tiles/count")


def public(a: int, *more: str) -> None:
    """Nothing."""


def untyped(a) -> None: ...
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gigacli" / "store").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(PLANS)
    (tmp_path / "gigacli" / "__init__.py").write_text("")
    (tmp_path / "gigacli" / "a.py").write_text(INSIDE)
    (tmp_path / "gigacli" / "store" / "b.py").write_text(INSIDE + "# longer\n")
    return tmp_path


def test_figures_of_a_small_house(folder):
    assert dict(house.figures(folder)) == {
        "lines": "33",
        "files": "3",
        "modules beside packages": "2",
        "layers of imports": "2, 1 of one module",
        "longest file": "17 lines, store/b.py",
        "functions": "6, 0 above 50 lines",
        "functions without underscore": "4",
        "  annotated": "50%",
        "  documented": "50%",
        "lines outside gigacli/store:": "",
        "  strings that spell a group's path": "1",
        "  strings with /vectors": "1",
        "  calls of .array(": "1",
        "  NOT_DONE": "1",
        "  read_column": "0",
        "  store.root": "1",
    }


def test_places_are_listed(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["house.py", str(folder), "--where"])
    house.main()
    assert "\n\n  store.root:\n  a.py:9\n" in capsys.readouterr().out
