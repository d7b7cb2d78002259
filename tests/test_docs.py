"""Every command line of the documentation runs, and its references are what the program says of itself.

The commands of a page are run in their order in one folder, on a few small slides: options that decide how long a
command takes are set to the least. Examples that are scripts run as they are, small by their variables.
"""

import ast
import functools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from typer.main import get_command

import gigacli
import gigacli.cli.verbs
from docs import generate
from gigacli.cli.command import run_command
from gigacli.cli.verbs import app
from tests.helpers import run_giga, warm_server

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CONCEPTS = ROOT / "docs" / "concepts"
PAGES = ("README.md", "docs/commands")
SMALL = {"MPP": "2.0", "TILE_PX": "32", "TILE_EPOCHS": "1", "AUGMENTATIONS": "2", "DRAWS": "4", "EPOCHS": "2"}

LEAST = {
    "tile": {"--tile-px": "64"},
    "pretrain-tiles": {"--epochs": "1", "--max-tiles": "64", "--batch-size": "16", "--queue": "64"},
    "bank": {"--augmentations": "2", "--draws": "4"},
    "train": {"--epochs": "2"},
    "tile-map": {"--views": "10"},
}
HERE = {"SLIDE": "lab1_patient01_a", "tumour": "solid"}
"""What stands for something of the reader's, and what it is here."""
ELSEWHERE = {
    "demo": "tests/test_wheel.py",
    "doctor": "tests/doctor/test_checks.py",
    "view": "tests/viewing/test_view.py",
}
"""Commands that are run, whole, by another test."""
ELSEWHERE_RUN = ("docs/tcga.md", "docs/machines.md")
"""Pages whose commands are those of a script that is run, or whose flags are looked at."""


def run(command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_method_page_points_at_code_that_is_there():
    """Every ``file:function`` of docs/method.md, methods as ``Class.method``."""
    named = re.findall(r"`(gigacli/[\w/]+\.py):([\w.]+)`", (ROOT / "docs" / "method.md").read_text())
    assert len(named) > 40
    for file, name in named:
        body = ast.parse((ROOT / file).read_text()).body
        for part in name.split("."):
            found = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
            assert found, f"{file} has no {name}"
            body = found[0].body


def test_the_contributing_page_names_every_room():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for room in (p.name for p in (ROOT / "gigacli").iterdir() if (p / "__init__.py").exists()):
        assert f"{room}/`" in page, room


def environment(**variables):
    """That of a script: ``giga`` on its path starts at once, other commands are those beside this Python."""
    path = (str(warm_server()), str(Path(sys.executable).parent), os.environ["PATH"])
    return {**os.environ, "PATH": os.pathsep.join(path), **variables}


def text_of(page):
    """A page; of a folder its pages, in the order of the verbs and then the tools."""
    if (ROOT / page).is_dir():
        return "\n".join((ROOT / page / f"{name}.md").read_text() for name in get_command(app).commands)
    return (ROOT / page).read_text()


def command_lines(page, *, inline=True):
    """``giga ...`` with arguments, in blocks and in the text, in their order."""
    lines = []
    for i, part in enumerate(text_of(page).split("```")):
        if not i % 2 and not inline:
            continue
        pattern = r"^(?:\$ )?(giga [a-z-]+ .*)$" if i % 2 else r"`(giga [a-z-]+ [^`\n]+)`"
        lines += [shlex.split(line, comments=True)[1:] for line in re.findall(pattern, part, re.MULTILINE)]
    return [line for line in lines if line[0] not in ELSEWHERE]


def shortened(line):
    verb, *rest = (HERE.get(word, word) for word in line)
    for flag, value in LEAST.get(verb, {}).items():
        if flag in rest:
            rest[rest.index(flag) + 1] = value
        else:
            rest += [flag, *([value] if value is not None else [])]
    return [verb, *rest]


@pytest.fixture
def desk(tmp_path, cohort, chain, monkeypatch):
    """A folder with slides, labels and a demo, as the pages take for granted."""
    shutil.copytree(cohort.slides, tmp_path / "slides")
    shutil.copytree(cohort.slides, tmp_path / "archive")
    shutil.copy(cohort.labels_csv, tmp_path / "labels.csv")
    gigacli.export(chain("embed"), "features", to=tmp_path / "features_uni_v1")
    for name, slides in (("a", "lab1*"), ("b", "lab2*")):
        gigacli.subset(chain("tile"), slides, to=tmp_path / f"{name}.zarr")
    (tmp_path / "list.txt").write_text("lab1_patient01_a\nlab2_patient03_b\n")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "cohort.zarr").symlink_to(chain("embed"))
    (tmp_path / "demo" / "labels.csv").symlink_to(cohort.labels_csv)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.scripts
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page, desk, capsys):
    lines = command_lines(page)
    assert {line[0] for line in lines} >= {"tile", "pretrain-tiles", "bank", "train", "embed", "probe", "info"}
    for line in lines:
        code = run_command(shortened(line))
        assert code == 0, f"giga {shlex.join(line)}\n{capsys.readouterr()}"


