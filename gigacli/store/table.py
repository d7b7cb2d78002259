"""The slide table: row i of every array in the store is slide i of this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from gigacli.config.base import fingerprint


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One registered slide, known from its header alone."""

    id: str  # unique in the store; text
    path: str  # where the slide file is, "" where an import does not say
    patient: str = ""  # patient identifier, "" where unknown
    vendor: str = ""  # name of the format, by OpenSlide or by giga, "" for a file that could not be opened
    size_px: tuple[int, int] = (-1, -1)  # width and height at level 0, -1 for a file that could not be opened
    mpp: float = float("nan")  # microns per level-0 pixel, NaN where unresolved
    mpp_source: str = ""  # csv, ome, openslide, tiff, objective, option, import or nominal; "" where unresolved
    file_bytes: int = -1  # size of the file when it was registered, -1 for a file that could not be opened
    modified_ns: int = -1  # its last change before that, nanoseconds since 1970, -1 for a file that could not be opened
    mask: str = ""  # path of a tissue mask that was given for the slide, "" for none

    @property
    def usable(self) -> bool:
        """Whether its size and resolution are known."""
        return self.size_px[0] > 0 and bool(np.isfinite(self.mpp))

    def tiles_differ(self, now: SlideRow) -> bool:
        """Whether a slide's tiles would be others now: it got another resolution, mask or content."""
        names = ("mpp", "size_px", "mask", "file_bytes")
        return self.usable and any(getattr(self, name) != getattr(now, name) for name in names)


DTYPES = {"mpp": np.float64, "file_bytes": np.int64, "modified_ns": np.int64}
COLUMNS = tuple(f.name for f in fields(SlideRow))


@dataclass(frozen=True)
class SlideTable:
    """All registered slides, in the order of registration."""

    rows: tuple[SlideRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> SlideRow:
        return self.rows[index]

    @cached_property
    def ids(self) -> list[str]:
        """Slide ids, one per row."""
        return [row.id for row in self.rows]

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each slide id."""
        return {row.id: i for i, row in enumerate(self.rows)}

    def ids_bound(self, n: int) -> dict[str, Any]:
        """What binds rows to slides: the number of slides, and the fingerprint of their ids in order."""
        known: dict[int, dict[str, Any]] = self.__dict__.setdefault("_bound", {})
        if n not in known:
            known[n] = {"slides": n, "fingerprint": fingerprint(self.ids[:n])}
        return known[n]

    def column(self, name: str) -> np.ndarray:
        """A column as an array, (slide,) or (slide, xy); text as an object array."""
        values = [getattr(row, name) for row in self.rows]
        if name == "size_px":
            return np.array(values, dtype=np.int64).reshape(-1, 2)
        return np.array(values, dtype=DTYPES.get(name, object))

    def with_rows(self, rows: Sequence[SlideRow]) -> SlideTable:
        """This table with `rows` put in place of rows of the same id, the others added at the end."""
        index, table = dict(self.index), list(self.rows)
        for row in rows:
            if row.id in index:
                table[index[row.id]] = row
            else:
                index[row.id] = len(table)
                table.append(row)
        return SlideTable(tuple(table))

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> SlideTable:
        """From arrays as they are stored."""
        rows = []
        for values in zip(*(columns[name] for name in COLUMNS), strict=True):
            row = dict(zip(COLUMNS, values, strict=True))
            width, height = (int(v) for v in row["size_px"])
            plain: dict[str, Any] = {k: v.item() if k in DTYPES else str(v) for k, v in row.items() if k != "size_px"}
            rows.append(SlideRow(size_px=(width, height), **plain))
        return cls(tuple(rows))
