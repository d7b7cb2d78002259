"""The command line: flags, exit codes, messages, what goes to which stream."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from gigacli.cli.command import in_flags, run_command
from gigacli.cli.tools import TOOLS
from gigacli.cli.verbs import VERBS
from gigacli.config.base import choices_of, kinds_of
from tests.helpers import run_giga as giga
from tests.helpers import warm_server

GIGA = Path(sys.executable).with_name("giga")
COMMANDS = {command.name: command for command in (*VERBS, *TOOLS)}
HEAVY = "('torch', 'zarr', 'sklearn', 'pandas', 'numpy')"


def test_help_lists_the_verbs_in_the_order_of_the_method():
    text = giga("--help").stdout
    assert list(COMMANDS) == [
        *("tile", "pretrain-tiles", "bank", "train", "embed", "probe"),
        *("info", "validate", "pack", "merge", "subset", "export", "import", "report", "tile-map", "search", "view"),
        *("predict", "encoders", "doctor", "demo"),
    ]
    places = [text.index(f" {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_a_flag_per_option(name):
    command = COMMANDS[name]
    result = giga(name, "--help")
    text = " ".join(result.stdout.replace("│", " ").split())
    assert result.returncode == 0
    assert f"Example: giga {name}" in text
    for field in fields(command.config):
        flag = field.metadata["flag"] or "--" + field.name.replace("_", "-")
        assert f" {flag} " in text, flag
        if choices := choices_of(kinds_of(command.config)[field.name]):
            assert f"Choices: {', '.join(choices)}." in text
    for flag in ("--json", "--quiet", "--debug"):
        assert (f" {flag} " in text) is (flag != "--json" or command.json)
    assert ("--no-slide-aug" in text) is (name == "train")
    assert "`" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_calls_is_there(name):
    for home in filter(None, (COMMANDS[name].home, COMMANDS[name].show)):
        module, _, function = home.partition(":")
        assert callable(getattr(import_module(module), function))


def test_importing_and_helping_load_nothing_heavy():
    code = f"import sys, gigacli, gigacli.cli.verbs; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["tra"], ["train"]),
        (["bank", "cohort.zarr", "--precision", "b"], ["bf16"]),
        (["probe", "--method", ""], ["linear", "coxnet", "abmil", "mlp", "knn", "simpleshot", "retrieval"]),
    ],
)
def test_a_shell_completes_commands_and_choices_at_once(typed, expected):
    words = {"COMP_WORDS": " ".join(["giga", *typed]), "COMP_CWORD": str(len(typed)), "_GIGA_COMPLETE": "complete_bash"}
    code = (
        "import atexit, sys; from gigacli.__main__ import main; "
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)); "
        "sys.argv = ['giga']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **words}
    )
    assert (result.stdout.split(), result.stderr.strip()) == (expected, "[]")


def test_completion_is_installed_by_the_program(tmp_path):
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    script = giga("--show-completion", "bash", env=environment)
    assert (script.returncode, "_GIGA_COMPLETE=complete_bash" in script.stdout) == (0, True)
    assert giga("--install-completion", "bash", env=environment).returncode == 0
    assert "giga" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`batch_size` is 1", "--batch-size is 1"),
        ("`preset`, or `redo=True`", "--recipe, or --redo"),
        ("leave out `whiten`, or set `whiten=False`", "leave out --whiten, or set --no-whiten"),
        ("another `name`, for example `name='b'`", "another --name, for example --name b"),
        ("the folder `store`", "the folder STORE"),
        ("run `giga embed`; column 'name'; `tile_px`", "run `giga embed`; column 'name'; `tile_px`"),
    ],
)
def test_parameters_are_said_as_flags(text, expected):
    assert in_flags(text, COMMANDS["train"].flags) == expected


def test_flags_that_are_not_called_like_their_parameter():
    assert COMMANDS["probe"].flags["c"] == "-C"
    assert COMMANDS["tile-map"].flags["positive"] == "--class"
    assert COMMANDS["export"].flags["to"] == "--to"
    assert COMMANDS["import"].flags["files"] == "FILES"


def test_version():
    from gigacli.version import __version__

    shown = subprocess.run([GIGA, "--version"], capture_output=True, text=True, check=True)  # the console script itself
    assert shown.stdout.strip() == __version__


def test_json_is_one_object_on_standard_output(store_at):
    path = store_at("tile")
    result = giga("tile", path, "--json")
    summary = json.loads(result.stdout)
    assert {"slides", "done", "skipped", "failed", "seconds"} <= summary.keys()
    assert (summary["slides"], summary["skipped"]) == (8, 8)
    assert result.returncode == 0


def test_what_was_left_out_follows_the_store_and_what_was_written_does_not(store_at):
    path = store_at("tile")  # tiles of 64 px, where 256 is the default
    assert giga("tile", path).returncode == 0
    refused = giga("tile", path, "--tile-px", "256")
    assert refused.returncode == 2
    assert "tile_px: 64 here, 256 asked for" in refused.stderr


@pytest.mark.slow
def test_the_two_lines_of_the_readme(store_at, cohort):
    path = store_at("train")
    (path.parent / "labels.csv").write_bytes(cohort.labels_csv.read_bytes())
    embedded = giga("embed", "cohort.zarr", "--views", "50", cwd=path.parent)
    assert embedded.returncode == 0, embedded.stderr
    probed = giga("probe", "--labels", "labels.csv", "--fraction", "0.25", cwd=path.parent)
    assert probed.returncode == 0, probed.stderr
    for text in ("giga", "mean-random-resnet18", "AUC", "25 %"):
        assert text in probed.stdout
    found = json.loads(giga("probe", "--labels", "labels.csv", "--fraction", "0.25", "--json", cwd=path.parent).stdout)
    assert {"scores", "joins", "warnings"} <= found.keys()
    wanted = {"embedding", "target", "method", "budget", "n_train", "n_test", "splits", "auc_mean", "auc_std"}
    assert all(wanted | {"auc_low", "auc_high"} <= row.keys() for row in found["scores"])


def test_export_says_what_it_wrote(chain, tmp_path):
    result = giga("export", chain("embed"), "embeddings/giga", "--to", "out/v.csv", "--json", cwd=tmp_path)
    summary = json.loads(result.stdout)
    assert (result.returncode, summary["to"], summary["slides"]) == (0, "out/v.csv", 8)
    assert (tmp_path / "out" / "v.csv").stat().st_size == summary["bytes"]
    again = giga("export", chain("embed"), "embeddings/giga", "--to", "out/v.csv", cwd=tmp_path)
    assert (again.returncode, "--redo" in again.stderr) == (2, True)


def test_vectors_go_down_a_pipe(chain, tmp_path):
    line = ("export", chain("embed"), "embeddings/giga", "--to")
    piped = giga(*line, "-", "--json", cwd=tmp_path)
    assert giga(*line, "v.csv", cwd=tmp_path).returncode == piped.returncode == 0
    assert piped.stdout == (tmp_path / "v.csv").read_text()
    summary = json.loads(piped.stderr)
    assert (summary["to"], summary["bytes"]) == ("-", len(piped.stdout))
    for words, says in (
        (("features", "--to", "-"), "found features/random-resnet18"),
        ((*line[2:], "-", "--format", "parquet"), "found embeddings/giga as parquet"),
        (("models", "--to", "-"), "found models/giga"),
    ):
        refused = giga("export", chain("embed"), *words, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "only vectors of slides, as CSV, can be written to a stream" in refused.stderr
        assert says in refused.stderr


def test_a_pipe_whose_reader_goes_away_is_no_failure(chain, tmp_path):
    line = [str(GIGA), "export", str(chain("embed")), "embeddings/giga", "--to", "-"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    process.stdout.close()
    assert "roken" not in process.stderr.read()
    assert process.wait(timeout=100) == 0
    process.stderr.close()


def test_failed_slides_end_with_exit_code_1(tmp_path, cohort):
    (tmp_path / "broken.tif").write_bytes(b"not a slide")
    good = sorted(cohort.slides.glob("*.tif"))[0]
    result = giga("tile", tmp_path / "a.zarr", good, tmp_path / "broken.tif", "--tile-px", "64")
    assert result.returncode == 1
    assert "broken" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no-such-verb",), "no-such-verb"),
        (("bank", "none.zarr"), "no store at none.zarr"),
        (("tile", "a.zarr", "nowhere"), "nowhere"),
        (("tile", "a.zarr", ".", "--overlap", "256"), "--overlap is 256"),
        (("tile", "a.zarr", ".", "--mpp", "x"), "mpp"),
        (("tile", "a.zarr", "--shard", "0/3"), "0/3"),
        (("train", "none.zarr", "--device", "cuda:99"), "cuda:99"),
        (("probe", "a.zarr", "--labels", "gone.csv"), "gone.csv"),
        (("probe", "--labels", "gone.csv"), "no store was named and there is none in this folder"),
        (("search", "a.zarr"), "SLIDE is missing"),
        (("import", "a.zarr"), "FILES is missing"),
        (("probe",), "labels"),
        (("info", "none.zarr"), "none.zarr"),
        (("validate", "none.zarr"), "none.zarr"),
        (("export", "none.zarr", "tiles", "--to", "x"), "none.zarr"),
        (("export", "none.zarr", "tiles"), "--to"),
        (("import", "a.zarr", "nowhere"), "nowhere does not exist"),
        (("import", "a.zarr", "."), "no feature file"),
        (("import", "a.zarr", ".", "--mpp", "0"), "--mpp is 0"),
        (("probe", "a.zarr", "--labels", "x", "-C", "much"), "-C is 'much'"),
        (("bank", "a.zarr", "--dask", "x", "--shard", "1/2"), "leave out --shard"),
        (("bank", "a.zarr", "--seed", "-1"), "--seed is -1; it must lie between 0 and 4294967295"),
        (("train", "a.zarr", "--seed", "9" * 40), "it must lie between 0 and 4294967295"),
        (("demo", "a", "--seed", "-1"), "--seed is -1"),
        (("tile", "a.zarr", ".", "--workers", "100000"), "--workers is 100000; it must lie between 1 and 1024"),
        (("train", "a.zarr", "--temperature", "1e-30"), "--temperature is 1e-30; it must lie between 0.001 and 100"),
        (("tile", "a.zarr", ".", "--slide-mpp", "28.97"), "--slide-mpp is 28.97; it must lie between 0.08 and 5"),
        (("validate", "a.zarr", "--level", "all"), "--level is 'all'; it must be one of attributes, hierarchy"),
    ],
)
def test_bad_input_is_exit_code_2_without_traceback(tmp_path, arguments, says):
    result = giga(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code"), [(("info", "--slides"), 0), (("info", "--json"), 0), (("validate",), 1), (("tile",), 0)]
)
def test_a_reader_that_goes_away_changes_no_exit_code(store_at, arguments, code):
    """As ``giga info | head -1``."""
    path = store_at("tile")
    if code:
        (path / "stray").symlink_to(path)
    process = subprocess.Popen(
        [str(GIGA), arguments[0], str(path), *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Broken" not in process.stderr.read()
    assert process.wait(timeout=100) == code
    process.stderr.close()


HOSTILE = [
    ("slides/zarr.json", ("attributes", "giga", "registered"), "eight"),
    ("slides/id/zarr.json", ("shape",), "eight"),
    ("tiles/zarr.json", ("attributes", "giga", "recipe"), {"stage": 1}),
    ("tiles/zarr.json", ("attributes", "giga", "recipe", "config"), []),
    ("tiles/count/zarr.json", ("data_type",), "int128"),
    ("tiles/coords/zarr.json", ("chunk_key_encoding", "name"), [1]),
    ("embeddings/giga/zarr.json", ("attributes", "giga", "recipe", "inputs"), "none"),
    ("features/random-resnet18/vectors/zarr.json", ("codecs",), [{"name": "\x9b31m"}]),
]
"""A document, where in it, and what it says there."""


@pytest.mark.parametrize(
    ("document", "at", "value"), HOSTILE, ids=lambda v: "/".join(v) if isinstance(v, tuple) else ""
)
@pytest.mark.parametrize("command", ["tile", "embed", "info"])
def test_a_hostile_document_is_exit_code_2_with_a_sentence(store_at, document, at, value, command, capsys):
    path = store_at("embed")
    content = json.loads((path / document).read_text())
    part = content
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    (path / document).write_text(json.dumps(content))
    code = run_command([command, str(path)])
    said = capsys.readouterr().err
    assert code in ((0, 2) if command == "info" or "error" not in said else (2,)), said
    assert not re.search(r"error: \w*(Error|Exception)\b", said)
    assert "\x9b" not in said


def test_debug_shows_the_traceback(tmp_path):
    result = giga("bank", "none.zarr", "--debug", cwd=tmp_path)
    assert "Traceback" in result.stderr
    assert result.returncode != 0


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_interrupted_keeps_what_is_finished_and_says_130(store_at, chunks, chain):
    path = store_at("tile")
    line = ["bank", path, "--encoder", "random-resnet18", "--augmentations", "3", "--draws", "8", "--precision", "fp32"]
    process = subprocess.Popen([warm_server() / "giga", *line], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    done = path / "banks" / "random-resnet18" / "done" / "c"
    deadline = time.monotonic() + 200
    while not done.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=200)[1].decode()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert 1 <= len(list(done.iterdir())) < 8
    assert giga(*line).returncode == 0
    assert chunks(path, "banks") == chunks(chain("bank"), "banks")


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_when_all_is_done_is_no_crash():
    code = (
        "import atexit, os, signal, sys; from gigacli.__main__ import main; "
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); sys.argv = ['giga', '--version']; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
