"""Tables, stores and weights made to do harm: nothing is run, and nothing is written outside of what was named.

A path in a table is only ever read, so it may lead anywhere a path on the command line may (spec/decisions); what comes
from a table never decides where something is written.
"""

import os
import pickle
import shlex

import numpy as np
import pytest

import gigacli as giga
import gigacli.cli.verbs
from gigacli.cli.command import run_command
from gigacli.store.info import info
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


@pytest.fixture
def world(tmp_path, cohort):
    """A folder for the command, a slide and a secret beside it; what lies around it must stay as it is."""
    (tmp_path / "work").mkdir()
    slide = sorted(cohort.slides.glob("*.tif"))[0]
    (tmp_path / "slide.tif").write_bytes(slide.read_bytes())
    (tmp_path / "secret.txt").write_text("TOP SECRET\n" * 100)
    os.mkfifo(tmp_path / "pipe.svs")
    return tmp_path


def around(world):
    return {p: p.stat().st_mtime_ns for p in world.rglob("*") if "work" not in p.relative_to(world).parts}


def test_paths_of_a_table_that_leave_its_folder_are_read_and_nothing_else(world, capsys):
    before = around(world)
    table = world / "work" / "slides.csv"
    table.write_text(
        "path,slide_id\n../slide.tif,good\n../secret.txt,secret\n/dev/zero,zero\n/proc/self/mem,memory\n"
        "../pipe.svs,pipe\n"
    )
    store = world / "work" / "c.zarr"
    code = run_command(["tile", str(store), "--csv", str(table), "--tile-px", "64", "--json"])
    said = capsys.readouterr()
    assert code == 1
    assert "SECRET" not in said.out + said.err
    assert giga.open(store).root["tiles/count"][0] > 0
    assert {f.slide for f in info(store, slides=True).failures} == {"secret", "zero", "memory", "pipe"}
    assert giga.validate(store).problems == []
    assert around(world) == before


IDS = (
    "../../escaped",
    "/escaped",
    "..",
    "a/../../b",
    "-rf",
    "[bold red]x[/]",
    "\x1b[2J\x1b]0;owned\x07",
    "<script>x</script>",
)


@pytest.mark.parametrize("name", IDS)
def test_a_slide_id_decides_no_path_and_commands_no_terminal(name, world, capsys):
    before = around(world)
    (world / "work" / "slides.csv").write_text(f"path,slide_id\n../slide.tif,{name}\n../secret.txt,{name}2\n")
    store = world / "work" / "c.zarr"
    options = ("--csv", str(world / "work" / "slides.csv"), "--tile-px", "64", "--qc", str(world / "work" / "qc"))
    assert run_command(["tile", str(store), *options]) == 1
    assert run_command(["info", str(store), "--slides"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert around(world) == before
    assert len(list((world / "work" / "qc").iterdir())) == 2  # the picture, and the contact sheet
    assert giga.open(store).slides.ids[0] == name


def test_weights_that_are_a_pickle_are_not_run(world, store_at, capsys):
    bombs = [world / "a", world / "b"]
    (world / "weights.pth").write_bytes(pickle.dumps({"conv1.weight": Bomb(bombs[0])}))
    store = store_at("train", "trained.zarr")
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    for line in (
        ("bank", str(store), "--encoder", str(world / "weights.pth")),
        ("pretrain-tiles", str(store), "--init", str(world / "weights.pth"), "--max-tiles", "64", "--batch-size", "16"),
    ):
        assert run_command(list(line)) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
    opened = Store.open(store, write=True)
    for name in ("weights", "checkpoint"):
        opened.write_bytes(f"models/giga/{name}", pickle.dumps(Bomb(bombs[1])))
    opened.root["models/giga/done"][...] = -1
    assert run_command(["train", str(store)]) in (1, 2)
    opened.root["models/giga/done"][...] = 1
    assert run_command(["embed", str(store)]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not any(bomb.exists() for bomb in bombs)


def test_a_store_does_not_put_commands_into_the_next_command(tmp_path):
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(SlideTable((SlideRow(id="a", path="/a"),)))
    store.tiles.begin(Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {}), 1, redo=False)
    store.tiles.write(0, np.zeros((1, 2), dtype=np.int32), None)
    evil = "moco; touch owned"
    store.bank("b").begin(Recipe("bank", {"encoder": evil, "augmentations": 1, "draws": 1}, {}), 1, redo=False)
    words = shlex.split(info(store).next)
    assert words == ["giga", "bank", store.url, "--encoder", evil, "--name", "b"]
