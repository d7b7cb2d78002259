"""Registration of slides: files, folders and tables become rows of the slide table."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gigacli.cohort.discovery import find_slides, slide_id_of
from gigacli.errors import InvalidInput, NotFound, reason_of
from gigacli.progress import SILENT, Progress
from gigacli.store.table import SlideRow, SlideTable
from gigacli.tables import bare_id, find_column, read_columns, refuse_missing, tcga_patient
from gigacli.wsi.advice import flat_slides
from gigacli.wsi.patches import open_slide
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide_files import size_and_time


@dataclass(frozen=True)
class Registration:
    """Slide table as it should be, and why slides of it cannot be used."""

    table: SlideTable  # all slides; those that were registered come first and keep their rows
    reasons: dict[int, str]  # reason per row that was looked at, "" where nothing is wrong


@dataclass(frozen=True)
class _Candidate:
    """A slide file as the user named it, with what tables say of it."""

    path: Path
    id: str
    mpp: float | None = None
    patient: str = ""
    mask: str = ""
    option_mpp: float | None = None  # `slide_mpp` of an earlier run

    @classmethod
    def of(cls, row: SlideRow) -> _Candidate:
        """Make a candidate of a registered slide; what a user said of it is kept."""
        of_table = row.mpp if row.mpp_source == "csv" else None
        option = row.mpp if row.mpp_source == "option" else None
        return cls(Path(row.path), row.id, of_table, row.patient, row.mask, option)


def register(
    known: SlideTable | None,
    paths: Sequence[Path],
    *,
    csv: Path | None = None,
    slide_mpp: float | None = None,
    tile_mpp: float = 0.0,
    slide_root: Path | None = None,
    allow_missing: bool = False,
    redo: bool = False,
    only: Collection[str] = (),
    add: bool = True,
    progress: Progress = SILENT,
) -> Registration:
    """Look at the headers of new slides, and again at those that could not be used.

    Args:
        known: The slides that are registered; None in a new store.
        paths: Slide files, folders and tables of slides.
        csv: One more table of slides.
        slide_mpp: Microns per pixel of slides that do not state them.
        tile_mpp: Those of the tiles, which slides may be as coarse as.
        slide_root: Folder to look in for slides that are not where they were.
        allow_missing: Whether tables may name slides that are not there, which are left out and said.
        redo: Look at every slide again, and take what tables say now.
        only: Slides to look at again, where it is not all of them.
        add: Whether slides may be registered; if not, registered ones are looked at and the table stays as it is.
        progress: Receives progress.

    Raises:
        NotFound: A path does not exist, there is no slide in it, or a table names slides that are not there.
        InvalidInput: Two files of one id, a table that cannot be used, or a new slide where none may be added.
    """
    known = known if known is not None else SlideTable(())
    tables = [p for p in paths if p.suffix.lower() in (".csv", ".tsv")] + ([csv] if csv else [])
    files = [p for p in paths if p not in tables]
    known, moved = _find_moved(known, slide_root)
    found = find_slides(files, progress=progress) if files else []
    candidates = [_Candidate(path.absolute(), slide_id_of(path)) for path in found]
    candidates = _merge(known, candidates, tables, allow_missing=allow_missing, progress=progress)
    _refuse_duplicates(candidates)
    if not add:
        return _look_again(known, candidates, slide_mpp, tile_mpp)
    rows, reasons, flat = [], {}, dict[str, int]()
    named = {c.id for c in candidates}
    old = [row for row in known.rows if row.id not in named and (not only or row.id in only)]
    again = [_Candidate.of(row) for row in old if redo or not row.usable]
    todo = [c for c in [*candidates, *again] if _must_be_read(known, c, redo=redo and (not only or c.id in only))]
    progress.start("registering", len(todo))
    for candidate in todo:
        row, reasons[candidate.id], flat[candidate.id] = _read_header(candidate, slide_mpp, tile_mpp)
        rows.append(row)
        progress.advance()
    table = known.with_rows(rows)
    here = {row.id: Path(row.path).exists() for row in known.rows}
    reasons |= {row.id: file_problem(row) for row in known.rows if here[row.id] and row.id not in reasons}
    lost = sum(bool(row.path) and not here[row.id] for row in known.rows)
    if lost:
        progress.say(f"{lost} registered slides are not where they were; `slide_root` finds them again")
    if moved:
        progress.say(f"{moved} slides were found again below {slide_root}")
    if text := flat_slides({name: px for name, px in flat.items() if not reasons[name]}):
        progress.say(text)
    told = {c.id for c in candidates if c.patient}
    barcodes = sum(bool(row.patient) and row.id not in told and row.id not in known.index for row in rows)
    if barcodes:
        progress.say(f"patients of {barcodes} slides taken from their TCGA barcodes")
    return Registration(table, {table.index[k]: why for k, why in reasons.items()})


def file_problem(row: SlideRow) -> str:
    """Return what is wrong with a registered file now, "" if nothing is: it must be there, of the size it had.

    Another modification time alone is what copying does to a file; it is not held against it.
    """
    if not row.path:
        return "its slide file is not known; name it in a table: giga import STORE FILES --csv slides.csv"
    try:
        size, _ = size_and_time(Path(row.path))
    except OSError:
        return f"{row.path} is not there; if it was moved: giga tile STORE --slide-root FOLDER"
    if row.file_bytes in (-1, size):
        return ""
    return (
        f"{row.path} has changed since it was registered: {row.file_bytes} bytes then, {size} now; "
        f"giga tile STORE --redo --slide {shlex.quote(row.id)} takes it as it is"
    )


def _find_moved(known: SlideTable, root: Path | None) -> tuple[SlideTable, int]:
    """Look below `root` for slides that are not where they were registered, by name and size."""
    lost = [row for row in known.rows if not Path(row.path).exists()]
    if root is None or not lost:
        return known, 0
    if not root.is_dir():
        raise NotFound(f"`slide_root` is {root}, which is not a folder")
    wanted = {Path(row.path).name for row in lost}
    places: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.name in wanted:
            places.setdefault(path.name, []).append(path.absolute())
    found = []
    for row in lost:
        same = [p for p in places.get(Path(row.path).name, []) if row.file_bytes in (-1, size_and_time(p)[0])]
        if len(same) > 1:
            files = ", ".join(str(p) for p in same[:3])
            raise InvalidInput(f"slide {row.id!r} may be any of {files}", "name a `slide_root` that holds one of them")
        found += [replace(row, path=str(p)) for p in same]
    return known.with_rows(found), len(found)


def _merge(
    known: SlideTable,
    candidates: Sequence[_Candidate],
    tables: Sequence[Path],
    *,
    allow_missing: bool = False,
    progress: Progress = SILENT,
) -> list[_Candidate]:
    """Add what tables say: a row with a path is a slide, a row without one completes the slide of its id."""
    merged: dict[Path | str, _Candidate] = {c.path: c for c in candidates}  # by id where a path is not known
    by_id: dict[str, _Candidate] = {}  # empty when it must be made anew
    for file in tables:
        missing = []
        cells = read_columns(file)
        columns = {name: find_column(cells, name, path=file) for name in ("path", "mpp", "patient_id", "mask")}
        columns["slide_id"] = find_column([c for c in cells if c != columns["path"]], "slide_id", path=file)
        if not columns["path"] and not columns["slide_id"]:
            raise InvalidInput(f"{file} has no column path or slide_id; it has {', '.join(cells)}", "add a column path")
        rows = len(next(iter(cells.values())))
        for i in range(rows):
            row = {name: cells[column][i] if column else "" for name, column in columns.items()}
            mpp, mask = _mpp(row["mpp"], file), _mask(row["mask"], file)
            said: dict[str, Any] = {"mpp": mpp, "patient": row["patient_id"], "mask": mask}
            if row["path"]:
                path = (file.parent / row["path"]).absolute()
                if not path.exists():
                    missing.append(row["path"])
                    continue
                by_id, candidate = {}, _Candidate(path, row["slide_id"] or slide_id_of(path), **said)
            else:
                slide_id = bare_id(row["slide_id"])
                by_id = by_id or {c.id: c for c in reversed(merged.values())}
                if slide_id not in by_id and slide_id not in known.index:
                    missing.append(slide_id)
                    continue
                candidate = by_id.get(slide_id) or _Candidate.of(known[known.index[slide_id]])
                candidate = replace(candidate, **{name: value for name, value in said.items() if value})
                by_id[slide_id] = candidate
            key = candidate.path if candidate.path.name else candidate.id
            merged.pop(key, None)  # what a table names comes last
            merged[key] = candidate
        among = [*known.ids, *(c.id for c in merged.values())]
        problem = f"of {rows} slides that {file} names are not there"
        hint = f"correct them: paths start at {file.parent.absolute()}, ids without one are of slides that were named"
        if text := refuse_missing(missing, among=among, said=problem, allow=allow_missing, hint=hint):
            progress.say(text)
    return list(merged.values())


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


def _refuse_duplicates(candidates: Sequence[_Candidate]) -> None:
    twice = [name for name, n in Counter(c.id for c in candidates).items() if n > 1]
    if twice:
        files = ", ".join(str(c.path) for c in candidates if c.id == twice[0])
        hint = "name them apart in a CSV with columns path,slide_id and give it as `csv`"
        raise InvalidInput(f"{len(twice)} slide ids stand for several files; {twice[0]!r} is {files}", hint)


def _must_be_read(known: SlideTable, candidate: _Candidate, *, redo: bool) -> bool:
    """Whether a slide's header must be read: it is new, could not be used, has moved, or gets another resolution."""
    if candidate.id not in known.index:
        return True
    row = known[known.index[candidate.id]]
    if not row.usable:
        return True
    if Path(row.path) != candidate.path and Path(row.path).exists() and not candidate.path.samefile(row.path):
        raise InvalidInput(
            f"slide id {candidate.id!r} is registered for {row.path}, and was now given for {candidate.path}",
            "name it differently in a CSV with columns path,slide_id",
        )
    if candidate.mpp is not None and not np.isclose(candidate.mpp, row.mpp, rtol=1e-9) and not redo:
        raise InvalidInput(
            f"slide {candidate.id!r} is registered with {row.mpp:g} microns per pixel ({row.mpp_source}), the table "
            f"says {candidate.mpp:g}",
            "tile the cohort again with `redo` to take the new value",
        )
    if candidate.mask != row.mask and candidate.mask and not redo:
        raise InvalidInput(
            f"slide {candidate.id!r} is registered with the mask {row.mask or 'none'}, the table says {candidate.mask}",
            "tile the cohort again with `redo` to take the new mask",
        )
    return redo or Path(row.path) != candidate.path or (bool(candidate.patient) and row.patient != candidate.patient)


