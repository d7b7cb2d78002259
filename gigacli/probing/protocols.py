"""Splits as others publish them: which names are on the training and the test side of each.

Read as they are: the authors' ``split_k.csv`` and CLAM's ``splits_k.csv``, columns ``train``, ``val`` and ``test`` that
list slides; CLAM's ``splits_k_bool.csv``, the same as columns of True and False; Patho-Bench's tables, a row per slide
and columns ``fold_0``, ``fold_1``, ... of the words train and test; and any one column of a table that holds these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gigacli.errors import InvalidInput, NotFound
from gigacli.tables import find_column, name_of, read_columns, require_column

if TYPE_CHECKING:
    from pandas import DataFrame

FOLD: Final = re.compile(r"fold_?\d+", re.IGNORECASE)
"""Columns of a table that say on which side of a split a row is."""

TRAIN, TEST = "train", "test"
SIDES: Final = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("val", "valid", "validation", "", "na", "nan", "none"), ""),
}
"""What such a column may say, in lower case; with "" a row is on neither side."""

_YES_NO: Final = {"true": True, "1": True, "false": False, "0": False, "": False}
_SHOWN: Final = 5


@dataclass(frozen=True)
class NamedSplit:
    """One split by names of slides or patients, as it was written."""

    source: str  # the file or the column, for messages
    train: tuple[str, ...]
    test: tuple[str, ...]
    unused: int  # names on neither side: those of the validation


def named_splits(source: str | Path | DataFrame) -> list[NamedSplit]:
    """Read splits from a folder of files, or from a table.

    Args:
        source: A folder of files `split_*.csv` or `splits_*.csv`, taken in natural order, `split_2` before
            `split_10`; or a table with columns `fold_0`, `fold_1`, ..., taken in that order; or one such file.

    Raises:
        NotFound: There is no such folder or table, or no such file in it.
        InvalidInput: A file lacks a column, or says something other than train and test.
    """
    if not isinstance(source, str | Path) or Path(source).is_file():
        table = read_columns(source, unnamed="slide_id")
        folds = sorted((column for column in table if FOLD.fullmatch(column)), key=_natural)
        return [split_of_column(table, column, source) for column in folds] or [_of_lists(table, name_of(source))]
    source = Path(source)
    files = sorted((f for pattern in ("split_*.csv", "splits_*.csv") for f in source.glob(pattern)), key=_natural_file)
    lists = {file.stem for file in files}
    files = [
        f for f in files if not f.stem.endswith("_descriptor") and f.stem.removesuffix("_bool") not in lists - {f.stem}
    ]
    if not files:
        raise NotFound(
            f"{source} {'has no files `split_*.csv`' if source.is_dir() else 'is not a folder and not a table'}",
            "Each split is a file split_0.csv, split_1.csv, ... with the columns train,test; or a column fold_0, "
            "fold_1, ... of one table.",
        )
    return [_of_lists(read_columns(file, unnamed="slide_id"), str(file)) for file in files]


def split_of_column(table: dict[str, list[str]], column: str, source: str | Path | DataFrame) -> NamedSplit:
    """The split that one column of a table makes of its rows.

    Args:
        table: Of :func:`read_columns`, with a column of slides or, where that is not there or empty, of patients.
        column: Holds `train` or `test`; rows with `val`, or nothing, are on neither side.
        source: Where the table came from, for messages.

    Raises:
        InvalidInput: There is no such column, or it says something else.
    """
    name = name_of(source)
    column = require_column(table, column, path=name)
    said = [cell.casefold() for cell in table[column]]
    strange = sorted({cell for cell, key in zip(table[column], said, strict=True) if key not in SIDES})
    if strange:
        found = ", ".join(map(repr, strange[:_SHOWN])) + " ..." * (len(strange) > _SHOWN)
        raise InvalidInput(f"{name}: the column {column!r} says {found}", "It should say train or test.")
    names, sides = _names(table, name), [SIDES[key] for key in said]
    train, test = (tuple(n for n, s in zip(names, sides, strict=True) if n and s == side) for side in (TRAIN, TEST))
    return NamedSplit(f"the column {column!r} of {name}", train, test, sides.count(""))


def _of_lists(table: dict[str, list[str]], source: str) -> NamedSplit:
    """A table that lists the names of both sides, or that says of each name on which side it is."""
    train, test = (table[require_column(table, side, path=source)] for side in (TRAIN, TEST))
    cells = {cell.casefold() for cell in (*train, *test)}
    if cells - {""} and cells <= set(_YES_NO):
        rows, total = _names(table, source), len(train)
        marked = [[_YES_NO[cell.casefold()] for cell in side] for side in (train, test)]
        train, test = ([name for name, yes in zip(rows, side, strict=True) if yes] for side in marked)
        unused = total - sum(map(sum, marked))
    else:
        validation = find_column(table, "val", path=source)
        train, test = [name for name in train if name], [name for name in test if name]
        unused = sum(map(bool, table[validation] if validation else []))
    return NamedSplit(source, tuple(train), tuple(test), unused)


def _names(table: dict[str, list[str]], source: str) -> Sequence[str]:
    """What the rows are about: slides, or patients where the table names no slide."""
    found = [find_column(table, kind, path=source) for kind in ("slide_id", "patient_id")]
    named = [column for column in found if column is not None and any(table[column])]
    return table[named[0] if named else require_column(table, "slide_id", path=source)]


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _natural_file(file: Path) -> list[int | str]:
    return _natural(file.stem)
