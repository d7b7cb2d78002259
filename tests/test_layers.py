"""Imports run one way, and only the console prints."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_import_contracts():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_only_the_console_prints():
    for file in (ROOT / "gigacli").rglob("*.py"):
        if file.name not in ("console.py", "command.py"):
            assert not re.search(r"^\s*print\(|sys\.std(out|err)", file.read_text(), re.MULTILINE), file


def test_one_noun_in_six_places():
    spec = (ROOT / "spec" / "store-0.1.md").read_text()
    cli = (ROOT / "gigacli" / "cli" / "verbs.py").read_text()
    examples = "".join(p.read_text() for p in (ROOT / "examples").rglob("*") if p.is_file())
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