def _read_header(candidate: _Candidate, slide_mpp: float | None, tile_mpp: float) -> tuple[SlideRow, str, int]:
    """Return a slide's row from its header, why it cannot be used, "" if it can, and its pixels if it is flat."""
    patient = candidate.patient or tcga_patient(candidate.id)
    row = SlideRow(id=candidate.id, path=str(candidate.path), patient=patient, mask=candidate.mask)
    flat_px = 0
    option = slide_mpp if slide_mpp is not None else candidate.option_mpp
    try:
        size, modified_ns = size_and_time(candidate.path)
        row = replace(row, file_bytes=size, modified_ns=modified_ns)
        with open_slide(candidate.path) as slide:
            row = replace(row, vendor=slide.vendor, size_px=slide.size_px)
            flat_px = slide.flat_px
            resolution = resolve_mpp(slide.properties, csv_mpp=candidate.mpp, slide_mpp=option, tile_mpp=tile_mpp)
    except Exception as error:
        return row, reason_of(error), flat_px
    return replace(row, mpp=resolution.mpp, mpp_source=resolution.source), "", flat_px


def _look_again(
    known: SlideTable, candidates: Sequence[_Candidate], slide_mpp: float | None, tile_mpp: float
) -> Registration:
    """Find out again why registered slides cannot be used, without changing the table."""
    unknown = [c.id for c in candidates if c.id not in known.index]
    if unknown:
        raise InvalidInput(
            f"{len(unknown)} slides are not registered, for example {unknown[0]}; a shard registers none",
            "run once without `shard` but with `plan`",
        )
    lacking = [i for i, row in enumerate(known.rows) if not row.usable]
    unusable = {i: _read_header(_Candidate.of(known[i]), slide_mpp, tile_mpp)[1] for i in lacking}
    return Registration(known, {i: why or "run giga tile without --shard once" for i, why in unusable.items()})
