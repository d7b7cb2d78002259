"""The pages of ``docs/howto``: their commands run, and the messages they quote are those of the program."""

import ast
import re
import shlex
import shutil

import pytest
from typer.main import get_command

import gigacli
from gigacli.cli.command import run_command
from gigacli.cli.verbs import app
from tests.test_docs import CONCEPTS, ROOT, command_lines, shortened

HOWTO = ROOT / "docs" / "howto"
ELSEWHERE = (
    "hf://",
    "s3://",
    "h-optimus-0",
    "--weights",
    "--encoder uni",
    "moco",
    "pretrain-tiles",
    "random-resnet18 --plan",
)
"""Words of commands that need a network, weights or time: their flags are looked at, in test_docs.py."""
FRESH = ("cluster.md",)
"""Pages that make their own store; the others take up one that has vectors."""
OTHERS = {"--nproc-per-node", "--version"}
"""Flags that are no option of a command."""
COMMANDS = [page for page in sorted(HOWTO.glob("*.md")) if "```\ngiga " in page.read_text() and page.stem != "slides"]


@pytest.fixture
def desk(tmp_path, cohort, chain, monkeypatch):
    """A folder with what the pages take for granted."""
    (tmp_path / "more-slides").mkdir()
    shutil.copy(next(cohort.slides.iterdir()), tmp_path / "more-slides" / "new.tif")
    shutil.copy(cohort.labels_csv, tmp_path)
    for name, target in {
        "other.zarr": chain("embed"),
        "archive": cohort.slides,
        "patients.csv": cohort.labels_csv,
    }.items():
        (tmp_path / name).symlink_to(target)
    for name in ("masks.csv", "cohort.missing-mpp.csv"):
        (tmp_path / name).write_text("path\n" + "\n".join(map(str, sorted(cohort.slides.iterdir()))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.scripts
@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_their_order(page, desk, cohort, store_at, chain, capsys):
    if page.name not in FRESH:
        store_at("embed")
    if page.stem == "features":
        gigacli.export(chain("embed"), "features", to=desk / "features_uni_v1")
    for line in command_lines(page, inline=False):
        if any(words in shlex.join(line) for words in ELSEWHERE):
            continue
        goes_on = line[0] == "bank" and (desk / line[1] / "banks").exists()  # with the parameters that are there
        words = line if goes_on else shortened(line)
        code = run_command([str(cohort.slides) if word == "slides/" else word for word in words])
        assert code == 0, f"giga {shlex.join(line)}\n{capsys.readouterr()}"


def test_the_commands_for_slides_are_those_of_the_readme():
    lines = command_lines(HOWTO / "slides.md", inline=False)
    assert [line for line in lines if line not in command_lines("README.md") and "--csv" not in line] == []


def constants():
    """Every text of the program; NUL stands for what is filled in."""
    for file in (ROOT / "gigacli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_that_are_explained_are_those_of_the_program():
    said = re.findall(r"^\| `(.*?)` \|", (HOWTO / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    texts = list(constants())
    for message in said:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
        assert any(pattern.search(text) for text in texts), message
    assert len(said) > 30


def test_every_flag_in_the_text_is_one_of_some_command():
    commands = get_command(app).commands.values()
    there = {
        flag for command in commands for option in command.params for flag in (*option.opts, *option.secondary_opts)
    }
    for page in [*HOWTO.glob("*.md"), *CONCEPTS.glob("*.md"), ROOT / "docs" / "paper.md", ROOT / "docs" / "index.md"]:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
        assert named <= there | OTHERS, page.name


def test_the_python_of_a_page_gives_vectors(store_at, monkeypatch, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (HOWTO / "export.md").read_text(encoding="utf-8"), re.DOTALL)
    store_at("embed")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["vectors"].shape == (8, 256)


def test_every_page_is_in_the_list():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (HOWTO / "index.md").read_text()))
    assert listed == {page.name for page in HOWTO.glob("*.md")} - {"index.md"}
