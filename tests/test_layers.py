"""Imports run one way, only the console prints, only the store knows its paths, and verbs have one shape."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gigacli.store.layout import WRITTEN_BY

ROOT = Path(__file__).parents[1]
OUTSIDE = [p for p in sorted((ROOT / "gigacli").rglob("*.py")) if p.parent.name != "store"]
"""Everything but the store."""

OTHER_FILES = ("importing/h5.py",)
"""Spell paths in files of other tools, which look like those of a store."""

PATH = re.compile(rf"(?:{'|'.join([*WRITTEN_BY, 'failures'])})/\S*")
OF_THE_STORE_ALONE = {
    "hands out raw arrays": r"(?<!\bnp)\.array\(",
    "asks an array whether a slide is done": r"\bNOT_DONE\b|\bread_column\b",
    "reaches for zarr's root": r"\bstore\.root\b|\.root\[|\.root\.get\(",
    "makes or reads arrays by their paths": r"\b(?:ensure_array|ensure_group|read_bytes|write_bytes)\(\s*f?\"\w",
    "builds the path of an array": r"/(?:vectors|coords|tissue|count|done|kept|weights|checkpoint|history)\"",
}
VERBS = ("tile", "pretrain_tiles", "bank", "train", "embed", "probe")


def test_import_contracts():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_only_the_console_prints():
    for file in (ROOT / "gigacli").rglob("*.py"):
        if file.name not in ("console.py", "command.py", "streams.py"):
            assert not re.search(r"^\s*print\(|sys\.std(out|err)", file.read_text(), re.MULTILINE), file


def test_one_noun_in_six_places():
    spec = (ROOT / "spec" / "store-0.2.md").read_text()
    cli = (ROOT / "gigacli" / "cli" / "verbs.py").read_text()
    examples = "".join(p.read_text() for p in (ROOT / "examples").rglob("*.sh"))
    for verb in ("tile", "pretrain-tiles", "bank", "train", "embed", "probe"):
        name = verb.replace("-", "_")
        assert f'"{verb}",' in cli
        assert f"def {name}(" in (ROOT / "gigacli" / "stages" / f"{name}.py").read_text()
        assert (ROOT / "tests" / "stages" / f"test_{name}.py").exists()
        assert f"giga {verb}" in spec
        assert f"giga {verb}" in examples


def test_files_stay_small():
    for file in (ROOT / "gigacli").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 380, file


def strings_of(tree):
    """The text of every string but docstrings; of an f-string its parts, as they are written."""
    blocks = (node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list))
    docstrings = {id(s.value) for block in blocks for s in block if isinstance(s, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_no_path_of_a_group_is_spelt_outside_the_store():
    spelt = [
        f"{file.relative_to(ROOT)}: {text!r}"
        for file in OUTSIDE
        if not str(file).endswith(OTHER_FILES)
        for text in strings_of(ast.parse(file.read_text()))
        if PATH.fullmatch(text)
    ]
    assert spelt == []


@pytest.mark.parametrize("what", OF_THE_STORE_ALONE)
def test_only_the_store(what):
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in OUTSIDE
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(OF_THE_STORE_ALONE[what], line)
    ]
    assert found == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_stage_has_one_shape(verb):
    """What it says, the function, the plan; then look, make ready, work, sum up, in this order."""
    tree = ast.parse((ROOT / "gigacli" / "stages" / f"{verb}.py").read_text())
    places = {node.name: node.lineno for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    wanted = [verb, "Plan", "prepare", "begin", "work", "summary"]
    if verb == "probe":  # it writes nothing
        wanted.remove("begin")
    assert [name for name in wanted if name not in places] == []
    assert sorted(wanted, key=places.__getitem__) == wanted
    assert "_Job" not in places