def test_every_page_is_run():
    """Those of docs/howto are in test_howto.py; blocks of docs/api are Python."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *CONCEPTS.glob("*.md")]
    assert {str(page.relative_to(ROOT)) for page in pages if command_lines(page, inline=page.parent == ROOT)} == {
        "README.md",
        *ELSEWHERE_RUN,
    }


@pytest.mark.scripts
def test_the_python_of_the_readme_runs(desk, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    options = {
        v: {k[2:].replace("-", "_"): int(n) for k, n in LEAST.get(v, {}).items()} for v in ("tile", "bank", "train")
    }

    def small(verb):
        return lambda *arguments, **given: getattr(gigacli, verb)(*arguments, **{**given, **options[verb]})

    others = {name: getattr(gigacli, name) for name in ("embed", "probe", "open")}
    monkeypatch.setitem(sys.modules, "gigacli", SimpleNamespace(**{v: small(v) for v in options}, **others))
    found = {}
    exec(code, found)
    assert found["vectors"].shape == (8, 768)
    assert {score.embedding for score in found["result"].scores} == {
        "giga",
        "mean-random-resnet18",
        "whitened-mean-random-resnet18",
    }


def test_references_are_what_the_program_says():
    pages = generate.pages()
    assert {page: (ROOT / "docs" / page).read_text() for page in pages} == pages, "run: make docs"
    there = {f"{folder}/{page.name}" for folder in generate.FOLDERS for page in (ROOT / "docs" / folder).iterdir()}
    assert there == {page for page in pages if "/" in page}, "run: make docs"


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


# ---------------------------------------------------------------------- scripts


@pytest.mark.scripts
def test_the_batch_script_runs(tmp_path, cohort):
    variables = environment(**SMALL, SLIDES=str(cohort.slides), LABELS=str(cohort.labels_csv))
    table = run(["bash", str(EXAMPLES / "batch.sh")], cwd=tmp_path, env=variables)
    assert "mean-moco" in table
    assert "25 %" in table


SBATCH = """#!/usr/bin/env bash
# Runs a job at once, task by task, where SLURM would queue it.
set -euo pipefail
for word in "$@"; do case $word in --array=1-*) tasks=${word#--array=1-} ;; esac; done
for i in $(seq "${tasks:-1}"); do SLURM_ARRAY_TASK_ID=$i bash -c "${@: -1}" >>out.log; done
echo "$*" >>jobs.log
wc -l <jobs.log
"""


@pytest.mark.scripts
def test_the_slurm_script_submits_a_chain_of_jobs(tmp_path, cohort):
    stub = tmp_path / "bin" / "sbatch"
    stub.parent.mkdir()
    stub.write_text(SBATCH)
    stub.chmod(0o755)
    variables = environment(**SMALL, SLIDES=str(cohort.slides), LABELS=str(cohort.labels_csv), SHARDS="2")
    variables["PATH"] = f"{stub.parent}{os.pathsep}{variables['PATH']}"
    said = run(["bash", str(EXAMPLES / "slurm.sh")], cwd=tmp_path, env=variables)
    assert "probe: job 6" in said
    assert "mean-moco" in (tmp_path / "out.log").read_text()
    jobs = (tmp_path / "jobs.log").read_text().splitlines()
    assert [f"afterany:{i}" in job for i, job in enumerate(jobs)] == [False, True, True, True, True, True]
    assert ["--array=1-2" in job for job in jobs] == [True, False, True, False, False, False]


@pytest.mark.scripts
@pytest.mark.dask
def test_the_dask_script_makes_a_bank(tmp_path, cohort):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = environment(**SMALL, SLIDES=str(cohort.slides), PORT=port)
    said = run(["bash", str(EXAMPLES / "dask.sh")], cwd=tmp_path, env=variables)
    assert "next: giga train cohort.zarr" in said


@pytest.mark.scripts
def test_the_torchrun_script_trains_in_two_processes(store_at):
    folder = store_at("bank").parent
    said = run(["bash", str(EXAMPLES / "torchrun.sh")], cwd=folder, env=environment(**SMALL))
    assert "mean-random-resnet18" in said


@pytest.mark.scripts
def test_the_script_for_features_runs(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "features_uni_v1"
    folder.mkdir()
    for i in range(12):
        with h5py.File(folder / f"slide-{i}.h5", "w") as file:
            features = file.create_dataset("features", data=rng.standard_normal((9, 16)) + i % 2)
            features.attrs["encoder"] = "uni_v1"
            coords = file.create_dataset("coords", data=512 * np.array([(x, y) for x in range(3) for y in range(3)]))
            coords.attrs.update({"patch_size": 256, "patch_size_level0": 512, "target_magnification": 20})
    (tmp_path / "labels.csv").write_text("slide_id,label\n" + "".join(f"slide-{i},{'ab'[i % 2]}\n" for i in range(12)))
    variables = environment(FEATURES="features_uni_v1", LABELS="labels.csv", EPOCHS="2")
    table = run(["bash", str(EXAMPLES / "features.sh")], cwd=tmp_path, env=variables)
    assert "mean-uni_v1" in table
    assert run_giga("validate", "cohort.zarr", cwd=tmp_path).returncode == 0


HF = """#!/usr/bin/env bash
# Stands for `hf download`: what matches comes from the folder beside it, with the notes that the real one leaves.
set -euo pipefail
echo "$*" >>hf.log
mkdir -p "$8/.cache/huggingface/download"
touch "$8/.cache/huggingface/download/note.h5.metadata"
cd "$(dirname "$0")/../hub" && cp --parents $6 "$OLDPWD/$8"
"""


@pytest.mark.scripts
def test_the_tcga_script_runs(tmp_path):
    rng, hub = np.random.default_rng(0), tmp_path / "hub" / "TCGA"
    for i in range(16):
        project = hub / ("TCGA-LUAD", "TCGA-LUSC")[i % 2]
        project.mkdir(parents=True, exist_ok=True)
        with h5py.File(project / f"TCGA-05-{4000 + i // 2 * 2 + i % 2}-01Z-00-DX1.8923A151-{i:04}.h5", "w") as file:
            features = file.create_dataset("features", data=rng.standard_normal((9, 16), np.float32) + 2 * (i % 2))
            features.attrs["encoder"] = "uni_v2"
            coords = file.create_dataset("coords", data=512 * np.array([(x, y) for x in range(3) for y in range(3)]))
            coords.attrs.update({"patch_size": 256, "patch_size_level0": 512, "target_magnification": 20})
    stub = tmp_path / "bin" / "hf"
    stub.parent.mkdir()
    stub.write_text(HF)
    stub.chmod(0o755)
    variables = environment(EPOCHS="2")
    variables["PATH"] = f"{stub.parent}{os.pathsep}{variables['PATH']}"
    table = run(["bash", str(EXAMPLES / "tcga.sh")], cwd=tmp_path, env=variables)
    assert "16 slides (TCGA-LUAD 8 of 8 patients, TCGA-LUSC 8 of 8 patients)" in table
    assert "whitened-mean-uni_v2" in table


def test_the_commands_of_the_tcga_page_are_those_of_its_script():
    script = (EXAMPLES / "tcga.sh").read_text()
    for name, value in re.findall(r"(\w+)=\$\{\w+:-(\S+?)[} ]", script):
        script = re.sub(rf'"\${name}"', value, script)
    script = script.replace("$project", "TCGA-LUAD").replace(' ${EPOCHS:+--epochs "$EPOCHS"}', "")
    page = (ROOT / "docs" / "tcga.md").read_text().split("```")[1].strip().splitlines()
    assert [line for line in page if line not in map(str.strip, script.splitlines())] == []
    assert len(page) == 4


@pytest.mark.scripts
@pytest.mark.skipif(not shutil.which("snakemake"), reason="no snakemake on the path (pip install snakemake)")
def test_the_snakemake_workflow_runs(tmp_path, cohort):
    small = {"mpp": "2.0", "tile_px": "32", "tile_epochs": "1"}
    small |= {"bank": "--augmentations 2 --draws 4", "train": "--epochs 2"}
    settings = [f"{k}={v}" for k, v in {**small, "slides": cohort.slides, "labels": cohort.labels_csv}.items()]
    command = ["snakemake", "-s", str(EXAMPLES / "Snakefile"), "--cores", "2", "--config", *settings]
    run(command, cwd=tmp_path, env=environment(HOME=str(tmp_path)))
    assert "mean-moco" in (tmp_path / "probe.txt").read_text()
    again = subprocess.run(
        [*command, "-n"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_dockerfile_names_what_is_there():
    """Extras, files and the target of make; no image is built here."""
    text = (ROOT / "Dockerfile").read_text()
    assert 'CMD ["make", "test"]' in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(named.split(",")) <= set(extras)
    assert set(re.findall(r"\.venv/\.installed\S*", text)) <= set(re.findall(r"\S+", make_targets()))
    for page in (ROOT / "docs" / "machines.md").read_text(), text:
        for target, build in re.findall(r"--target (\w+)|--build-arg (\w+)=", page):
            assert re.search(rf"AS {target}$" if target else rf"^ARG {build}=", text, re.MULTILINE)


def make_targets():
    return (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv").replace(":", " ")


def example_lines():
    of_workflows = (EXAMPLES / "Snakefile", EXAMPLES / "giga.nf")
    for file in (
        *sorted(EXAMPLES.glob("*.sh")),
        *of_workflows,
        *sorted(EXAMPLES.rglob("*.md")),
        ROOT / "docs" / "machines.md",
        *sorted((ROOT / "docs" / "howto").glob("*.md")),
    ):
        text = file.read_text().replace("\\\n", " ")
        if file.suffix == ".md":
            text = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        for line in re.findall(r"^\s*(?:\$ |shards )?(giga [a-z-]+ .*?)(?: \|\| .*)?$", text, re.MULTILINE):
            yield pytest.param(line, id=line[:60])


@functools.cache
def help_of(command):
    return run_giga(command, "--help", check=True).stdout


@pytest.mark.parametrize("line", list(example_lines()))
def test_every_flag_in_the_examples_exists(line):
    words = shlex.split(line, comments=True)
    text = help_of(words[1])
    for word in words[2:]:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"{word} is no flag of giga {words[1]}"
