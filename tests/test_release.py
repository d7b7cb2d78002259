"""The papers of a release agree with each other and with the program."""

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

from gigacli.cli.command import SHARED
from gigacli.cli.tools import TOOLS
from gigacli.cli.verbs import VERBS
from gigacli.store.layout import FORMAT_VERSION
from gigacli.version import __version__

ROOT = Path(__file__).parents[1]
COMMANDS = {command.name: command for command in (*VERBS, *TOOLS)}
CHANGES = (ROOT / "CHANGELOG.md").read_text()
PYTHONS = [
    name.rpartition(" ")[2]
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    if re.search(r":: 3\.\d+$", name)
]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_changes_begin_with_this_version_and_say_its_format():
    versions = re.findall(r"^## \[([\d.]+)\] - (\S+)$", CHANGES, re.MULTILINE)
    assert versions[0][0] == __version__
    assert [date.fromisoformat(day) for _, day in versions] == sorted(map(date.fromisoformat, dict(versions).values()))[
        ::-1
    ]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Upgrading from 0.1"}
    assert set(re.findall(r"^### (.+)$", CHANGES, re.MULTILINE)) <= kinds
    assert f"Format of the store: [{FORMAT_VERSION}](spec/store-{FORMAT_VERSION}.md)" in CHANGES.split("\n## ")[1]


def test_every_flag_in_the_changes_exists():
    """But those that were removed, and what the giga of before is told."""
    part = CHANGES.split("\n## ")[1]
    lines = re.findall(r"`giga ([a-z-]+)([^`]*)`", part.partition("### Removed")[0] + part.partition("### Fixed")[2])
    assert len(lines) > 20
    for name, words in lines:
        flags = {*COMMANDS[name].flags.values(), *(f"--{flag}" for flag in SHARED)}
        assert {word for word in words.split() if word.startswith("--")} <= flags, f"giga {name}{words}"


def test_the_citation_is_of_this_version():
    cited = read("CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "type", "license", "abstract"} <= cited.keys()
    assert cited["version"] == __version__
    assert f"## [{__version__}] - {cited['date-released'].isoformat()}" in CHANGES
    assert {"given-names", "family-names"} == set().union(*cited["preferred-citation"]["authors"])


def test_hooks_are_those_of_make_lint_and_fetch_nothing():
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in repository["hooks"]]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert hooks == [re.sub(r"( --check)? \.$", "", line) for line in re.findall(r"\$\(BIN\)/(.+)", lint)]
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_the_workflow_runs_what_ci_runs_on_every_python():
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS == ["3.11", "3.12", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


@pytest.mark.parametrize("name", ["bug", "question"])
def test_issues_are_asked_for_what_the_doctor_says(name):
    _, head, text = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.md").read_text().split("---\n", 2)
    assert {"name", "about"} <= yaml.safe_load(head).keys()
    assert "`giga doctor`" in text
    assert len(text.splitlines()) < 30
