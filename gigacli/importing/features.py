"""``giga import``: features of other tools into a cohort store, where they are trained on and embedded like any other.

First the headers of all files, which decide the slides, the tiles and whether the files belong together: nothing is
written before. Then the files, several at once, a slide at a time, its mark of being done last.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigacli.config.base import options_of
from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput, Mismatch, SlideError, reason_of
from gigacli.importing.discover import choose, files_of, look, name_of, plain_name
from gigacli.importing.geometry import TOLERANCE, Grid, Placement, grid_of, place
from gigacli.importing.request import ImportSummary, Request, existing
from gigacli.importing.slides import Said, merged, patient_of, read_said, refuse_new
from gigacli.importing.vectors import import_arrays, import_vectors
from gigacli.importing.writing import Arrays, Target, recipe_for, write_tiles
from gigacli.parallel import worker_count
from gigacli.progress import SILENT
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gigacli.importing.discover import Discovery
    from gigacli.importing.found import Found
    from gigacli.progress import Progress


@options_of(ImportConfig)
def import_features(
    config: ImportConfig,
    store: str | Path | Store,
    files: str | Path | Sequence[str | Path],
    *,
    name: str | None = None,
    encoder: str | None = None,
    csv: str | Path | None = None,
    mpp: float | None = None,
    mag: float | None = None,
    tile_px: int | None = None,
    slide_mpp: float | None = None,
    workers: int | None = None,
    redo: bool = False,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Import tile features, or slide vectors, that another tool made; the store is made if it is not there.

    Args:
        store: The cohort store.
        files: Feature files, or folders that hold them; ``embeddings.npy`` and ``ids.npy`` in the authors' layout.
        progress: Progress receiver.

    Raises:
        NotFound: No such file, or there are no features in it.
        InvalidInput: The files do not belong together, or do not say what must be known of their tiles.
        Mismatch: The store holds other features of that name, or other slides.
    """
    started = time.monotonic()
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    if not paths:
        raise InvalidInput("no files were named", "giga import uni.zarr features_uni_v1/")
    found = files_of(paths)
    request = Request(store, existing(store), read_said(config.csv), config, started)
    arrays = [path for path in found if path.suffix == ".npy"]
    if arrays and len(arrays) == len(found):
        return import_arrays(request, arrays)
    discovery = look(found, [path for path in paths if path.is_file()], config, progress)
    chosen = choose(discovery, config)
    name = name_of(chosen, paths, config)
    _say_ignored(discovery, progress)
    if chosen[0].vector:
        return import_vectors(request, chosen, discovery, name)
    return _Job(request, chosen, discovery, name).run(progress)


def _say_ignored(discovery: Discovery, progress: Progress) -> None:
    if discovery.ignored:
        progress.say(
            f"{len(discovery.ignored)} files hold no features and are left out, such as {discovery.ignored[0]}"
        )


