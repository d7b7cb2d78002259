"""Tables that people bring (labels, slides, splits): read as text, columns found under the names other tools use."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gigacli.errors import InvalidInput, NotFound, from_clone

if TYPE_CHECKING:
    from pandas import DataFrame

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

_SLIDES = {
    "svs",
    "tif",
    "tiff",
    "ndpi",
    "mrxs",
    "scn",
    "bif",
    "vms",
    "vmu",
    "svslide",
    "dcm",
    "czi",
    "isyntax",
    "sdpc",
    "qptiff",
}
EXTENSIONS: Final = frozenset(_SLIDES | {"zarr", "png", "jpg", "jpeg", "h5", "pt", "npy"})
"""What may follow a slide's id in a table: slide formats, and the feature files that STAMP and CLAM tables name."""


_SHOWN: Final = 5
_RAGGED: Final = "Every row needs as many cells as the header."
_TCGA_BARCODE: Final = re.compile(r"TCGA-(\w\w)-\w{4}")


def read_columns(table: str | Path | DataFrame, *, unnamed: str = "") -> dict[str, list[str]]:
    """Read a table: delimited text, a workbook, a Parquet file, or a DataFrame of pandas.

    Of text the header decides whether the delimiter is a comma, a semicolon or a tab; of a workbook (``.xlsx``) the
    first sheet is read, the values that formulas had when it was saved.

    Args:
        table: A UTF-8 file (with or without byte order mark) whose first row names the columns, a workbook, a Parquet
            file; or a DataFrame, whose index counts as a column where it has a name.
        unnamed: What to call a first column without a name, such as a saved index; default: it is left out.

    Returns:
        Name -> cells, one per non-empty line, every cell as stripped text (so `007` stays `007`, and a number that is
        whole has no decimals), missing cells as `""`. Columns without a name are left out.

    Raises:
        NotFound: There is no such file, or a package that reads it is not installed.
        InvalidInput: The table is empty, unreadable or ragged, has no header, two columns of one name, or no rows.
    """
    name = name_of(table)
    rows = _rows(table)
    header: list[str] = []
    cells: list[list[str]] = []
    for number, row in rows:
        if not header and (any(row) or len(row) > 1):  # the first line that is not blank
            header = [unnamed if unnamed and i == 0 and not cell else cell for i, cell in enumerate(row)]
            _check_header(header, name)
        elif any(row):
            if len(row) > len(header):
                found = f"Expected {len(header)} fields in line {number}, saw {len(row)}"
                raise InvalidInput(f"{name} is not a table: {found}", _RAGGED)
            cells.append(row + [""] * (len(header) - len(row)))
    if not header:
        raise InvalidInput(f"{name} is empty", "It should have a header and one row per slide.")
    named = [i for i, column in enumerate(header) if column]
    cells = [row for row in cells if any(row[i] for i in named)]
    if not cells:
        found = ", ".join(header[i] for i in named)
        raise InvalidInput(f"{name} has a header ({found}) but no rows", "Add one row per slide.")
    return {header[i]: [row[i] for row in cells] for i in named}


def name_of(table: str | Path | DataFrame) -> str:
    """What to call a table in a message: its path, or "the DataFrame"."""
    return str(table) if isinstance(table, str | Path) else "the DataFrame"


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


def _rows(table: str | Path | DataFrame) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, the header first, each with its number."""
    if not isinstance(table, str | Path):
        return enumerate(_rows_of_frame(table), 1)
    path = Path(table)
    if path.suffix.casefold() == ".xls":
        raise InvalidInput(f"{path} is a workbook of an old format", "Save it as .xlsx or as CSV.")
    read = {".xlsx": _rows_of_workbook, ".xlsm": _rows_of_workbook, ".parquet": _rows_of_parquet}
    reader = read.get(path.suffix.casefold())
    if reader is None:
        return _rows_of_text(path)
    if not path.exists():
        raise _no_such_file(path)
    return enumerate(reader(path), 1)


def _rows_of_text(path: Path) -> Iterator[tuple[int, list[str]]]:
    text = read_text(path)
    header = next(iter(text.lstrip().splitlines()), "")
    delimiter = max(",;\t", key=header.count)
    lines = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in lines:
            yield lines.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise InvalidInput(f"{path} is not a table: {error}", _RAGGED) from error


def _rows_of_workbook(path: Path) -> Iterator[list[str]]:
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise NotFound(
            f"{path}: to read a workbook needs openpyxl", f"{from_clone('xlsx')}; or save it as CSV"
        ) from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows = [[_text(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except Exception as error:  # a damaged or encrypted workbook fails in a dozen ways
        raise InvalidInput(f"{path} cannot be read as a workbook: {error}", "Save the table as CSV (UTF-8).") from error
    widest = max((len(row) for row in rows), default=0)
    yield from (row + [""] * (widest - len(row)) for row in rows if any(row))


def _rows_of_parquet(path: Path) -> Iterator[list[str]]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise NotFound(
            f"{path}: to read Parquet needs pyarrow", f"{from_clone('parquet')}; or save it as CSV"
        ) from None
    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as Parquet: {error}", "Save the table as CSV (UTF-8).") from error
    named = {name: cells for name, cells in columns.items() if not name.startswith("__index_level_")}  # pandas' index
    yield list(named)
    yield from ([_text(cell) for cell in row] for row in zip(*named.values(), strict=True))


def _rows_of_frame(frame: DataFrame) -> Iterator[list[str]]:
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    yield [str(name).strip() for name in frame.columns]
    for row, missing in zip(frame.to_numpy(dtype=object), frame.isna().to_numpy(), strict=True):
        yield ["" if none else _text(cell) for cell, none in zip(row, missing, strict=True)]


def _text(cell: Any) -> str:
    """A cell as text: nothing where it is missing; a number that is whole without decimals."""
    if cell is None or cell != cell:
        return ""
    fraction = isinstance(cell, Real) and not isinstance(cell, Integral)
    return str(int(cell)) if fraction and float(cell).is_integer() else str(cell).strip()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without byte order mark.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except UnicodeDecodeError:
        raise InvalidInput(
            f"{path} is not UTF-8 text", "Save the table as CSV (UTF-8), or call a workbook .xlsx."
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "Give a CSV file.") from error


def _no_such_file(path: Path) -> NotFound:
    return NotFound(f"{path}: no such file", f"Looked in {path.absolute().parent}.")


def _check_header(names: list[str], table: str) -> None:
    # A name without a letter is a value: a table whose first row has none starts with its first slide.
    if not any(character.isalpha() for name in names for character in name):
        raise InvalidInput(f"{table} has no header: its first row is {_listed(names)}", "Add a row of column names.")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InvalidInput(f"{table} has more than one column named {_listed(twice)}", "Rename or remove the others.")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(str(name)) for name in names)
