"""Content and progress of a store, and the command to run next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigacli.config.base import options_of
from gigacli.config.tools import InfoConfig
from gigacli.shown import Block, Shown, ToRun, some
from gigacli.store.address import is_remote
from gigacli.store.groups import NAMED, Bank, Done, Embedding, Group, Model, SlideGroup, Tiles, TrainedGroup
from gigacli.store.layout import FORMAT_VERSION, STAGES
from gigacli.store.store import Store
from gigacli.units import bytes_text

MOST_FAILURES = 20


@dataclass(frozen=True)
class GroupInfo:
    """One group of results."""

    path: str  # path in the store
    stage: str  # the verb that wrote it
    done: int  # slides that are done, "no tissue" included; of an encoder or model 1 when it is finished
    total: int  # slides that could be done; 1 for an encoder or model
    failed: int  # slides that are not done because they failed
    bytes: int | None  # size on disk, None for a remote store
    config: dict[str, Any]  # the configuration in its recipe
    stale: list[str] = field(default_factory=list)  # what it was made from and has been replaced since, in words
    again: str = ""  # where it is stale, the command that makes it anew, or what of it is; "" where there is no need
    remark: str = ""  # what else to know of it, "" for nothing
    unpacked: int | None = None  # slides that lie beside its shards; None where it is not packed

    @property
    def kind(self) -> str:
        """First part of its path."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """Rest of its path, "" of the tiles."""
        return self.path.partition("/")[2]

    @property
    def pending(self) -> bool:
        """Whether its verb has something left to do."""
        return self.done + self.failed < self.total


@dataclass(frozen=True)
class Failure:
    """Reason why a stage could not do a slide."""

    slide: str
    stage: str
    reason: str


@dataclass(frozen=True)
class SlideInfo:
    """Progress of one slide."""

    slide: str  # its id
    patient: str  # its patient, "" where unknown
    tiles: int | None  # tiles of it, 0 for no tissue; None where it is not tiled
    done: list[str]  # groups of results in which it is done, by path: features, banks, embeddings
    failures: dict[str, str]  # why stages could not do it, by stage


@dataclass(frozen=True)
class Info(Shown):
    """Content and progress of a store."""

    url: str  # path or URL of the store
    version: str  # version of its format
    slides: int  # registered slides
    patients: int  # patients that are known
    tiles: int  # tiles of all slides
    bytes: int | None  # size on disk of all of it, None for a remote store
    groups: list[GroupInfo]  # groups of results, in the order of the verbs
    failed: int  # failures in all
    failures: list[Failure]  # the first of them
    retry: list[str]  # commands that try the slides that failed again, once what was wrong with them is mended
    next: str  # the command to run next
    per_slide: list[SlideInfo] = field(default_factory=list)  # progress of each slide, where that was asked for

    def blocks(self) -> Iterator[Block]:
        """Groups and their state, slides on request, failures, what to run next."""
        patients = f", {self.patients} patients" if self.patients else ""
        tiles = f", {self.tiles:,} tiles" if self.tiles else ""
        size = "" if self.bytes is None else f", {bytes_text(self.bytes)}"
        yield f"{self.url}: format {self.version}, {self.slides} slides{patients}{tiles}{size}"
        rows = [
            (g.path, g.stage, f"{g.done}/{g.total}", g.failed, "" if g.bytes is None else bytes_text(g.bytes))
            for g in self.groups
        ]
        yield from some("", ("group", "written by", "done", "failed", "size"), rows)
        for group in self.groups:
            if group.stale:
                yield f"{group.path} is stale: {'; '.join(group.stale)}"
            if group.remark:
                yield f"{group.path}: {group.remark}"
        packed = [g for g in self.groups if g.unpacked is not None]
        if packed:
            listed = (f"{g.path} ({g.unpacked})" if g.unpacked else g.path for g in packed)
            yield f"packed (slides that are not yet): {', '.join(listed)}"
        slides = (
            (s.slide, s.patient, "" if s.tiles is None else s.tiles, ", ".join(s.done), ", ".join(s.failures))
            for s in self.per_slide
        )
        yield from some("slides", ("slide", "patient", "tiles", "done in", "failed in"), slides)
        title = f"failures ({len(self.failures)} of {self.failed})"
        yield from some(title, ("slide", "stage", "reason"), ((f.slide, f.stage, f.reason) for f in self.failures))
        yield from (ToRun("to try the slides that failed again", command) for command in self.retry)
        if self.next:
            yield ToRun("next", self.next)


@options_of(InfoConfig)
def info(config: InfoConfig, path: str | Path | Store, *, slides: bool = False) -> Info:
    """Look at the metadata of a store, and at what is done.

    Args:
        path: The cohort store.

    Raises:
        NotFound: There is nothing at `path`.
        Mismatch: What is there is not a cohort store, or of a version this giga does not read.
    """
    store = Store.open(path)
    table = store.slides
    reasons = {stage: store.failures(stage) for stage in STAGES}
    there = store.all_groups()
    with store.tiles.read_once():
        done = {group.path: group.done() for group in there if isinstance(group, SlideGroup)}
        groups = [_group(group, reasons, done) for group in there]
    failures = [
        Failure(row.id, stage, why)
        for stage, listed in reasons.items()
        for row, why in zip(table.rows, listed, strict=True)
        if why
    ]
    url = shlex.quote(store.url)
    tiles = done.get(store.tiles.path) or store.tiles.done()
    return Info(
        url=store.url,
        version=FORMAT_VERSION,
        slides=len(table),
        patients=len({row.patient for row in table.rows if row.patient}),
        tiles=int(tiles.counts.sum()),
        bytes=_bytes_of_all(store.url, groups),
        groups=groups,
        failed=len(failures),
        failures=failures if config.slides else failures[:MOST_FAILURES],
        retry=_retry(url, groups, imported=any(reasons["import"])),
        next=_next(url, len(table), groups),
        per_slide=_per_slide(store, tiles, done, reasons) if config.slides else [],
    )


def _per_slide(store: Store, tiles: Done, done: dict[str, Done], reasons: dict[str, list[str]]) -> list[SlideInfo]:
    results = {path: found.finished for path, found in done.items() if path != store.tiles.path}
    return [
        SlideInfo(
            slide=row.id,
            patient=row.patient,
            tiles=int(tiles.values[i]) if tiles.finished[i] else None,
            done=[path for path, finished in results.items() if finished[i]],
            failures={stage: listed[i] for stage, listed in reasons.items() if listed[i]},
        )
        for i, row in enumerate(store.slides.rows)
    ]


def _group(group: Group, reasons: dict[str, list[str]], known: dict[str, Done]) -> GroupInfo:
    """Compare a group with what it is made from."""
    recipe, store, failed = group.recipe, group.store, 0
    if isinstance(group, TrainedGroup):
        done, total = int(group.complete), 1
    else:
        finished = known[group.path].finished
        done, total = int(finished.sum()), store.registered
        if not isinstance(group, Tiles):
            source = group.features if isinstance(group, Embedding) else store.tiles
            of = known.get(source.path) if source is not None else None
            total = int(of.finished.sum()) if of is not None else done
        if not isinstance(group, Embedding):
            failed = sum(bool(why) and not d for why, d in zip(reasons[recipe.stage], finished, strict=True))
    stale = group.stale_by(known[group.path]) if isinstance(group, SlideGroup) else group.stale
    size, remark = _bytes(store.url, group.path), ""
    if isinstance(group, Model) and (seen := group.seen()) is not None and (there := known.get(group.source.path)):
        unseen = int((there.filled & ~seen).sum())
        remark = f"trained on {seen.sum()} slides; {group.source.path} holds {unseen} others" if unseen else ""
    if isinstance(group, Bank):
        remark = group.remark
    again = _again(group, pending=done + failed < total) if stale else ""
    beside = group.beside_shards if isinstance(group, SlideGroup) else None
    return GroupInfo(group.path, recipe.stage, done, total, failed, size, recipe.config, stale, again, remark, beside)


def _again(group: Group, *, pending: bool) -> str:
    """Return the command that makes anew what is stale.

    Where other slides are there, only those are done again, by the verb as it stands. A tile encoder goes on being used
    though slides that it has seen have changed, and what was imported is made elsewhere.
    """
    if group.recipe.stage == "import":
        return ""
    if group.replaced or isinstance(group, Model):
        return group.again
    return group.again.removesuffix(" --redo") if pending and isinstance(group, SlideGroup) else ""


def _bytes(url: str, path: str) -> int | None:
    return None if is_remote(url) else _bytes_below(str(Path(url, path)))


def _bytes_of_all(url: str, groups: list[GroupInfo]) -> int | None:
    """The size of a store, of which its groups are looked at once: they may have very many files."""
    if is_remote(url):
        return None
    known = frozenset(str(Path(url, group.path)) for group in groups)
    return sum(group.bytes or 0 for group in groups) + _bytes_below(str(Path(url)), known)


def _bytes_below(folder: str, known: frozenset[str] = frozenset()) -> int:
    """Add up all files below a folder but in folders that are known; some may go meanwhile: others may be writing."""
    total, waiting = 0, [folder]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):  # links may lead in a circle
                    waiting += [entry.path] if entry.path not in known else []
                else:
                    with suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def _next(url: str, slides: int, groups: list[GroupInfo]) -> str:
    """Return the command of the first verb, in their order, that has something left to do, or to do anew."""
    if not slides:
        return f"giga tile {url} SLIDES"
    kinds: tuple[type[Group], ...] = (Tiles, *NAMED)
    of = {kind.kind: [g for g in groups if g.kind == kind.kind] for kind in kinds}
    results = of["embeddings"]
    imported = [g for g in of["features"] if g.stage == "import"]
    taken = [*of["tiles"], *imported]
    if any(g.pending or not g.done for g in taken if g.stage == "import" and g.total):
        return f"giga import {url} FILES"
    if any(g.pending for g in of["tiles"]) or not (of["tiles"] or results):
        return _tile(url, of["tiles"])
    if again := _anew(of["encoders"]):
        return again
    trainable = [*of["banks"], *imported]
    if not (trainable or results) and not any(g.done for g in of["encoders"]):
        return f"giga pretrain-tiles {url}" + (_named(of["encoders"][0], "moco") if of["encoders"] else "")
    if again := _anew(of["banks"]):  # its features with it
        return again
    bank = next((g for g in of["banks"] if g.pending), None)
    if bank is not None:
        return _bank(url, bank)
    if not (trainable or results):
        return f"giga bank {url} --encoder {next(_quoted(g) for g in of['encoders'] if g.done)}"
    if again := _anew(of["models"]):
        return again
    model = next((g for g in of["models"] if g.pending), None)
    if model is not None:
        return f"giga train {url} --bank {shlex.quote(model.config['bank'])}" + _named(model, "giga")
    borrowed = any("variant" in g.config for g in results)  # by a model of another store
    if trainable and not of["models"] and not borrowed:
        return f"giga train {url}" + (f" --bank {_quoted(trainable[0])}" if len(trainable) > 1 else "")
    ours = [g for g in results if g.config["aggregator"] in ("model", "random-init")]
    if again := _anew(ours) or _anew(results):  # the means that are written beside ours with them
        return again
    late = next((g for g in ours if g.pending), None)
    if late is not None:
        name, kind = late.config["model"], late.config["aggregator"]
        born = kind == "random-init"
        flag = f" --aggregator {kind}" if born else ""
        return f"giga embed {url} --model {shlex.quote(name)}" + flag + _named(late, f"random-{name}" if born else name)
    if of["models"] and not ours:
        return f"giga embed {url} --model {_quoted(of['models'][0])}"
    return f"giga probe {url} --labels labels.csv"


def _anew(groups: list[GroupInfo]) -> str:
    return next((g.again for g in groups if g.again), "")


def _retry(url: str, groups: list[GroupInfo], *, imported: bool) -> list[str]:
    """Return the commands that try slides again: a stage does so whenever it runs."""
    failed = [group for group in groups if group.failed]
    tile = [_tile(url, [group]) for group in failed if group.kind == "tiles" and group.stage != "import"]
    tile += [f"giga import {url} FILES"] * imported
    return tile + [_bank(url, group) for group in failed if group.kind == "banks"]


def _tile(url: str, tiles: list[GroupInfo]) -> str:
    laid = any("coords" in group.config for group in tiles)  # by another tool, whose files are named again
    return f"giga tile {url}{' --coords FILES' if laid else ''}"


def _bank(url: str, group: GroupInfo) -> str:
    encoder, features = group.config["encoder"], group.config.get("features")
    named = f" --features {shlex.quote(features)}" if features else _named(group, encoder)
    return f"giga bank {url} --encoder {shlex.quote(encoder)}" + named


def _quoted(group: GroupInfo) -> str:
    """Quote a name for a shell: these commands are copied, and a store may come from anyone."""
    return shlex.quote(group.name)


def _named(group: GroupInfo, default: str) -> str:
    """Return the flag that names a group, where it has another name than the verb would give it."""
    return "" if group.name == default else f" --name {_quoted(group)}"
