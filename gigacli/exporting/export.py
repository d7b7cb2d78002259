"""``giga export``: results of a store as files that other tools read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, get_args

from gigacli.config.base import options_of
from gigacli.config.tools import ExportConfig, Format
from gigacli.errors import InvalidInput, NotFound
from gigacli.exporting import tiles, vectors
from gigacli.exporting.output import check_free, size_of
from gigacli.exporting.weights import publish_weights, write_weights
from gigacli.progress import SILENT, Progress
from gigacli.shown import Shown
from gigacli.store.groups import Embedding, Encoder, Features, Model, SlideGroup, Tiles
from gigacli.store.slide_group import Done
from gigacli.store.store import Store
from gigacli.weights.hub import HUB, HubAddress

Result = Embedding | Features | Tiles | Model | Encoder
KINDS: tuple[type[Result], ...] = (Embedding, Features, Tiles, Model, Encoder)

WRITERS: dict[tuple[type[Result], str], Callable[..., str | None]] = {
    (Embedding, "npy"): vectors.to_npy,
    (Embedding, "csv"): vectors.to_csv,
    (Embedding, "parquet"): vectors.to_parquet,
    (Embedding, "h5"): vectors.to_h5,
    (Embedding, "h5ad"): vectors.to_h5ad,
    (Features, "h5"): tiles.to_h5,
    (Features, "npy"): tiles.to_npy,
    (Tiles, "geojson"): tiles.to_geojson,
}
"""What writes a kind of results in a format, the default for a folder first.

