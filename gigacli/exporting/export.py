"""``giga export``: results of a store as files that other tools read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from gigacli.config.base import options_of
from gigacli.config.tools import ExportConfig, Format
from gigacli.errors import InvalidInput
from gigacli.exporting import tiles, vectors
from gigacli.exporting.chosen import Chosen
from gigacli.exporting.weights import card_of, write_weights
from gigacli.files import check_free, size_of
from gigacli.progress import SILENT
from gigacli.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from gigacli.progress import Progress

KINDS = ("embeddings", "features", "tiles", "models", "encoders")

WRITERS: dict[tuple[str, str], Callable[[Chosen, Path, Progress], str | None]] = {
    ("embeddings", "npy"): vectors.to_npy,
    ("embeddings", "csv"): vectors.to_csv,
    ("embeddings", "parquet"): vectors.to_parquet,
    ("embeddings", "h5"): vectors.to_h5,
    ("embeddings", "h5ad"): vectors.to_h5ad,
    ("features", "h5"): tiles.to_h5,
    ("features", "npy"): tiles.to_npy,
    ("tiles", "geojson"): tiles.to_geojson,
}
"""What writes a kind of results in a format, the default for a folder first; they return a warning, if any."""

FILES = ("csv", "parquet", "h5ad", "safetensors")
"""Formats that are one file; the others are a folder."""

FORMATS = get_args(Format)


def formats_of(kind: str) -> list[str]:
    """The formats of a kind of results, the default for a folder first; weights have one."""
    return [name for of, name in WRITERS if of == kind] or ["safetensors"]


@dataclass(frozen=True)
class ExportSummary:
    """What ``giga export`` did.

    Attributes:
        group: What was exported.
        format: As what.
        to: Where it is now.
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
    to: str | Path,
    format: Format | None = None,  # noqa: A002 - the name of the flag
    redo: bool = False,
    progress: Progress = SILENT,
) -> ExportSummary:
    """Write a result of a store to a file or a folder, which appears as a whole or not at all.

    Args:
        store: The cohort store.
        what: A group (``embeddings/giga``), or a kind that holds only one (``embeddings``, the default).
        to: The file or folder.
        progress: Progress receiver.

    Raises:
        NotFound: The store holds no such result, or a library for the format is not installed.
        InvalidInput: There are several results and none was named, the format does not go with it, or `to` is taken.
        Mismatch: A model's bank or tiles have been replaced.
    """
    started = time.monotonic()
    if "://" in str(to):
        raise InvalidInput(f"--to is {to}; a file or folder of this machine is written", "write it here, then copy it")
    opened, to = Store.open(store), Path(to)
    group = _group(opened, what)
    kind = group.partition("/")[0]
    written_as = _format(kind, to, config.format)
    check_free(to, folder=written_as not in FILES, redo=config.redo)
    if kind in ("models", "encoders"):
        check_free(card_of(to), folder=False, redo=config.redo)
        slides, empty, pending, warning = write_weights(opened, group, to), 0, 0, None
    else:
        chosen = Chosen.of(opened, group)
        warning = WRITERS[kind, written_as](chosen, to, progress)
        slides, empty, pending = len(chosen.rows), chosen.empty, chosen.pending
    return ExportSummary(
        group=group,
        format=written_as,
        to=str(to),
        slides=slides,
        empty=empty,
        pending=pending,
        bytes=size_of(to),
        warning=warning or "",
        seconds=time.monotonic() - started,
    )


def _group(store: Store, what: str | None) -> str:
    """The path of the group that is meant."""
    kind, slash, name = (what or "embeddings").strip("/").partition("/")
    there = [f"{k}/{n}" for k in KINDS if k != "tiles" for n in store.names(k)]
    there += ["tiles"] if store.recipe("tiles") else []
    if kind not in KINDS or (kind == "tiles" and slash):
        raise InvalidInput(
            f"{what!r} is nothing that can be exported",
            f"{store.url} has {', '.join(there)}" if there else f"{store.url} holds no results",
        )
    if kind == "tiles":
        store.require("tiles")
        return kind
    names = store.names(kind)
    if not name and len(names) > 1:
        raise InvalidInput(
            f"{store.url} holds several {kind}: {', '.join(names)}",
            f"name one: giga export {store.url} {kind}/{names[0]} --to ...",
        )
    return f"{kind}/{store.pick(kind, name or None)}"


def _format(kind: str, to: Path, given: Format | None) -> str:
    """The format, from what was given and from the name of the file."""
    formats, ending = formats_of(kind), to.suffix.lower().removeprefix(".")
    named = given or (ending if ending in FORMATS else None)
    if named is None and ending and not to.is_dir():
        raise InvalidInput(
            f"{to} ends in .{ending}, which is no format; {kind} can be {', '.join(formats)}",
            "for a folder of that name, give --format",
        )
    chosen = named or formats[0]
    if chosen not in formats:
        raise InvalidInput(f"{kind} cannot be written as {chosen}", f"they can be {', '.join(formats)}")
    if chosen in FILES and ending != chosen:
        raise InvalidInput(f"--to is {to}; {chosen} is one file", f"name it: --to {to.name or kind}.{chosen}")
    if chosen not in FILES and ending in FORMATS:
        raise InvalidInput(f"--to is {to}; {chosen} is a folder of files", f"name it: --to {to.stem} --format {chosen}")
    return chosen
