"""The stages as commands that can be killed, interrupted or starved, and the stores they leave when nobody does."""

import math
import os
import random
import shutil
import time
from pathlib import Path

import pytest

import gigacli
from tests import warm
from tests.helpers import warm_server

FAULTS = int(os.environ.get("GIGA_FAULTS", "0"))
"""Faults of every kind in all; 0 for the short form. ``GIGA_FAULTS=100 pytest -n 0 tests/faults`` is the long one."""

BEFORE = {
    "tile": None,
    "import": None,
    "pretrain-tiles": "tile",
    "bank": "tile",
    "train": "bank",
    "embed": "train",
    "probe": "embed",
}
"""What is disturbed, and the stage of the store that it starts from."""

UNFINISHED = (".partial", ".png")
"""Files that a kill may leave beside those that count; and pictures."""

TIMED = ("history/per_second", "history/waiting", "/checkpoint")
"""What depends on the clock: speeds, and whether there was time for a checkpoint."""


def share(short):
    """How often to try something per verb: `short` times, or its share of ``GIGA_FAULTS``."""
    return -(-FAULTS // len(BEFORE)) if FAULTS else short


class Victims:
    """Children that run giga, with what they say in one file."""

    def __init__(self, log):
        self.log = log
        self.server = str(warm_server() / "socket")
        self.running = {}

    def start(self, arguments, **limits):
        """Start a command; its process id."""
        # as often as their share of the time allows, so that short trainings have something to go on from
        settings = {"gigacli.nn.loop:CHECKPOINT_SECONDS": 0}
        with self.log.open("a") as log, Path(os.devnull).open() as nothing:
            pid, connection = warm.start(
                self.server,
                ["giga", *map(str, arguments)],
                fds=(nothing.fileno(), log.fileno(), log.fileno()),
                **limits,
                settings=settings,
            )
        self.running[pid] = connection
        return pid

    def wait(self, pid, seconds=280.0):
        """Its exit code, or minus the signal that killed it; None if it still runs after that time."""
        ended = self.outcome(pid, seconds)
        return ended and ended[0]

    def outcome(self, pid, seconds):
        """Its exit code, and the most bytes it took beyond those it began with; None if it still runs."""
        ended = warm.outcome(self.running[pid], seconds)
        if ended is not None:
            del self.running[pid]
        return ended

    def run(self, arguments, **limits):
        """Run a command to its end; its exit code."""
        return self.wait(self.start(arguments, **limits))

    def strike(self, arguments, after_s, signal_):
        """Start a command and send it a signal some time later, unless it has ended by then; how it ended."""
        pid = self.start(arguments)
        code = self.wait(pid, after_s)
        if code is None:
            os.kill(pid, signal_)
            code = self.wait(pid)
        return code

    def said(self):
        """What the commands wrote since the last time."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        self.log.write_text("")
        return text


class Scene:
    """One verb: the store it starts from, its command line, and the bytes it leaves when nothing happens."""

    def __init__(self, verb, victims, cohort, start, folder, *, features):
        self.verb, self.victims, self.start, self.folder, self.cohort = verb, victims, start, folder, cohort
        self.features = features
        folder.mkdir()
        self.seconds = math.inf
        fresh = self.fresh("undisturbed")
        assert self.run(fresh) == 0, victims.said()
        self.wanted = self.contents(fresh)

    def run(self, store):
        """Run the verb to its end; the shortest time that took is how long a run is."""
        pid = self.victims.start(self.line(store))
        clock = time.monotonic()
        code = self.victims.wait(pid)
        self.seconds = min(self.seconds, time.monotonic() - clock)
        return code

    @staticmethod
    def contents(store):
        """Everything that a stage leaves and that is no matter of the clock: file -> bytes."""
        root = store.parent
        files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix not in UNFINISHED)
        named = {str(p.relative_to(root)): p for p in files}
        return {name: p.read_bytes() for name, p in named.items() if not any(t in name for t in TIMED)}

    def fresh(self, name):
        """The path of a store as it is before the verb."""
        path = self.folder / name / "cohort.zarr"
        path.parent.mkdir()
        if self.start is not None:
            shutil.copytree(self.start, path)
        return path

    def line(self, store):
        """The command line."""
        return command_line(self.verb, store, self.cohort, self.features)


def command_line(verb, store, cohort, features):
    """The command line of a verb over a store."""
    return {
        "tile": ("tile", store, cohort.slides, "--mpp", "1.0", "--tile-px", "64", "--workers", "1"),
        "import": ("import", store, features, "--workers", "1"),
        "pretrain-tiles": ("pretrain-tiles", store, "--epochs", "2", "--max-tiles", "32", "--batch-size", "16",
                           "--queue", "32", "--precision", "fp32", "--workers", "1"),
        "bank": ("bank", store, "--encoder", "random-resnet18", "--augmentations", "3", "--draws", "8",
                 "--precision", "fp32", "--workers", "1"),
        "train": ("train", store, "--epochs", "5", "--batch-size", "4", "--precision", "fp32", "--aggregator", "mlp"),
        "embed": ("embed", store, "--views", "5"),
        "pack": ("pack", store),
        "probe": ("probe", store, "--labels", cohort.labels_csv, "--out", store.parent / "out"),
    }[verb]  # fmt: skip


@pytest.fixture(scope="session")
def victims(tmp_path_factory):
    return Victims(tmp_path_factory.mktemp("log") / "log.txt")


@pytest.fixture(scope="session")
def features(chain, tmp_path_factory):
    """A folder of features as another tool may have made them."""
    folder = tmp_path_factory.mktemp("features") / "of_another_tool"
    gigacli.export(chain("bank"), "features", to=folder)
    return folder


@pytest.fixture(scope="session")
def scene(victims, cohort, chain, features, tmp_path_factory):
    """``scene("bank")``: a verb ready to be disturbed, made once."""
    made = {}

    def of(verb):
        if verb not in made:
            start, folder = BEFORE[verb] and chain(BEFORE[verb]), tmp_path_factory.mktemp("scenes") / verb
            made[verb] = Scene(verb, victims, cohort, start, folder, features=features)
        return made[verb]

    return of


@pytest.fixture(scope="session")
def line(cohort, features):
    """``line("bank", store)``: the command line of a verb."""
    return lambda verb, store: command_line(verb, store, cohort, features)


@pytest.fixture(scope="session")
def contents():
    """``contents(store)``: everything that a stage leaves and that is no matter of the clock, file -> bytes."""
    return Scene.contents


@pytest.fixture(scope="session")
def repeats():
    """``repeats(2)``: how often to try something per verb, 2 in the short form."""
    return share


@pytest.fixture(scope="session")
def faults():
    """Faults in all that were asked for; 0 for the short form."""
    return FAULTS


@pytest.fixture
def rng(request):
    """Random numbers of this test: the same in every run."""
    return random.Random(request.node.name)