Called with the group, the rows of the slides that have a result, `to` and `progress`; gives a warning, if any.
"""

FILES = ("csv", "parquet", "h5ad", "safetensors")  # formats that are one file; the others are a folder
FORMATS = get_args(Format)


def formats_of(kind: type[Result]) -> list[str]:
    """The formats of a kind of results, the default for a folder first; weights have one."""
    return [name for of, name in WRITERS if of == kind] or ["safetensors"]


@dataclass(frozen=True)
class ExportSummary(Shown):
    """What ``giga export`` did.

    Attributes:
        group: What was exported.
        format: As what.
        to: Where it is now; "-" for a stream.
        slides: Slides in it; of weights, slides they were trained on in this store.
        empty: Slides that have nothing to export, for want of tissue.
        pending: Slides that are not done, and not in it.
        bytes: Size of the file or folder.
        warning: What could not be made sure of, in words; "" where nothing is left open.
        seconds: Time it took.
    """

    group: str
    format: str
    to: str
    slides: int
    empty: int
    pending: int
    bytes: int
    warning: str
    seconds: float


@options_of(ExportConfig)
def export(
    config: ExportConfig,
    store: str | Path | Store,
    what: str | None = None,
    *,
    to: str | Path | TextIO,
    format: Format | None = None,  # noqa: A002 - the name of the flag
    redo: bool = False,
    progress: Progress = SILENT,
) -> ExportSummary:
    """Write a result of a store to a file or a folder, or a model to Hugging Face, as a whole or not at all.

    Args:
        store: The cohort store.
        what: A group (``embeddings/giga``), or a kind that holds only one (``embeddings``, the default).
        to: The file or folder; a stream, to which vectors are written as CSV; of a model or an encoder also
            ``hf://ORG/NAME``.
        progress: Progress receiver.

    Raises:
        NotFound: The store holds no such result, or a library for the format is not installed; of Hugging Face also
            where it cannot be reached or the user is not logged in.
        InvalidInput: There are several results and none was named, the format does not go with it, or `to` is taken.
        Mismatch: A model's bank or tiles have been replaced.
        GigaError: It cannot be written there.
    """
    started = time.monotonic()
    if not isinstance(to, str | Path):
        return _stream(config, Store.open(store), what, to, started)
    if str(to).startswith(HUB):
        return _publish(config, Store.open(store), what, HubAddress.of(str(to)), started)
    if "://" in str(to):
        raise InvalidInput(f"`to` is {to}; a file or folder of this machine is written", "write it here, then copy it")
    opened, to = Store.open(store), Path(to)
    group = _group(opened, what)
    written_as = _format(type(group), to, config.format)
    check_free(to, folder=written_as not in FILES, redo=config.redo)
    warning, empty, pending = None, 0, 0
    if isinstance(group, SlideGroup):
        done = _done(group)
        warning = WRITERS[type(group), written_as](group, done.rows, to=to, progress=progress)
        warning = _and_stale(group, warning or "")
        slides, empty, pending = len(done.rows), int((done.values == 0).sum()), int((~done.finished).sum())
    else:
        slides = write_weights(group, to, redo=config.redo)
    return ExportSummary(
        group=group.path,
        format=written_as,
        to=str(to),
        slides=slides,
        empty=empty,
        pending=pending,
        bytes=size_of(to),
        warning=warning or "",
        seconds=time.monotonic() - started,
    )


def _stream(config: ExportConfig, store: Store, what: str | None, to: TextIO, started: float) -> ExportSummary:
    """Write vectors to a stream, as the one format that is text."""
    group = _group(store, what)
    if not isinstance(group, Embedding) or config.format not in (None, "csv"):
        asked = f"{group.path} as {config.format}" if config.format else group.path
        raise InvalidInput(
            f"only vectors of slides, as CSV, can be written to a stream; found {asked}",
            f"write it to a file or folder: giga export {store.url} {group.path} --to NAME",
        )
    done, size = _done(group), 0
    for text in vectors.csv_blocks(group, done.rows):
        to.write(text)
        size += len(text.encode())
    return ExportSummary(
        group=group.path,
        format="csv",
        to="-",
        slides=len(done.rows),
        empty=int((done.values == 0).sum()),
        pending=int((~done.finished).sum()),
        bytes=size,
        warning=_and_stale(group, vectors.formulas_among(group, done.rows)),
        seconds=time.monotonic() - started,
    )


def _done(group: SlideGroup) -> Done:
    """What is done of a group, which must be something."""
    done = group.done()
    if not len(done.rows):
        url = group.store.url
        raise NotFound(f"{url}/{group.path} holds nothing yet", f"see what is next: giga info {url}")
    return done


def _and_stale(group: SlideGroup, warning: str) -> str:
    """A warning, and before it why the group is stale, if it is."""
    reasons = group.stale
    stale = f"{group.path} is stale: {'; '.join(reasons)}" if reasons else ""
    return "; ".join(filter(None, (stale, warning)))


def _publish(config: ExportConfig, store: Store, what: str | None, to: HubAddress, started: float) -> ExportSummary:
    """Put a model or an encoder on Hugging Face."""
    group = _group(store, what)
    if not isinstance(group, Model | Encoder) or config.format not in (None, "safetensors"):
        raise InvalidInput(
            f"`to` is {to}; models and encoders go there, as safetensors, and not {group.path}",
            f"name one: giga export {store.url} models/NAME --to {to}",
        )
    slides, size = publish_weights(group, to, redo=config.redo)
    return ExportSummary(
        group=group.path,
        format="safetensors",
        to=to.page,
        slides=slides,
        empty=0,
        pending=0,
        bytes=size,
        warning="",
        seconds=time.monotonic() - started,
    )


def _group(store: Store, what: str | None) -> Result:
    """Find the group to export."""
    named, slash, name = (what or Embedding.kind).strip("/").partition("/")
    kind = next((kind for kind in KINDS if kind.kind == named), None)
    if kind is None or (kind is Tiles and slash):
        there = [group.path for kind in KINDS if kind is not Tiles for group in store.groups(kind)]
        there += [Tiles.kind] if store.tiles.found else []
        raise InvalidInput(
            f"{what!r} is nothing that can be exported",
            f"{store.url} has {', '.join(there)}" if there else f"{store.url} holds no results",
        )
    if kind is Tiles:
        return store.tiles
    names = store.names(kind)
    if not name and len(names) > 1:
        raise InvalidInput(
            f"{store.url} holds several {named}: {', '.join(names)}",
            f"name one: giga export {store.url} {named}/{names[0]} --to ...",
        )
    return store.pick(kind, name or None)


def _format(of: type[Result], to: Path, given: Format | None) -> str:
    """Decide the format from what was given and from the name of the file."""
    kind, formats, ending = of.kind, formats_of(of), to.suffix.lower().removeprefix(".")
    named = given or (ending if ending in FORMATS else None)
    if named is None and ending and not to.is_dir():
        raise InvalidInput(
            f"{to} ends in .{ending}, which is no format; {kind} can be {', '.join(formats)}",
            "for a folder of that name, give `format`",
        )
    chosen = named or formats[0]
    if chosen not in formats:
        raise InvalidInput(f"{kind} cannot be written as {chosen}", f"they can be {', '.join(formats)}")
    if chosen in FILES and ending != chosen:
        raise InvalidInput(f"`to` is {to}; {chosen} is one file", f"name it {to.name or kind}.{chosen}")
    if chosen not in FILES and ending in FORMATS:
        raise InvalidInput(f"`to` is {to}; {chosen} is a folder of files", f"name it {to.stem}, with `format` {chosen}")
    return chosen
