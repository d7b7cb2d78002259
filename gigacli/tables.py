"""Tables that people bring (labels, slides, splits): read as text, columns found under the names other tools use."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from gigacli.errors import InvalidInput, NotFound

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "slide_id": ("slide", "wsi", "wsi_id", "sample_id", "filename", "id"),
    "patient_id": ("case_id", "patient", "case"),
    "label": (),
    "path": ("image_path", "wsi_path", "slide_path", "file_path", "filepath", "filename", "file", "wsi", "slide"),
    "mpp": ("spacing_at_level_0",),
    "mask": ("mask_path",),
}
"""Our name of a column -> the names under which it is accepted too, in lower case, the most specific first (those of
CLAM, STAMP, TRIDENT, slide2vec and the authors' tables). `wsi`, `slide` and `filename` hold a path in a list of slides
and an id in a table of labels: whoever reads paths looks for `path` first and drops that column before looking for
`slide_id`."""

_SLIDES = {"svs", "tif", "tiff", "ndpi", "mrxs", "scn", "bif", "vms", "vmu", "svslide", "dcm", "czi", "isyntax", "sdpc"}
EXTENSIONS: Final = frozenset(_SLIDES | {"zarr", "png", "jpg", "jpeg", "h5", "pt", "npy"})
"""What may follow a slide's id in a table: slide formats, and the feature files that STAMP and CLAM tables name."""


_SHOWN: Final = 5
_TCGA_BARCODE: Final = re.compile(r"TCGA-(\w\w)-\w{4}")


def read_columns(path: str | Path) -> dict[str, list[str]]:
    """Read a delimited text file; the header decides whether the delimiter is a comma, a semicolon or a tab.

    Args:
        path: A UTF-8 file (with or without byte order mark) whose first row names the columns.

    Returns:
        Name -> cells, one per non-empty line, every cell as stripped text (so `007` stays `007`), missing cells as
        `""`. Columns without a name, such as a saved row index, are left out.

    Raises:
        NotFound: There is no such file.
        InvalidInput: The file is empty, unreadable or ragged, has no header, two columns of one name, or no rows.
    """
    path = Path(path)
    text = _read_text(path)
    if not text.strip():
        raise InvalidInput(f"{path} is empty", "It should have a header and one row per slide.")
    header = text.lstrip().splitlines()[0]
    delimiter = max(",;\t", key=header.count)
    lines = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        for cells in lines:
            row = [cell.strip() for cell in cells]
            if not names and (any(row) or len(row) > 1):  # the first line that is not blank
                names = row
                _check_header(names, path)
            elif any(row):
                if len(row) > len(names):
                    raise csv.Error(f"Expected {len(names)} fields in line {lines.line_num}, saw {len(row)}")
                rows.append(row + [""] * (len(names) - len(row)))
    except csv.Error as error:
        raise InvalidInput(f"{path} is not a table: {error}", "Every row needs as many cells as the header.") from error
    named = [i for i, name in enumerate(names) if name]
    rows = [row for row in rows if any(row[i] for i in named)]
    if not rows:
        found = ", ".join(names[i] for i in named)
        raise InvalidInput(f"{path} has a header ({found}) but no rows", "Add one row per slide.")
    return {names[i]: [row[i] for row in rows] for i in named}


def find_column(table: Iterable[Any], canonical: str, *, path: str | Path) -> str | None:
    """Find the column that holds what we call `canonical`, whatever its case or its synonym in the table.

    Args:
        table: From :func:`read_columns`: what names its columns when iterated over.
        canonical: Our name, a key of :data:`SYNONYMS` or any other name, which then has no synonyms.
        path: Where the table came from, for messages.

    Returns:
        The column's name in `table`, or None. Our own name wins, then the synonyms in their order.

    Raises:
        InvalidInput: Two columns could be meant, as their names differ in case only.
    """
    for name in (canonical, *SYNONYMS.get(canonical, ())):
        found = [str(column) for column in table if str(column).casefold() == name.casefold()]
        if name in found:
            return name
        if len(found) > 1:
            raise InvalidInput(f"{path}: the columns {_listed(found)} differ only in case", "Rename one of them.")
        if found:
            return found[0]
    return None


def require_column(table: Iterable[Any], canonical: str, *, path: str | Path) -> str:
    """Find a column as :func:`find_column` does.

    Raises:
        InvalidInput: There is none; the message lists the columns there are.
    """
    found = find_column(table, canonical, path=path)
    if found is None:
        accepted = _listed((canonical, *SYNONYMS.get(canonical, ())))
        raise InvalidInput(
            f"{path} has no column {canonical!r}: found {_listed(table)}; accepted, in any case: {accepted}",
            f"Name one column {canonical!r}. If the names found are values, the header row is missing.",
        )
    return found


def bare_id(name: str) -> str:
    """Return `name` without folders and without a known file extension: `a/S1.svs` -> `S1`, `S1.x` -> `S1.x`."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, extension = name.rpartition(".")
    return stem if stem and extension.casefold() in EXTENSIONS else name


def refuse_missing(
    names: Sequence[str], *, among: Iterable[str], said: str, allow: bool, hint: str = "correct them"
) -> str:
    """Refuse a list that names what is not there, unless that is allowed.

    Args:
        names: The names that were not found.
        among: Those that could have been meant.
        said: What is wrong with them, after their number: "of the 5 slides of test.csv are not in the store".
        allow: Whether to go on without them.
        hint: What to do about it, other than to allow it.

    Returns:
        The names in a sentence, to be shown; "" where everything was found.

    Raises:
        NotFound: There are such names, and they are not allowed.
    """
    if not names:
        return ""
    once = list(dict.fromkeys(names))
    text = f"{len(names)} {said}: {_listed(once[:_SHOWN])}{' ...' * (len(once) > _SHOWN)}"
    text += "".join(f"; {alike}" for alike in [differ_in_capitals(once, among)] if alike)
    if not allow:
        raise NotFound(text, f"{hint}; `allow_missing=True` leaves them out")
    return text


def differ_in_capitals(names: Iterable[str], among: Iterable[str]) -> str:
    """Say which names would be found if capitals did not matter, "" where none would; folders and extensions do not."""
    known = {bare_id(name).casefold(): name for name in among}
    alike = [(name, known.get(bare_id(name).casefold(), name)) for name in names]
    alike = [(name, other) for name, other in alike if bare_id(name) != bare_id(other)]
    first = ", ".join(f"{name!r} is {other!r} there" for name, other in alike[:_SHOWN])
    return f"{len(alike)} differ in capitals only: {first}" if alike else ""


def tcga_patient(slide_id: str) -> str:
    """Return the patient, the first 12 characters, of a slide id that begins with a TCGA barcode; of others ""."""
    barcode = _TCGA_BARCODE.match(slide_id)
    return barcode[0] if barcode else ""


def tcga_site(slide_id: str) -> str:
    """Return the tissue source site, the second field, of a slide id that begins with a TCGA barcode; of others ""."""
    barcode = _TCGA_BARCODE.match(slide_id)
    return barcode[1] if barcode else ""


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", f"Looked in {path.absolute().parent}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(
            f"{path} is not UTF-8 text", "Save the table as CSV (UTF-8); workbooks are not read."
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "Give a CSV file.") from error


def _check_header(names: list[str], path: Path) -> None:
    # A name without a letter is a value: a table whose first row has none starts with its first slide.
    if not any(character.isalpha() for name in names for character in name):
        raise InvalidInput(f"{path} has no header: its first row is {_listed(names)}", "Add a row of column names.")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InvalidInput(f"{path} has more than one column named {_listed(twice)}", "Rename or remove the others.")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(str(name)) for name in names)
