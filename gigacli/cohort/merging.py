"""``giga merge`` and ``giga subset``: slides of stores go into a new one, with what was made from them.

The new store is what the verbs would have made of these slides, byte for byte, and it is made like theirs: a run that
was killed leaves a store that is valid, and is finished by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.cohort.merge_plan import ELSEWHERE, MergePlan, PlannedGroup, Source, plan_merge
from gigacli.cohort.slide_list import named_slides
from gigacli.config.base import options_of
from gigacli.config.tools import CopyConfig
from gigacli.errors import InvalidInput, Mismatch
from gigacli.progress import SILENT, Progress
from gigacli.shown import Shown
from gigacli.store.address import address_of, is_remote
from gigacli.store.groups import Bank, Embedding, Encoder, Features, Group, SlideGroup, Tiles, group_at
from gigacli.store.store import Store
from gigacli.store.table import COLUMNS, SlideTable

STAGES = ("tile", "bank", "import")
"""Of which the reasons why slides failed go along."""


@dataclass(frozen=True)
class CopiedGroup:
    """One group of the new store.

    Attributes:
        path: In the store.
        copied: Slides that were copied now; of an encoder 1.
        done: Slides that are done.
    """

    path: str
    copied: int
    done: int


@dataclass(frozen=True, kw_only=True)
class CopySummary(Shown):
    """What ``giga merge`` or ``giga subset`` did.

    Attributes:
        store: The new store.
        slides: Its slides.
        groups: Its groups of results.
        left_out: Groups of the stores that it has not got: path -> why, and what makes it.
        seconds: Time it took.
    """

    store: str
    slides: int
    groups: list[CopiedGroup]
    left_out: dict[str, str]
    seconds: float

    @property
    def table(self) -> tuple[str, tuple[str, ...], list[tuple[str, int, int]]]:
        """The groups, to be shown."""
        return "", ("group", "copied now", "done"), [(g.path, g.copied, g.done) for g in self.groups]

    @property
    def notes(self) -> list[str]:
        """What was left out, a line each."""
        return [f"without {path}: {why}" for path, why in self.left_out.items()]


@options_of(CopyConfig)
def merge(
    config: CopyConfig,
    stores: Sequence[str | Path | Store],
    *,
    to: str | Path,
    sync: bool = True,
    progress: Progress = SILENT,
) -> CopySummary:
    """Put the slides of several stores into a new one, with all that can be taken along of what was made from them.

    The stores, packed or not, stay as they are. Slides come in the order of the stores. A run that was killed is
    finished by the next one.

    Args:
        stores: Two cohort stores or more.
        to: The new store.
        progress: Receives progress.

    Raises:
        NotFound: One of the stores is not there, or has no slides.
        InvalidInput: Slides of one id are in several of them, or there is something else at `to`.
        Mismatch: What they have under one name was made otherwise, or somebody changed slides meanwhile.
    """
    started = time.monotonic()
    opened = [Store.open(one) for one in ([stores] if isinstance(stores, str | Path | Store) else stores)]
    if len(opened) < 2:
        raise InvalidInput("one store alone was named", "name two at least: giga merge A.zarr B.zarr --to C.zarr")
    url = _new(to, opened)
    plan = plan_merge([(store, np.arange(store.registered)) for store in opened], url)
    return _made(config, plan, progress, started)


@options_of(CopyConfig)
def subset(
    config: CopyConfig,
    store: str | Path | Store,
    slides: str | Path | Sequence[str],
    *,
    to: str | Path,
    sync: bool = True,
    progress: Progress = SILENT,
) -> CopySummary:
    """Put some slides of a store into a new one, with all that can be taken along of what was made from them.

    The store, packed or not, stays as it is, and so does the order of its slides. A run that was killed is finished by
    the next one.

    Args:
        store: The cohort store.
        slides: Which slides: a file with an id a line, a table with a column slide_id, a pattern of ids such as
            ``TCGA-A1-*``, or a list of ids.
        to: The new store.
        progress: Receives progress.

    Raises:
        NotFound: There is no such store or list, or slides of it are not in the store.
        InvalidInput: The list names slides twice or none, or there is something else at `to`.
        Mismatch: Somebody changed slides meanwhile.
    """
    started = time.monotonic()
    opened = Store.open(store)
    url = _new(to, [opened])
    plan = plan_merge([(opened, named_slides(opened.slides.ids, slides, store=opened.url))], url)
    return _made(config, plan, progress, started)


def _new(to: str | Path, sources: Sequence[Store]) -> str:
    url = address_of(to)
    for one in sources:
        same = url == one.url or (not is_remote(url) and not is_remote(one.url) and _same_folder(url, one.url))
        if same:
            raise InvalidInput(f"`to` is {url}, one of the stores that slides are taken from", "name a new store")
    return url


def _same_folder(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _made(config: CopyConfig, plan: MergePlan, progress: Progress, started: float) -> CopySummary:
    """Make the store that is planned, or finish it."""
    if Store.exists(plan.url):
        _check(plan, Store.open(plan.url))
    groups = fill(plan, Store.create(plan.url, sync=config.sync), progress)
    return CopySummary(
        store=plan.url,
        slides=len(plan.table),
        groups=groups,
        left_out=dict(sorted(plan.left_out.items())),
        seconds=time.monotonic() - started,
    )


def fill(plan: MergePlan, store: Store, progress: Progress) -> list[CopiedGroup]:
    """Write what is not there of a plan into its store.

    Raises:
        Mismatch: Slides were changed while they were copied; they are not done.
    """
    _begin(plan, store)
    groups, changed = [], list[str]()
    for path, planned in plan.groups.items():
        group = group_at(store, path)
        copied, lost = _copy(planned, group, progress)
        changed += lost
        groups.append(CopiedGroup(path, copied, _done(group)))
    store.settle()
    if changed:
        raise Mismatch(
            f"{len(dict.fromkeys(changed))} slides were changed while they were copied, such as {changed[0]!r}",
            "run the same command again when nothing writes into the stores they come from",
        )
    return groups


def _check(plan: MergePlan, store: Store) -> None:
    """Refuse a store that is no unfinished run of the same command.

    Raises:
        InvalidInput: It has other slides, or other groups.
    """
    wrong = ""
    if store.registered and not _same_slides(store.slides, plan.table):
        wrong = f"has {store.registered} slides, which are not the {len(plan.table)} that go there"
    for group in store.all_groups():
        planned = plan.groups.get(group.path)
        if planned is None or planned.recipe != group.recipe:
            wrong = wrong or f"holds {group.path}, which does not come from there"
        elif isinstance(group, SlideGroup) and group.unpacked is not None:
            wrong = wrong or "is packed"
    if wrong:
        raise InvalidInput(f"{plan.url} is there already, and {wrong}", "name a new store with `to`")


def _same_slides(mine: SlideTable, theirs: SlideTable) -> bool:
    if len(mine) != len(theirs):
        return False
    pairs = ((mine.column(name), theirs.column(name)) for name in COLUMNS)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def _begin(plan: MergePlan, store: Store) -> None:
    """Register the slides, and make all groups ready: so a store that is not finished says what it lacks."""
    if not store.registered:
        store.write_slides(plan.table)
    for path, planned in plan.groups.items():
        group, like = group_at(store, path), planned.parts[0][1]
        if isinstance(group, Tiles):
            group.begin(planned.recipe, plan.room, redo=False)
        elif isinstance(group, Features | Bank | Embedding) and isinstance(like, Features | Bank | Embedding):
            group.begin(planned.recipe, like.width, redo=False)
    for stage in STAGES:
        made = any(planned.recipe.stage == stage for planned in plan.groups.values())
        if made and any(source.store.failures_array(stage) is not None for source in plan.sources):
            _copy_failures(plan, store, stage)


def _copy_failures(plan: MergePlan, store: Store, stage: str) -> None:
    reasons: list[str] = []
    for source in plan.sources:
        said = source.store.failures(stage)
        reasons += [said[row] for row in source.rows.tolist()]
    store.fail(stage, dict(enumerate(reasons)))


def _copy(planned: PlannedGroup, group: Group, progress: Progress) -> tuple[int, list[str]]:
    """Copy what is not there of a group: how much that was, and ids of slides that were changed meanwhile."""
    if isinstance(group, Encoder):
        encoder, missing = planned.parts[0][1], not group.complete
        if isinstance(encoder, Encoder) and missing:
            elsewhere = not planned.recipe.config.keys().isdisjoint(ELSEWHERE)
            group.keep(planned.recipe, b"" if elsewhere else encoder.weights())
        return int(missing), []
    assert isinstance(group, SlideGroup)
    copied, changed = 0, list[str]()
    for source, theirs in planned.parts:
        assert isinstance(theirs, SlideGroup)
        rows, to = source.taken(theirs.done().finished)
        todo = ~_there(group, theirs, source)[to]
        progress.start(f"copying {group.path} of {source.store.url}", len(rows), done=int((~todo).sum()))
        again = group.copy_from(theirs, rows[todo], to[todo], progress)
        changed += [source.store.slides[row].id for row in again]
        copied += int(todo.sum()) - len(again)
    return copied, changed


def _there(group: SlideGroup, theirs: SlideGroup, source: Source) -> NDArray[np.bool_]:
    """(slides of the new store,) which slides a group has already, made from what they are now."""
    there = group.done().finished.copy()
    if isinstance(group, Tiles) and isinstance(theirs, Tiles):
        mine = slice(source.first, source.first + len(source.rows))
        there[mine] &= group.identities()[mine] == theirs.identities()[source.rows]
    return there


def _done(group: Group) -> int:
    if isinstance(group, Encoder):
        return int(group.complete)
    return int(group.done().finished.sum()) if isinstance(group, SlideGroup) else 0
