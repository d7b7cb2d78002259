"""The values of a store against the specification (level 4 of validation), one slide at a time."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from gigacli.config.base import fingerprint
from gigacli.store.chunks import is_stored, missing_blocks
from gigacli.store.describe import Description, Problem, attributes_of, describe
from gigacli.store.identity import ALL, identity_of
from gigacli.store.layout import NOT_DONE, OPERATORS, is_beside, spec_of
from gigacli.store.reading import COLUMN, Reading
from gigacli.store.store import Store

SLACK_PX = 1.0  # pixels that a tile may reach over the border of its slide: corners are rounded to whole pixels
UNIT_TOLERANCE = 1e-3
SOURCES = ("", "csv", "ome", "openslide", "tiff", "objective", "option", "import", "nominal")
BLOCK_BYTES = 2**25  # values of a slide that are read at once, or one row of chunks
OF_TILES = ("TILES-3", "TILES-4")

EXPONENT, MAGNITUDE = np.uint16(0x7C00), np.uint16(0x7FFF)
"""Bits of a float16: all of the exponent are set in infinities and NaN."""


def check_values(store: Store, description: Description | None = None) -> list[Problem]:
    """Level 4: read everything that is done; what cannot be read is a problem.

    Arrays that levels 1 to 3 object to are left out: their values mean nothing.
    """
    check = _Check(store, describe(store) if description is None else description)
    check.slides()
    check.tiles()
    for path in check.groups("features"):
        check.features(path)
    for path in check.groups("banks"):
        check.bank(path)
    for path in (*check.groups("encoders"), *check.groups("models")):
        check.trained(path)
    for path in check.groups("embeddings"):
        check.embedding(path)
    check.bindings()
    check.tables()
    check.rest()
    return check.problems()


class _Check(Reading):
    """The rules, one after the other."""

    def bindings(self) -> None:
        """Check that the rows of every group belong to the slides of the table."""
        if ("SLIDES-3", "slides/id") in self.found:
            return
        for path in sorted(self.sound):
            bound = attributes_of(self.description, path).get("ids")
            if bound is not None and bound["fingerprint"] != fingerprint(self.ids[: bound["slides"]]):
                self.add("RECIPE-4", path, None, f"its rows are of {bound['slides']} slides with other ids")

    def tables(self) -> None:
        """Check that no chunk of a table is lost."""
        for path in sorted(self.sound):
            spec = spec_of(path)
            if spec is None or not spec.whole or spec.dims[:1] != ("slide",):
                continue
            group = path.rpartition("/")[0]
            bound = attributes_of(self.description, group).get("ids", {}).get("slides", 0)
            if path.endswith("/trained_on") and self.read(f"{group}/done") == NOT_DONE:
                continue
            values = self.read(path, slice(0, min(bound, self.n)))
            for block in [] if values is None else missing_blocks(self.array(path), values):
                self.add("ROOT-6", path, None, f"chunk {block} is missing")

    def slides(self) -> None:
        """Check that ids are unique, and sizes and resolutions known or unknown, nothing else."""
        for name, times in Counter(self.ids).items():
            if times > 1 or not name:
                text = f"id {name!r} stands for {times} slides" if name else "the id is empty"
                self.add("SLIDES-3", "slides/id", self.ids.index(name), text)
        size, mpp = self.column("slides/size_px").reshape(-1, 2), self.column("slides/mpp")
        for row in map(int, np.flatnonzero(~((size > 0).all(axis=1) | (size == -1).all(axis=1)))):
            text = f"size is {size[row].tolist()}; expected two positive or -1, -1"
            self.add("SLIDES-4", "slides/size_px", row, text)
        for row in map(int, np.flatnonzero(~(np.isnan(mpp) | (np.isfinite(mpp) & (mpp > 0))))):
            self.add("SLIDES-4", "slides/mpp", row, f"mpp is {mpp[row]}; expected a positive number or NaN")
        for row, source in enumerate(self.column("slides/mpp_source")):
            if str(source) not in SOURCES:
                self.add("SLIDES-4", "slides/mpp_source", row, f"mpp_source is {str(source)!r}; expected {SOURCES}")

    def tiles(self) -> None:
        """Check that tiles lie in their slides, and that there is nothing beyond the last one."""
        config = self.config("tiles")
        size, mpp = self.column("slides/size_px"), self.column("slides/mpp")
        if config is None or not len(size) or not len(mpp):
            return
        imported = attributes_of(self.description, "tiles")["recipe"]["stage"] == "import"
        over_the_border = imported or "coords" in config  # other tools let tiles reach there
        for row in map(int, np.flatnonzero(self.count != NOT_DONE)):
            n = int(self.count[row])
            coords, tissue = (self.read(f"tiles/{name}", row, row=row) for name in ("coords", "tissue"))
            if coords is None or tissue is None:
                continue
            if not 0 <= n <= min(len(coords), len(tissue)):
                self.add("TILES-2", "tiles/count", row, f"count is {n}; there is room for {len(tissue)} tiles")
                self.count[row] = NOT_DONE  # so that features and banks are not measured against it
                continue
            if n and not (mpp[row] > 0 and (size[row, 0] > 0 or imported)):
                self.add("TILES-2", "tiles/count", row, f"has {n} tiles, but its size or resolution is unknown")
                continue
            if n:
                edge_px = 0.0 if over_the_border else config["tile_px"] * config["mpp"] / mpp[row]
                self._corners(row, coords[:n].astype(np.int64), size[row], edge_px)
            self._shares_and_rest(row, coords, tissue, n, silent=imported)
            if any((rule, path) in self.found for rule in OF_TILES for path in ("tiles/coords", "tiles/tissue")):
                continue  # said already, and no identity could be right
            _, _, mask, file = self.identity[row].tolist()
            wanted = identity_of(coords[:n], tissue[:n], mask=mask, file=file).tolist()
            if wanted != self.identity[row].tolist():
                text = f"is {self.identity[row].tolist()}; its tiles, mask and file make {wanted}"
                self.add("TILES-6", "tiles/identity", row, text)

    def _corners(self, row: int, corners: NDArray[np.int64], size: NDArray[np.int64], edge_px: float) -> None:
        far = np.where(size > 0, size, np.inf)  # of an imported slide, the size may be unknown
        outside = (corners < 0).any(axis=1) | (corners + edge_px > far + SLACK_PX).any(axis=1)
        if outside.any():
            first, (width, height) = corners[outside][0].tolist(), size
            text = f"{outside.sum()} tiles of {edge_px:g} px lie outside {width} x {height} px, first {first}"
            self.add("TILES-3", "tiles/coords", row, text)

    def _shares_and_rest(self, row: int, coords: NDArray[Any], tissue: NDArray[Any], n: int, *, silent: bool) -> None:
        """`silent`: whether tissue may be unknown, as tools do not all keep it."""
        share = tissue[:n]
        if silent and np.isnan(share).all():
            share = share[:0]
        if not ((share >= 0) & (share <= 1)).all():
            first = share[~((share >= 0) & (share <= 1))][0]
            self.add("TILES-4", "tiles/tissue", row, f"a tissue share is {first}; expected 0 to 1")
        if (coords[n:] != -1).any():
            self.add("TILES-5", "tiles/coords", row, f"coordinates beyond its {n} tiles")
        if not np.isnan(tissue[n:]).all():
            self.add("TILES-5", "tiles/tissue", row, f"tissue shares beyond its {n} tiles")

    def features(self, path: str) -> None:
        """Check that there is one finite vector per tile, and NaN beyond."""
        for row in map(int, np.flatnonzero(self.done(f"{path}/done") & (self.count != NOT_DONE))):
            if f"{path}/vectors" in self.sound:
                self._vectors(f"{path}/vectors", row, int(self.count[row]))

    def _vectors(self, path: str, row: int, n: int) -> None:
        """The vectors of a slide, of which the first n should be there: finite up to there, NaN beyond."""
        kind, wrong, beyond = path.split("/", maxsplit=1)[0].upper(), 0, False
        size = math.prod(self.description[path]["shape"][2:])  # values of one step along the second axis
        for start, stop, vectors in self._blocks_of_slide(path, row):
            inside = min(max(0, n - start), stop - start)
            if vectors is None:
                wrong += inside * size
            else:
                wrong += int(((vectors[:inside].view(np.uint16) & EXPONENT) == EXPONENT).sum())
                beyond = beyond or bool(((vectors[inside:].view(np.uint16) & MAGNITUDE) <= EXPONENT).any())
        if wrong:
            rule = {"FEATURES": "FEATURES-3", "BANKS": "BANKS-5"}[kind]
            self.add(rule, path, row, f"is done, but {wrong} of {n * size} values are not finite")
        if beyond:
            self.add("FEATURES-4", path, row, f"numbers beyond its {n} tiles; expected NaN")

    def _blocks_of_slide(self, path: str, row: int) -> Iterator[tuple[int, int, NDArray[np.float16] | None]]:
        """The values of a slide along the second axis, some chunks at a time; None where none of them is stored."""
        shape, chunks = self.description[path]["shape"], self.description[path]["chunks"]
        if (there := self.stored(path, row)) is None:
            return
        at_once = max(1, BLOCK_BYTES // max(1, 2 * chunks[1] * math.prod(shape[2:])))
        for start in range(0, shape[1], at_once * chunks[1]):
            stop, first = min(start + at_once * chunks[1], shape[1]), start // chunks[1]
            if there.isdisjoint(range(first, first + at_once)):
                yield start, stop, None
                continue
            vectors = self.read(path, (row, slice(start, stop)), row=row)
            if vectors is None:  # said already
                return
            yield start, stop, vectors

    def bank(self, path: str) -> None:
        """Check that vectors are finite, and of tiles that exist."""
        learns = (self.config(path) or {}).get("mode") == "operators"
        done = self.done(f"{path}/done") & (self.count > 0)
        if learns:
            done &= self.column(f"{path}/calibrates")[: len(done)] == 1
            self._operators(path)
        for row in map(int, np.flatnonzero(done)):
            tile = self._drawn(f"{path}/tile", row, least=NOT_DONE if learns else 0)
            if f"{path}/vectors" in self.sound and not learns:
                self._vectors(f"{path}/vectors", row, self.description[f"{path}/vectors"]["shape"][1])
            elif f"{path}/vectors" in self.sound and tile is not None:
                vectors = self.read(f"{path}/vectors", row, row=row)  # (augmentation, draw, feature)
                if vectors is not None and not np.isfinite(vectors[tile >= 0]).all():
                    self.add("BANKS-5", f"{path}/vectors", row, "values are not finite")

    def _operators(self, path: str) -> None:
        """Check that operators that are said to be there are, and fit the vectors they were learnt from."""
        said = attributes_of(self.description, path).get("operators")
        if not isinstance(said, dict):
            return
        _, sets, _, width = self.description[f"{path}/vectors"]["shape"]
        sizes = {"feature": width, "value": width, "augmentation": sets}
        optional = ("residuals", "residuals_first") if said["residuals"] else ()
        for name in (*OPERATORS, *optional):
            values = self.read(f"{path}/operators/{name}") if f"{path}/operators/{name}" in self.sound else None
            if values is None:
                self.add("BANKS-7", f"{path}/operators/{name}", None, "the array is missing")
                continue
            dims = self.description[f"{path}/operators/{name}"]["dims"]
            wrong = [dim for dim, size in zip(dims, values.shape, strict=True) if sizes.setdefault(dim, size) != size]
            if wrong:
                self.add("BANKS-7", f"{path}/operators/{name}", None, f"its size along {wrong[0]} is another's")
            elif not np.isfinite(values).all():
                self.add("BANKS-7", f"{path}/operators/{name}", None, "values are not finite")

    def _drawn(self, path: str, row: int, *, least: int) -> NDArray[Any] | None:
        tile: NDArray[Any] | None = self.read(path, row, row=row)  # (augmentation, draw)
        if tile is None:
            return None
        wrong = (tile < least) | (tile >= self.count[row])
        if wrong.any():
            self.add("BANKS-6", path, row, f"a tile number is {tile[wrong][0]}; the slide has {self.count[row]} tiles")
        return tile

    def trained(self, path: str) -> None:
        """Check that what is finished has weights that can be read."""
        done, rule = self.read(f"{path}/done"), f"{path.partition('/')[0].upper()}-2"
        if done is None or done == NOT_DONE:
            return
        if done != 1:
            self.add(rule, f"{path}/done", None, f"done is {done}; expected {NOT_DONE} or 1")
            return
        self._whole(path, rule)
        weights = self.read(f"{path}/weights")
        if weights is None:
            elsewhere = {"timm", "published"} & (self.config(path) or {}).keys()
            if f"{path}/weights" not in self.description and not elsewhere:
                self.add(rule, f"{path}/weights", None, "is finished, but has no weights")
            return
        try:
            deserialize(weights.tobytes())  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            self.add(rule, f"{path}/weights", None, f"is not a safetensors file: {error}")
        seen = self.column(f"{path}/trained_on")
        if len(seen) and "tiles" in self.description:
            changed = (seen != NOT_DONE) & (self.count != NOT_DONE) & (seen != self.identity[:, ALL])
            for row in map(int, np.flatnonzero(changed)):
                text = f"is stale: trained on {seen[row]}, which is now {self.identity[row, ALL]}"
                self.add("RECIPE-5", f"{path}/trained_on", row, text)
        stated = attributes_of(self.description, path).get("sha256", {}).get("weights")
        if stated != (found := hashlib.sha256(weights.tobytes()).hexdigest()):
            self.add(rule, f"{path}/weights", None, f"has SHA-256 {found}; {path} states {stated}")

    def _whole(self, path: str, rule: str) -> None:
        """Check that nothing is lost of what is finished."""
        trained = attributes_of(self.description, path)["recipe"]["stage"] != "bank"
        if trained and f"{path}/trained_on" not in self.description:
            self.add(rule, f"{path}/trained_on", None, "the array is missing")
        for child in sorted(child for child in self.sound if child.startswith(f"{path}/history/")):
            if self.read(child) is not None and not is_stored(self.array(child), (0,)):
                self.add("ROOT-6", child, None, "chunk 0 is missing")

    def embedding(self, path: str) -> None:
        """Check that vectors are finite, of unit length by a slide encoder, NaN for slides without tiles."""
        done, config = self.done(f"{path}/done"), self.config(path) or {}
        empty = (self.count == 0) if config["aggregator"] not in ("import", "join") else np.zeros(self.n, dtype=bool)
        for start, vectors in self._blocks(f"{path}/vectors") if len(done) else ():
            block = slice(start, start + len(vectors))
            finite = np.isfinite(vectors).all(axis=1)
            length = np.linalg.norm(np.where(np.isfinite(vectors), vectors, 0), axis=1)
            far = finite & (np.abs(length - 1) > UNIT_TOLERANCE)
            for row in np.flatnonzero(done[block] & ~empty[block] & ~finite):
                self.add("EMBEDDINGS-3", f"{path}/vectors", start + int(row), "is done, but its vector is not finite")
            for row in np.flatnonzero(done[block] & empty[block] & ~np.isnan(vectors).all(axis=1)):
                self.add("EMBEDDINGS-3", f"{path}/vectors", start + int(row), "has no tiles, but a vector")
            if config["aggregator"] in ("model", "random-init"):
                for row in np.flatnonzero(done[block] & ~empty[block] & far):
                    text = f"its vector has length {length[row]:g}; expected 1"
                    self.add("EMBEDDINGS-4", f"{path}/vectors", start + int(row), text)

    def rest(self) -> None:
        """Check that small arrays which no rule looks into can be read."""
        for path in sorted(self.sound - self._arrays.keys()):
            spec = spec_of(path)
            if spec is not None and spec.dtype == "uint8" and not self.store.has_bytes(path):
                continue  # a kill came between the array and its bytes: an unfinished store is valid
            if spec is not None and (len(spec.dims) < 2 or (is_beside(path) and spec.column)):
                self.read(path, COLUMN if spec.dims[:1] == ("slide",) else Ellipsis)

    def _blocks(self, path: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        step = self.description[path]["chunks"][0] if path in self.sound else 1
        for start in range(0, self.n, step):
            block = self.read(path, slice(start, min(start + step, self.n)))
            if block is not None:
                yield start, block
