"""The power is cut at a random moment: no row says done whose bytes are not whole, and the same command ends the work.

Each run is logged once (``power.c``), and cut as often as asked for (``power.py``). ``-s`` shows the counts.
"""

import gc
import shutil
import sys

import pytest

from gigacli.errors import GigaError
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
    "pack": ("pack", "bank", ()),
}
"""Runs: the verb, the stage of the store it starts from, and what its command line says beside what it always says."""

LONG = ("bank, other draws", "train, other weights", "embed, other views", "pretrain-tiles")
"""Those that only the long form makes, for the time they take."""

QUICK = "import"
"""The run that the short form takes where one must do."""

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
            folder.mkdir()
            if stage is not None:
                copy_store(chain(stage), folder / "cohort.zarr")

        def command(store):
            return [*line(verb, store), *words, *more]

        return Recording(recorder, tmp_path / "recording", prepare, command), command

    return of


class Harm(Exception):
    """What a cut has done that it must not do."""


def check(left, recording, command, victims, contents):
    """Look at what a cut has left, and run the command again; then remove it.

    Raises:
        Harm: The store is not valid, or not what it would have been.
    """
    store = left / "cohort.zarr"
    if (store / "zarr.json").exists():
        try:
            problems = validate(store).problems
        except GigaError as error:
            raise Harm(error) from error
        if problems:
            raise Harm(problems)
    gc.collect()  # what has the store open is in the way of a packing
    if victims.run(command(store)) != 0:
        raise Harm(victims.said())
    found, wanted = contents(store), contents(recording.root / "cohort.zarr")
    different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if different:
        raise Harm(f"{different} are not as they would have been")
    shutil.rmtree(left)


def moments(recording, rng, n):
    """Numbers of records after which the power is cut, one of each part of the run."""
    return [int((i + rng.random()) * (len(recording.records) + 1) / n) for i in range(n)]


def cuts_per_run(faults):
    """Cuts of each run, if there are to be so many in all; in the short form one."""
    return -(-faults // len(RUNS)) or 1


@pytest.mark.parametrize("name", RUNS)
def test_power_cuts(name, recording, victims, contents, rng, faults, tmp_path):
    if not faults and name in LONG:
        pytest.skip("a run of the long form")
    recording, command = recording(name)
    cuts = cuts_per_run(faults)
    for at in moments(recording, rng, cuts):
        recording.disk(at).left(tmp_path / "cut", rng)
        check(tmp_path / "cut", recording, command, victims, contents)
    print(f"\n{name}: {cuts} power cuts, then the bytes of an undisturbed run")


@pytest.mark.parametrize("name", RUNS)
def test_a_power_cut_in_the_run_after_a_kill(name, recorder, recording, victims, contents, rng, faults, tmp_path):
    """What a killed run has not waited for, the next one relies on."""
    if not faults and name != QUICK:
        pytest.skip("the short form tries one run")
    recording, command = recording(name)
    cuts = -(-cuts_per_run(faults) // 4)
    for i, killed in enumerate(moments(recording, rng, cuts)):
        second = Recording(recorder, tmp_path / f"second-{i}", recording.disk(killed).left, command)
        disk = second.disk(moments(second, rng, 1)[0], before=recording.disk(killed))
        disk.left(tmp_path / "cut", rng)
        check(tmp_path / "cut", recording, command, victims, contents)
        shutil.rmtree(tmp_path / f"second-{i}")
    print(f"\n{name}: {cuts} kills and power cuts in the next run, then the bytes of an undisturbed run")


def test_the_log_holds_all_that_was_written(recording, tmp_path):
    """What the records make of the folder is what the run has left in it: nothing was written past them."""
    recording, _ = recording("tile, one slide more")
    recording.disk(len(recording.records)).left(tmp_path / "all")
    left = {p.relative_to(tmp_path / "all"): p.read_bytes() for p in (tmp_path / "all").rglob("*") if p.is_file()}
    assert left == {p.relative_to(recording.root): p.read_bytes() for p in recording.root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RUNS)
def test_without_waiting_for_the_disk_cuts_do_harm(name, recording, victims, contents, rng, faults, tmp_path):
    """Else the tests above would show nothing."""
    if not faults and name != QUICK:
        pytest.skip("the short form tries one run")
    recording, command = recording(name, "--no-sync")
    assert not any(what in ("sync", "settle") for what, *_ in recording.records)
    cuts = cuts_per_run(faults) if faults else SEARCHED
    harm = 0
    for at in moments(recording, rng, cuts)[:: 1 if faults else -1]:
        recording.disk(at).left(tmp_path / "cut", rng)
        try:
            check(tmp_path / "cut", recording, command, victims, contents)
        except Harm:
            harm += 1
            shutil.rmtree(tmp_path / "cut")
            if not faults:
                break
    print(f"\n{name} --no-sync: {harm} of {cuts} power cuts did harm")
    assert harm
