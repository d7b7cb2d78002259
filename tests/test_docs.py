"""The examples run, and the command lines of the README exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
GIGA = Path(sys.executable).with_name("giga")
ENVIRONMENT = {**os.environ, "PATH": f"{GIGA.parent}{os.pathsep}{os.environ['PATH']}"}


def run(command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_batch_script_runs_and_can_be_repeated(tmp_path, cohort):
    small = {"MPP": "1.0", "TILE_PX": "64", "TILE_EPOCHS": "1", "AUGMENTATIONS": "2", "DRAWS": "4", "EPOCHS": "2"}
    environment = {**ENVIRONMENT, **small, "SLIDES": str(cohort.slides), "LABELS": str(cohort.labels_csv)}
    for _ in range(2):
        table = run(["bash", str(ROOT / "examples" / "batch.sh")], cwd=tmp_path, env=environment)
        assert "mean-moco" in table
        assert "25 %" in table


def test_the_notebook_script_runs(tmp_path, cohort):
    script = [sys.executable, str(ROOT / "examples" / "notebook.py")]
    text = run([*script, str(cohort.slides), str(cohort.labels_csv), str(tmp_path / "c.zarr")], env=ENVIRONMENT)
    assert "AUC" in text
    assert "<giga store" in text


def test_the_script_for_features_runs_and_can_be_repeated(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "features_uni_v1"
    folder.mkdir()
    for i in range(12):
        with h5py.File(folder / f"slide-{i}.h5", "w") as file:
            features = file.create_dataset("features", data=rng.standard_normal((9, 16)) + i % 2)
            features.attrs["encoder"] = "uni_v1"
            coords = file.create_dataset("coords", data=512 * np.array([(x, y) for x in range(3) for y in range(3)]))
            coords.attrs.update({"patch_size": 256, "patch_size_level0": 512, "target_magnification": 20})
    (tmp_path / "labels.csv").write_text("slide_id,label\n" + "".join(f"slide-{i},{'ab'[i % 2]}\n" for i in range(12)))
    environment = {**ENVIRONMENT, "FEATURES": "features_uni_v1", "LABELS": "labels.csv", "EPOCHS": "2"}
    for _ in range(2):
        table = run(["bash", str(ROOT / "examples" / "features.sh")], cwd=tmp_path, env=environment)
        assert "mean-uni_v1" in table
    run([str(GIGA), "validate", "cohort.zarr"], cwd=tmp_path)


def command_lines():
    examples = ROOT / "examples"
    for file in (ROOT / "README.md", *sorted(examples.glob("*.sh")), *sorted(examples.rglob("*.md"))):
        text = file.read_text().replace("\\\n", " ")
        if file.suffix == ".md":
            text = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        for line in re.findall(r"^\s*(?:\$ |shards )?(giga [a-z-]+ .*)$", text, re.MULTILINE):
            yield pytest.param(line, id=line[:60])


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_flag_in_the_documentation_exists(line):
    words = shlex.split(line, comments=True)
    text = run([str(GIGA), words[1], "--help"], env={**os.environ, "COLUMNS": "200"})
    for word in words[2:]:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"{word} is no flag of giga {words[1]}"
