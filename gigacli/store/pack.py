"""``giga pack``: what is finished goes into few files, each with many slides; see :mod:`gigacli.store.packing`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gigacli.config.base import options_of
from gigacli.config.tools import PackConfig
from gigacli.errors import InvalidInput
from gigacli.progress import SILENT, Progress
from gigacli.shown import Block, Shown, some
from gigacli.store.address import is_remote
from gigacli.store.groups import Bank, Features, SlideGroup, Tiles
from gigacli.store.layout import NOT_DONE, STAGES
from gigacli.store.lock import alone_writing, nobody_reading
from gigacli.store.packing import Packable
from gigacli.store.store import Store


@dataclass(frozen=True)
class PackedGroup:
    """One group, or the failures of one stage."""

    path: str  # path in the store
    packed: int  # slides that were packed now
    left: str  # why it was left as it is, "" where it was not


@dataclass(frozen=True)
class PackSummary(Shown):
    """What ``giga pack`` did.

    Attributes:
        store: Path of the store.
        groups: Its groups of results that have something of each slide.
        packed: Slides that were packed now, of the group with most of them.
        files_before: Files in the store before.
        files: Files in it now.
        seconds: Time it took.
    """

    store: str
    groups: list[PackedGroup]
    packed: int
    files_before: int
    files: int
    seconds: float

    def blocks(self) -> Iterator[Block]:
        """What was packed, and how many files are left."""
        yield from some("", ("group", "packed now", "left"), ((g.path, g.packed, g.left) for g in self.groups))
        yield f"{self.store}: {self.files_before:,} files before, {self.files:,} now, in {self.seconds:.0f} s"


@options_of(PackConfig)
def pack(
    config: PackConfig, path: str | Path | Store, *, sync: bool = True, progress: Progress = SILENT
) -> PackSummary:
    """Put what is finished into few files, each with many slides. All of it reads as before, and can be added to.

    A run that was interrupted is finished by the next one.

    Args:
        path: The cohort store, a folder.
        progress: Receives progress.

    Raises:
        NotFound: There is nothing at `path`.
        InvalidInput: The store is not in a folder.
        Mismatch: Another process writes to it, or a chunk is damaged.
    """
    started = time.monotonic()
    url = path.url if isinstance(path, Store) else str(path)
    if is_remote(url):
        raise InvalidInput(
            f"{url} is not a folder: whether somebody writes to it cannot be known",
            "copy the store to a disk, pack it there, and copy it back",
        )
    Store.open(path)  # what is wrong with it, if anything
    with alone_writing(url) as sure:
        if not sure:
            progress.say(f"{url} lies where files cannot be locked: make sure that nothing else writes to it")
        store = Store.open(path, write=True, sync=config.sync)
        store.refuse_links()
        before = count_files(url)
        groups = pack_groups(store, progress)
        with nobody_reading(url) as alone:
            if alone:
                remove_what_is_packed(store)
            else:
                progress.say("others read the store: the old files stay until giga pack is run again")
        store.settle()
    if isinstance(path, Store):
        path.refresh()
    files = count_files(url)
    most = max((group.packed for group in groups), default=0)
    return PackSummary(url, groups, most, before, files, time.monotonic() - started)


def pack_groups(store: Store, progress: Progress) -> list[PackedGroup]:
    """Pack every group that has something of each slide; the chunks that shards stand for stay."""
    done = []
    for packable, left in _packables(store):
        done.append(PackedGroup(_name(packable), 0 if left else packable.pack(progress), left))
    store.refresh()
    return done


def remove_what_is_packed(store: Store) -> None:
    """Remove the chunks that shards stand for."""
    for packable, left in _packables(store):
        if not left:
            packable.remove_chunks()


def _packables(store: Store) -> list[tuple[Packable, str]]:
    groups: list[SlideGroup] = [g for g in store.all_groups() if isinstance(g, Tiles | Features | Bank)]
    found = [(Packable(store, g.path, "count" if isinstance(g, Tiles) else "done"), _unfinished(g)) for g in groups]
    stages = [stage for stage in STAGES if store.failures_array(stage) is not None]
    return [*found, *((Packable(store, "failures", stage), "") for stage in stages)]


def _name(packable: Packable) -> str:
    return f"failures/{packable.mark}" if packable.path == "failures" else packable.path


def _unfinished(group: SlideGroup) -> str:
    """Why a group cannot be packed: a bank that is being extended holds parts of slides that are not done."""
    if not isinstance(group, Bank) or not group.has("kept") or group.unpacked is not None:
        return ""
    kept, done = np.asarray(group.array("kept")[:]), np.asarray(group.array("done")[:])
    return "it is being extended: run giga bank first" if ((kept != NOT_DONE) & (done == NOT_DONE)).any() else ""


def count_files(folder: str) -> int:
    """Files at and below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))