class _Job:
    """Import of the tile features of one encoder; what must be refused is, before anything is written."""

    def __init__(self, request: Request, chosen: list[Found], discovery: Discovery, name: str) -> None:
        self.request, self.config, self.name = request, request.config, name
        self.failures = dict(discovery.broken)
        known, config = request.known, request.config
        table = {slide: row.mpp for slide, row in request.said.items() if row.mpp is not None}
        self.grid = grid_of(chosen, config, table)
        self.first = next(one for one in chosen if one.tiles)
        tiles = known.recipe("tiles") if known is not None else None
        self.tiles = tiles or Recipe("import", {**_plain(self.grid), "tool": self.first.tool}, {})
        stored = Grid(self.tiles.config["tile_px"], self.tiles.config["mpp"], self.tiles.config["overlap"])
        if known is not None:
            self._check_tiles(known, stored)
        self.placed: dict[str, tuple[Found, Placement]] = {}
        for one in chosen:
            try:
                self.placed[one.id] = (one, place(one, stored, config, table.get(one.id)))
            except SlideError as error:
                self.failures[one.id] = reason_of(error)
        if not self.placed:
            slide, reason = next(iter(self.failures.items()))
            raise InvalidInput(f"none of {len(self.failures)} files can be used; {slide}: {reason}")
        versions = sorted({one.tool_version for one in chosen} - {""})
        features = Recipe(
            "import",
            {
                "encoder": plain_name(self.first.encoder or name),
                "tool": self.first.tool,
                "tool_version": ", ".join(versions),
                "width": self.first.width,
                **_plain(self.grid),
            },
            {"tiles": self.tiles.fingerprint},
        )
        path = f"features/{name}"
        self.target = Target(known, path, recipe_for(known, path, features, redo=config.redo))
        self.target.check(redo=config.redo)
        if known is not None:
            refuse_new(known, self.placed)

    def _check_tiles(self, known: Store, stored: Grid) -> None:
        if abs(self.grid.edge_um / stored.edge_um - 1) > TOLERANCE:
            raise Mismatch(
                f"{known.url} has tiles of {stored.edge_um:g} microns ({stored.tile_px:g} px at {stored.mpp:g}); those "
                f"of {self.first.path} measure {self.grid.edge_um:g} ({self.grid.tile_px:g} px at {self.grid.mpp:g})",
                "import them into a store of their own",
            )

    def run(self, progress: Progress) -> ImportSummary:
        """Register the slides, then import what is not done; the store is valid wherever this is killed."""
        store = self._begin()
        table, done = store.slides, store.array(f"{self.target.path}/done")[:]
        count, earlier = store.array("tiles/count")[:], store.failures("import")
        index, tiles = table.index, 0
        mine = {index[slide]: pair for slide, pair in self.placed.items()}
        todo = [row for row in sorted(mine) if done[row] == NOT_DONE]
        progress.start(f"importing {self.name}", len(mine), done=len(mine) - len(todo))
        arrays = Arrays(store, self.target.path)
        for row, error in self._write(arrays, table, todo, mine, count.tolist()):
            if error is None:
                tiles += mine[row][0].tiles
                if earlier[row]:
                    store.fail("import", {row: ""})
            else:
                self.failures[table[row].id] = reason_of(error)
                progress.say(f"{table[row].id} failed: {self.failures[table[row].id]}")
            progress.advance(note=table[row].id)
        rows = {index[slide]: why for slide, why in self.failures.items() if slide in index}
        store.fail("import", {row: why for row, why in rows.items() if done[row] == NOT_DONE})
        failed = sum(row.id in self.failures for row in (table[i] for i in mine))
        new = len(todo) - failed
        return ImportSummary(
            name=self.name,
            kind="features",
            tool=self.first.tool,
            slides=len({*self.placed, *self.failures}),
            done=new,
            skipped=len(mine) - len(todo),
            failed=len(self.failures),
            tiles=tiles,
            width=self.first.width,
            mpp=self.grid.mpp,
            mpp_source=next(iter(self.placed.values()))[1].source,
            seconds=time.monotonic() - self.request.started,
            failures=dict(sorted(self.failures.items())),
        )

    def _begin(self) -> Store:
        """Write the slide table and make room; a slide whose file is broken is registered too, to be named later."""
        store = self.request.opened()
        imported = self.tiles.stage == "import"
        if imported:
            store.write_slides(self._table(store))
        n = store.registered
        if imported:
            most = max(one.tiles for one, _ in self.placed.values())
            here = store.array("tiles/coords").shape[1] if "tiles/coords" in store.root else 1
            room = max(1, most, here)
            store.begin("tiles", self.tiles, {"coords": (n, room, 2), "tissue": (n, room), "count": (n,)})
        self.target.begin(store, (n, store.array("tiles/coords").shape[1], self.first.width), redo=self.config.redo)
        return store

    def _table(self, store: Store) -> SlideTable:
        """The slides there are and the new ones; of those without tiles yet, everything is said anew."""
        rows = []
        for slide in sorted({*self.placed, *self.failures}):
            said = self.request.said.get(slide, Said())
            patient = patient_of(slide, said)
            if slide not in self.placed:
                rows.append(SlideRow(id=slide, path=self._path(said, ""), patient=patient))
                continue
            one, placement = self.placed[slide]
            rows.append(
                SlideRow(
                    id=slide,
                    path=self._path(said, one.slide_path),
                    patient=patient,
                    size_px=one.size_px,
                    mpp=placement.slide_mpp,
                    mpp_source=placement.source,
                )
            )
        count = store.array("tiles/count")[:].tolist() if "tiles/count" in store.root else []
        done = {row.id for row, n in zip(store.slides.rows, count, strict=False) if n != NOT_DONE}
        return merged(store.slides, rows, settled=done)

    def _path(self, said: Said, stated: str) -> str:
        """The slide file; in a table, relative to it."""
        return str((Path(self.config.csv or "").parent / said.path).absolute()) if said.path else stated

    def _write(
        self,
        arrays: Arrays,
        table: SlideTable,
        todo: Sequence[int],
        mine: dict[int, tuple[Found, Placement]],
        count: list[int],
    ) -> Iterator[tuple[int, Exception | None]]:
        """Slides as they are written, each with what was wrong with it; a few files are open at once."""
        workers, rows = worker_count(self.config.workers), iter(todo)
        with ThreadPoolExecutor(workers) as pool:
            running: dict[Future[None], int] = {}
            try:
                while True:
                    for row in islice(rows, workers * 2 - len(running)):
                        one, placement = mine[row]
                        future = pool.submit(write_tiles, arrays, row, one, placement, table[row], count[row])
                        running[future] = row
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        error = future.exception()
                        if error is not None and not isinstance(error, Exception):
                            raise error
                        yield running.pop(future), error
            finally:
                for future in running:
                    future.cancel()


def _plain(grid: Grid) -> dict[str, Any]:
    return {"mpp": grid.mpp, "tile_px": grid.tile_px, "overlap": grid.overlap}
