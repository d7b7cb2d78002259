"""Which slides a cohort has: files, folders and tables become rows of the slide table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.cohort.discovery import find_slides, slide_id_of
from gigacli.errors import InvalidInput, NotFound, reason_of
from gigacli.store.address import is_remote
from gigacli.store.table import SlideRow, SlideTable
from gigacli.tables import bare_id, find_column, read_table
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide import Slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gigacli.config.verbs import TileConfig
    from gigacli.progress import Progress

TCGA_BARCODE = re.compile(r"TCGA-\w\w-\w{4}")
"""A slide id that begins so names its patient in the first 12 characters."""


@dataclass(frozen=True)
class Registration:
    """The slide table as it should be, and why a slide of it cannot be used.

    Attributes:
        table: All slides; those that were registered come first and keep their rows.
        reasons: Reason per row that was looked at, "" where nothing is wrong.
    """

    table: SlideTable
    reasons: dict[int, str]


@dataclass(frozen=True)
class _Entry:
    """One slide as the user named it."""

    path: Path
    id: str
    mpp: float | None = None
    patient: str = ""
    mask: str = ""
    option_mpp: float | None = None  # --slide-mpp of an earlier run

    @property
    def file(self) -> str:
        """What tells its file from others; of a slide that was imported, whose file is not known, the id does."""
        return str(self.path) if self.path.name else f"id {self.id}"

    @classmethod
    def of(cls, row: SlideRow) -> _Entry:
        """A registered slide, to be looked at again: what a user said of it stays said."""
        said = row.mpp if row.mpp_source == "csv" else None
        option = row.mpp if row.mpp_source == "option" else None
        return cls(Path(row.path), row.id, said, row.patient, row.mask, option)


def register(known: SlideTable | None, paths: list[Path], config: TileConfig, progress: Progress) -> Registration:
    """Look at the headers of new slides, and again at those that could not be used.

    Args:
        known: The slides that are registered.
        paths: Slide files, folders and tables of slides.
        config: Holds the table (``csv``) and the resolution of slides without one (``slide_mpp``).
        progress: Who listens.

    Raises:
        NotFound: A path does not exist, or there is no slide in it.
        InvalidInput: Two files of one id, or a table that cannot be used.
    """
    known = known if known is not None else SlideTable(())
    tables = [p for p in paths if p.suffix.lower() in (".csv", ".tsv")] + ([config.csv] if config.csv else [])
    files = [p for p in paths if p not in tables]
    known, moved = _find_moved(known, config.slide_root)
    found = find_slides(files) if files else []
    entries = _merge(known, [_Entry(path.absolute(), slide_id_of(path)) for path in found], tables)
    _refuse_duplicates(entries)
    if config.shard is not None:
        unknown = [e.id for e in entries if e.id not in known.index]
        if unknown:
            raise InvalidInput(
                f"{len(unknown)} slides are not registered, for example {unknown[0]}; a shard registers none",
                "run once without --shard but with --plan",
            )
        return Registration(known, _reasons(known, config))
    rows, reasons = [], {}
    named = {e.id for e in entries}
    again = [_Entry.of(row) for row in known.rows if row.id not in named and (config.redo or not row.usable)]
    todo = [e for e in [*entries, *again] if _is_news(known, e, config)]
    progress.start("registering", len(todo))
    for entry in todo:
        row, reasons[entry.id] = _row(entry, config)
        rows.append(row)
        progress.advance()
    table = known.with_rows(rows)
    here = [row for row in known.rows if row.id not in reasons and Path(row.path).exists()]
    reasons |= {row.id: changed(row) for row in here}
    lost = sum(bool(row.path) and not Path(row.path).exists() for row in known.rows)
    if lost:
        progress.say(f"{lost} registered slides are not where they were; --slide-root FOLDER finds them again")
    if moved:
        progress.say(f"{moved} slides were found again below {config.slide_root}")
    _announce([row for row in rows if row.id not in known.index], entries, progress)
    return Registration(table, {table.index[k]: why for k, why in reasons.items()})


def changed(row: SlideRow) -> str:
    """What is wrong with a registered file now, "" if nothing is: it must be there and of the size it had.

    Another modification time alone is what copying does to a file; it is not held against it.
    """
    if not row.path:
        return "its slide file is not known; name it in a table: giga import STORE FILES --csv slides.csv"
    try:
        size = Path(row.path).stat().st_size
    except OSError:
        return f"{row.path} is not there; if it was moved: giga tile STORE --slide-root FOLDER"
    if row.file_bytes in (-1, size):
        return ""
    return (
        f"{row.path} has changed since it was registered: {row.file_bytes} bytes then, {size} now; "
        "giga tile STORE --redo takes it as it is"
    )


def list_missing_mpp(url: str, table: SlideTable) -> str:
    """Write a table of the slides without a usable resolution, ready to be completed.

    It lies beside a local store, and of a remote one in the current folder: it names files of this machine.

    Returns:
        Its path, "" where there is nothing to complete.
    """
    missing = [row for row in table.rows if row.size_px[0] > 0 and not row.usable]
    if not missing:
        return ""
    path = Path(PurePosixPath(url).name if is_remote(url) else url).with_suffix(".missing-mpp.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "slide_id", "mpp"])
        writer.writerows([row.path, row.id, ""] for row in missing)
    return str(path)


def _find_moved(known: SlideTable, root: Path | None) -> tuple[SlideTable, int]:
    """Look below `root` for slides that are not where they were registered, by name and size."""
    lost = [row for row in known.rows if not Path(row.path).exists()]
    if root is None or not lost:
        return known, 0
    if not root.is_dir():
        raise NotFound(f"--slide-root is {root}, which is not a folder")
    wanted = {Path(row.path).name for row in lost}
    places: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.name in wanted:
            places.setdefault(path.name, []).append(path.absolute())
    found = []
    for row in lost:
        same = [p for p in places.get(Path(row.path).name, []) if row.file_bytes in (-1, p.stat().st_size)]
        if len(same) > 1:
            files = ", ".join(str(p) for p in same[:3])
            raise InvalidInput(f"slide {row.id!r} may be any of {files}", "name a --slide-root that holds one of them")
        found += [replace(row, path=str(p)) for p in same]
    return known.with_rows(found), len(found)


def _merge(known: SlideTable, entries: list[_Entry], tables: Sequence[Path]) -> list[_Entry]:
    """Add what tables say: a row with a path is a slide, a row without one completes the slide of its id."""
    named = {entry.file: entry for entry in entries}
    files = {entry.id: entry.file for entry in reversed(entries)}  # of two slides of one id the first
    for file in tables:
        table = read_table(file)
        columns = {name: find_column(table, name, path=file) for name in ("path", "mpp", "patient_id", "mask")}
        rest = table.drop(columns=[columns["path"]]) if columns["path"] else table
        columns["slide_id"] = find_column(rest, "slide_id", path=file)
        if not columns["path"] and not columns["slide_id"]:
            found = ", ".join(str(c) for c in table.columns)
            raise InvalidInput(f"{file} has no column path or slide_id; it has {found}", "add a column path")
        for _, cells in table.iterrows():
            row = {name: str(cells[column]) if column else "" for name, column in columns.items()}
            said: dict[str, Any] = {
                "mpp": _mpp(row["mpp"], file),
                "patient": row["patient_id"],
                "mask": _mask(row["mask"], file),
            }
            if row["path"]:
                path = (file.parent / row["path"]).absolute()
                if not path.exists():
                    raise NotFound(f"{file} names {row['path']}, which does not exist", f"looked for {path}")
                entry = _Entry(path, row["slide_id"] or slide_id_of(path), **said)
            else:
                slide_id = bare_id(row["slide_id"])
                entry = _completed(known, named.get(files.get(slide_id, "")), slide_id, said, file)
            named.pop(entry.file, None)  # it goes to the end
            named[entry.file] = entry
            files[entry.id] = entry.file
    return list(named.values())


def _completed(known: SlideTable, entry: _Entry | None, slide_id: str, said: dict[str, Any], file: Path) -> _Entry:
    """A slide that was named or registered, with what a row of a table says of it."""
    if entry is None or entry.id != slide_id:
        if slide_id not in known.index:
            raise NotFound(f"{file} names slide {slide_id!r}, which is not among the slides", "add a column path")
        entry = _Entry.of(known[known.index[slide_id]])
    return replace(entry, **{name: value for name, value in said.items() if value})


def _mask(text: str, file: Path) -> str:
    if not text:
        return ""
    path = (file.parent / text).absolute()
    if not path.is_file():
        raise NotFound(f"{file} names the mask {text}, which does not exist", f"looked for {path}")
    return str(path)


def _mpp(text: str, file: Path) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{file}: column mpp holds {text!r}, expected a number of microns per pixel") from None


def _refuse_duplicates(entries: Sequence[_Entry]) -> None:
    twice = [name for name, n in Counter(e.id for e in entries).items() if n > 1]
    if twice:
        files = ", ".join(str(e.path) for e in entries if e.id == twice[0])
        raise InvalidInput(
            f"{len(twice)} slide ids stand for several files; {twice[0]!r} is {files}",
            "name them apart in a CSV with columns path,slide_id and give it with --csv",
        )


def _is_news(known: SlideTable, entry: _Entry, config: TileConfig) -> bool:
    """Whether a slide must be looked at: it is new, could not be used, has moved, or gets another resolution."""
    if entry.id not in known.index:
        return True
    row = known[known.index[entry.id]]
    if not row.usable:
        return True
    if Path(row.path) != entry.path and Path(row.path).exists() and not entry.path.samefile(row.path):
        raise InvalidInput(
            f"slide id {entry.id!r} is registered for {row.path}, and was now given for {entry.path}",
            "name it differently in a CSV with columns path,slide_id",
        )
    if entry.mpp is not None and not np.isclose(entry.mpp, row.mpp, rtol=1e-9) and not config.redo:
        raise InvalidInput(
            f"slide {entry.id!r} is registered with {row.mpp:g} microns per pixel ({row.mpp_source}), the table says "
            f"{entry.mpp:g}",
            "tile the cohort again with --redo to take the new value",
        )
    if entry.mask != row.mask and entry.mask and not config.redo:
        raise InvalidInput(
            f"slide {entry.id!r} is registered with the mask {row.mask or 'none'}, the table says {entry.mask}",
            "tile the cohort again with --redo to take the new mask",
        )
    return config.redo or Path(row.path) != entry.path or (bool(entry.patient) and row.patient != entry.patient)


def _row(entry: _Entry, config: TileConfig) -> tuple[SlideRow, str]:
    """A slide's row from its header, and the reason why it cannot be used, "" if it can."""
    patient = entry.patient or (entry.id[:12] if TCGA_BARCODE.match(entry.id) else "")
    row = SlideRow(id=entry.id, path=str(entry.path), patient=patient, mask=entry.mask)
    option = config.slide_mpp if config.slide_mpp is not None else entry.option_mpp
    try:
        stat = entry.path.stat()
        row = replace(row, file_bytes=stat.st_size, modified_ns=stat.st_mtime_ns)
        with Slide(entry.path) as slide:
            row = replace(row, vendor=slide.vendor, size_px=slide.size_px)
            resolution = resolve_mpp(slide.properties, csv_mpp=entry.mpp, slide_mpp=option)
    except Exception as error:
        return row, reason_of(error)
    return replace(row, mpp=resolution.mpp, mpp_source=resolution.source), ""


def _reasons(known: SlideTable, config: TileConfig) -> dict[int, str]:
    """Why registered slides cannot be used, found out again without changing the table."""
    unusable = [(i, _Entry.of(row)) for i, row in enumerate(known.rows) if not row.usable]
    return {i: _row(entry, config)[1] or "run giga tile without --shard once" for i, entry in unusable}


def _announce(rows: Sequence[SlideRow], entries: Sequence[_Entry], progress: Progress) -> None:
    named = {e.id for e in entries if e.patient}
    barcodes = [r.id for r in rows if r.patient and r.id not in named]
    if barcodes:
        progress.say(f"patients of {len(barcodes)} slides taken from their TCGA barcodes")
