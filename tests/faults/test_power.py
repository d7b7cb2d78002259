"""The power is cut at a random moment: no row says done whose bytes are not whole, and the same command ends the work.

Each run is logged once (``power.c``), and cut as often as asked for (``power.py``). ``-s`` shows the counts.
"""

import shutil
import sys

import pytest

from gigacli.store.validate import validate
from tests.conftest import copy_store
from tests.faults.power import Recorder, Recording

pytestmark = [
    pytest.mark.timeout(3600),  # the long form takes what it takes
    pytest.mark.skipif(sys.platform != "linux", reason="writes are logged as Linux makes them"),
]

RUNS = {
    "tile": ("tile", None, ()),
    "import": ("import", None, ()),
    "pretrain-tiles": ("pretrain-tiles", "tile", ()),
    "bank": ("bank", "tile", ()),
    "train": ("train", "bank", ()),
    "embed": ("embed", "train", ()),
    "tile, other tiles": ("tile", "tile", ("--redo", "--tile-px", "96")),
    "tile, one slide more": ("tile", "embed", ("MORE",)),
    "bank, other draws": ("bank", "bank", ("--redo", "--seed", "1")),
    "bank, more draws": ("bank", "bank", ("--draws", "12")),
    "train, other weights": ("train", "train", ("--redo", "--seed", "1")),
    "embed, other views": ("embed", "embed", ("--redo", "--views", "7")),
}
"""Runs: the verb, the stage of the store it starts from, and what its command line says beside what it always says."""

SHORT = 1
SEARCHED = 40
"""Cuts of a run that does not wait for the disk, of which one at least must do harm."""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory):
    return Recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def recording(recorder, cohort, chain, line, tmp_path):
    """``recording("bank")``: a run that was logged, its command line, and the bytes it leaves."""

    def of(name, *more):
        verb, stage, words = RUNS[name]
        extra = tmp_path / "more"
        if words == ("MORE",):
            extra.mkdir()
            shutil.copy(min(cohort.slides.glob("*.tif")), extra / "one_more.tif")
            words = (extra,)

        def prepare(folder):
            if stage is not None:
                copy_store(chain(stage), folder / "cohort.zarr")

        def command(store):
            return [*line(verb, store), *words, *more]

        return Recording(recorder, tmp_path / "recording", prepare, command), command

    return of


class Harm(Exception):
    """What a cut has done that it must not do."""


def check_cut(recording, command, victims, contents, to, rng):
    """Cut the power once, look at what is left, and run the command again.

    Raises:
        Harm: The store is not valid, or not what it would have been.
    """
    at = recording.cut(to, rng)
    store, when = to / "cohort.zarr", f"after {at} of {len(recording.records)} records"
    if (store / "zarr.json").exists():
        problems = validate(store).problems
        if problems:
            raise Harm(f"{when}: {problems}")
    if victims.run(command(store)) != 0:
        raise Harm(f"{when}: {victims.said()}")
    found, wanted = contents(store), contents(recording.root / "cohort.zarr")
    different = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
    if different:
        raise Harm(f"{when}: {sorted(different)} are not as they would have been")
    shutil.rmtree(to)


@pytest.mark.parametrize("name", RUNS)
def test_power_cuts(name, recording, victims, contents, rng, faults, tmp_path):
    recording, command = recording(name)
    cuts = -(-faults // len(RUNS)) or SHORT
    for i in range(cuts):
        check_cut(recording, command, victims, contents, tmp_path / f"cut-{i}", rng)
    print(f"\n{name}: {cuts} power cuts, then the bytes of an undisturbed run")


def test_the_log_holds_all_that_was_written(recording, rng, tmp_path):
    """What the records make of the folder is what the run has left in it: nothing was written past them."""
    recording, _ = recording("bank, more draws")
    disk = recording.disk(len(recording.records))
    settle_all(disk.top)
    disk.cut(tmp_path / "all", rng)
    left = {p.relative_to(tmp_path / "all"): p.read_bytes() for p in (tmp_path / "all").rglob("*") if p.is_file()}
    assert left == {p.relative_to(recording.root): p.read_bytes() for p in recording.root.rglob("*") if p.is_file()}


def settle_all(node):
    if hasattr(node, "names"):
        node.settle()
        for child in node.names.values():
            settle_all(child)
    else:
        node.safe = node.size


@pytest.mark.parametrize("name", RUNS)
def test_without_waiting_for_the_disk_cuts_do_harm(name, recording, victims, contents, rng, faults, tmp_path):
    """Else the tests above would show nothing."""
    if not faults and name != "bank":
        pytest.skip("the short form looks for harm in one run")
    recording, command = recording(name, "--no-sync")
    assert not any(what in ("sync", "settle") for what, *_ in recording.records)
    cuts, harm = -(-faults // len(RUNS)) or SEARCHED, 0
    for i in range(cuts):
        try:
            check_cut(recording, command, victims, contents, tmp_path / f"cut-{i}", rng)
        except Harm:
            harm += 1
            if not faults:
                break
    print(f"\n{name} --no-sync: {harm} of {cuts} power cuts did harm")
    assert harm
