"""A disk as strict as POSIX lets it be, and what a power cut leaves on it, from a log that ``power.c`` has written.

The bytes of a file are safe as of its last fsync, the names in a folder as of the last fsync of that folder, and
nothing else is: of the changes since, a cut keeps some and loses others, in whatever order they were made. A file may
be empty then, a prefix of itself, of its full size but zeros, or whole.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import warm
from tests.helpers import warm_server

SOURCE = Path(__file__).with_name("power.c")
KEPT = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Shares of the changes that are not safe that cuts keep."""

ZEROS = 0.25
"""Share of the files of full size whose bytes were not written."""


class File:
    """A file: how many of its bytes are there, how many are safe, and where all that were ever written can be had."""

    def __init__(self, source, size=0, safe=0):
        self.source, self.size, self.safe = source, size, safe

    def left(self, to, rng):
        """Write what a cut leaves of it; without `rng`, all of it."""
        torn = rng is not None and self.size > self.safe
        size = rng.choice([self.safe, self.size, rng.randint(self.safe, self.size)]) if torn else self.size
        zeros = torn and size == self.size and rng.random() < ZEROS
        if size == self.source.stat().st_size and not zeros:
            os.link(self.source, to)  # whoever changes a file puts another in its place: the log says so
            return
        with self.source.open("rb") as file:
            data = file.read(self.safe if zeros else size)
        to.write_bytes(data.ljust(size, b"\0"))


class Folder:
    """A folder: its names, those that are safe, and the changes that lie between, each of one or two names."""

    def __init__(self):
        self.names, self.safe, self.changes = {}, {}, []

    def change(self, **names):
        """Give names to files and folders, or take them away (None), at once."""
        self.changes.append(names)
        self.names = _changed(self.names, names)

    def settle(self):
        """An fsync."""
        self.safe, self.changes = self.names, []

    def left(self, to, rng, kept):
        """Write what a cut leaves of it, if each change since the last fsync is kept with this probability.

        Without `rng`, all of it.
        """
        to.mkdir()
        names = self.safe
        for change in self.changes:
            if rng is None or rng.random() < kept:
                names = _changed(names, change)
        for name, node in names.items():
            if isinstance(node, Folder):
                node.left(to / name, rng, kept)
            else:
                node.left(to / name, rng)


def _changed(names, change):
    return {name: node for name, node in {**names, **change}.items() if node is not None}


class Disk:
    """The files below a folder, as they were before any run that was logged: all of them safe."""

    def __init__(self, before):
        """`before` is a copy of the folder."""
        self.top = self._read(before)

    def _read(self, path):
        folder = Folder()
        for entry in path.iterdir():
            size = entry.stat().st_size
            folder.names[entry.name] = self._read(entry) if entry.is_dir() else File(entry, size, size)
        folder.settle()
        return folder

    def at(self, path):
        """The file or folder of a path."""
        node = self.top
        for name in Path(path).relative_to(self.root).parts:
            node = node.names[name]
        return node

    def place(self, path):
        """The folder of a path, and its name in it."""
        return self.at(Path(path).parent), Path(path).name

    def apply(self, what, *words):
        """Do what a record of the log says; files that are changed in their place, or cut, are none of this disk."""
        if what in ("write", "sync"):
            file, numbers = self.made[words[0]], [int(word) for word in words[1:]]
            if what == "sync":
                file.safe = file.size
            else:
                assert numbers[0] == file.size, f"{file.source} is written in another order than its bytes have"
                file.size += numbers[1]
        elif what == "settle":
            self.at(words[0]).settle()
        elif what == "create":
            self.made[words[0]] = File(self.files / words[0])
            self._name(words[1], self.made[words[0]])
        elif what == "folder":
            self._name(words[0], Folder())
        elif what == "remove":
            self._name(words[0], None)
        elif what == "link":
            self._name(words[1], self.at(words[0]))
        elif what == "rename":
            node, (folder, name), (to_folder, to) = self.at(words[0]), self.place(words[0]), self.place(words[1])
            assert folder is to_folder, "renamed into another folder, which is no one change"
            folder.change(**{name: None, to: node})
        elif what == "change" and words[-1].endswith("cohort.zarr/zarr.json"):
            pass  # `giga pack` opens it to lock it, which takes the right to write
        else:
            raise AssertionError(f"{what} {' '.join(words)}: changed in its place, or what this disk does not know")

    def _name(self, path, node):
        folder, name = self.place(path)
        folder.change(**{name: node})

    def follow(self, root, log, records):
        """Go on with the records of a log of another run, over the same files in the folder `root`."""
        self.root, self.files, self.made = root, log.with_name(f"{log.name}.files"), {}
        for record in records:
            self.apply(*record)

    def left(self, to, rng=None):
        """Write what a cut leaves now into a folder that is not there; without `rng`, what is there without one."""
        self.top.left(to, rng, rng.choice(KEPT) if rng is not None else 1)


class Recorder:
    """Runs commands whose writes are logged."""

    def __init__(self, folder):
        """Build the library that logs, in a folder."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler (cc) to build the library with that logs writes")
        self.library = folder / "power.so"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", self.library, SOURCE, "-ldl"], check=True)

    def run(self, arguments, root, log):
        """Run a command of giga to its end; its exit code. What it does below the folder `root` goes into `log`."""
        (log.parent / f"{log.name}.files").mkdir()
        with log.with_suffix(".out").open("w") as out, Path(os.devnull).open() as nothing:
            _, connection = warm.start(
                str(warm_server(str(self.library)) / "socket"),
                ["giga", *map(str, arguments)],
                fds=(nothing.fileno(), out.fileno(), out.fileno()),
                env={**os.environ, "GIGA_POWER_ROOT": str(root), "GIGA_POWER_LOG": str(log)},
                settings={"gigacli.nn.loop:CHECKPOINT_SECONDS": 0},
            )
        return warm.exit_code(connection)


class Recording:
    """A run of a command over a store, with all it wrote: cut the power where you like.

    Attributes:
        root: The folder with the store and what lies beside it, after the run.
        records: What happened, in order.
    """

    def __init__(self, recorder, folder, prepare, line):
        """`prepare` makes the folder `root` as it is before; `line` gives the command line for a store."""
        folder.mkdir()
        self.root, self._before, self._log = folder / "run", folder / "before", folder / "log"
        for path in (self.root, self._before):
            prepare(path)
        code = recorder.run(line(self.root / "cohort.zarr"), self.root, self._log)
        assert code == 0, self._log.with_suffix(".out").read_text()
        self.records = [line.split("\t") for line in self._log.read_text().splitlines()]

    def disk(self, records, before=None):
        """The disk after so many records, from `before` on, where another run has left it."""
        disk = before or Disk(self._before)
        disk.follow(self.root, self._log, self.records[:records])
        return disk
