"""``giga import``: features of other tools into a cohort store, where they are trained on and embedded like any other.

First the headers of all files, which decide the slides, the tiles and whether the files belong together: nothing is
written before. Then the files, several at once, a slide at a time, its mark of being done last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gigacli.config.base import options_of
from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput, Mismatch, SlideError, reason_of
from gigacli.importing import npy, vectors
from gigacli.importing.arrays import SlideVectors, read_pair
from gigacli.importing.destination import ImportSummary, recipe_for
from gigacli.importing.discover import SHARD, TABLES, choose, files_of, name_of, plain_name, read_headers
from gigacli.importing.feature_set import FeatureSet
from gigacli.importing.geometry import TOLERANCE, SlideScale, Tiling, scale_of, tiling_of
from gigacli.importing.slides import SlideMetadata, merged, patient_of, read_metadata, refuse_new, refuse_unused
from gigacli.importing.tables import holds_vectors, read_table
from gigacli.importing.writing import write_features
from gigacli.parallel import as_ready, worker_count
from gigacli.progress import SILENT, Progress
from gigacli.store.groups import Features
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

ScaledSet = tuple[FeatureSet, SlideScale]  # the features of a slide, and how large their tiles are on it


@options_of(ImportConfig)
def import_features(
    config: ImportConfig,
    store: str | Path | Store,
    files: str | Path | Sequence[str | Path],
    *,
    name: str | None = None,
    encoder: str | None = None,
    csv: str | Path | None = None,
    allow_missing: bool = False,
    mpp: float | None = None,
    mag: float | None = None,
    tile_px: int | None = None,
    slide_mpp: float | None = None,
    scale: float = 1.0,
    workers: int | None = None,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Import tile features, or slide vectors, that another tool made; the store is made if it is not there.

    Args:
        store: The cohort store.
        files: Feature files, or folders that hold them; ``embeddings.npy`` and ``ids.npy`` in the authors' layout; or
            a table of slide vectors (CSV, Parquet, h5ad), such as ``giga export`` writes.
        progress: Progress receiver.

    Raises:
        NotFound: No such file, there are no features in it, or `csv` names slides that are not there.
        InvalidInput: The files do not belong together, or do not say what must be known of their tiles.
        Mismatch: The store holds other features of that name, or other slides.
    """
    started = time.monotonic()
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    if not paths:
        raise InvalidInput("no files were named", "giga import uni.zarr features_uni_v1/")
    found = files_of(paths)
    opened, metadata = Store.open_or_stand_in(store, sync=config.sync), read_metadata(config.csv)
    if (read := _whole_cohort(found)) is not None:
        name = config.name or plain_name(read.name)
        return _vectors(config, opened, read=read, name=name, metadata=metadata, progress=progress, started=started)
    discovery = read_headers(found, [path for path in paths if path.is_file()], config, progress)
    sets, broken, ignored = choose(discovery, config), discovery.broken, discovery.ignored
    name = name_of(sets, paths, config)
    if ignored:
        progress.say(f"{len(ignored)} files hold no features and are left out, such as {ignored[0]}")
    if sets[0].vector:
        read = vectors.read_each(sets, broken)
        return _vectors(config, opened, read=read, name=name, metadata=metadata, progress=progress, started=started)
    plan = prepare(config, opened, sets=sets, broken=broken, name=name, metadata=metadata, progress=progress)
    features = begin(plan)
    imported = work(plan, features, progress)
    features.store.settle()
    return summary(plan, imported, started=started)


def _whole_cohort(found: Sequence[Path]) -> SlideVectors | None:
    """The slide vectors of a cohort where one table or one pair of arrays holds them all, else None."""
    if all(path.suffix == ".npy" for path in found) and not any(map(npy.is_of_slide, found)):
        return read_pair(list(found))
    tables = [path for path in found if path.suffix.lower() in TABLES]
    if not tables and len(found) == 1 and found[0].suffix.lower() == SHARD and holds_vectors(found[0]):
        tables = list(found)
    if tables and len(found) > 1:
        raise InvalidInput(
            f"{tables[0]} is a table of slide vectors, and {len(found) - 1} other files were named",
            "import one table at a time; what is known of slides is a table for `csv`",
        )
    return read_table(tables[0]) if tables else None


def _vectors(config: ImportConfig, store: Store, *, started: float, **found: Any) -> ImportSummary:
    plan = vectors.prepare(config, store, **found)
    into = vectors.begin(plan)
    done = vectors.work(plan, into)
    into.settle()
    return vectors.summary(plan, done, started=started)


@dataclass(frozen=True, eq=False)
class Plan:
    """An import of the tile features of one encoder."""

    config: ImportConfig
    store: Store  # as it was found
    name: str  # of the features
    tiling: Tiling  # of the files
    tiles: Recipe  # recipe of the tiles: of those that the store has, else of those that are imported
    recipe: Recipe  # recipe of the features
    sets: dict[str, ScaledSet]  # slide -> its features
    broken: dict[str, str]  # slide -> why its file cannot be used
    metadata: dict[str, SlideMetadata]  # what the user's table says of slides


def prepare(
    config: ImportConfig,
    store: Store,
    *,
    sets: Sequence[FeatureSet],
    broken: Mapping[str, str],
    name: str,
    metadata: dict[str, SlideMetadata],
    progress: Progress,
) -> Plan:
    """See whether the files belong together and fit into the store.

    Raises:
        NotFound: The user's table names slides that are not there, and that is not allowed.
        InvalidInput: They do not belong together, do not say what must be known, or none can be used.
        Mismatch: The store holds other tiles, or other features of that name.
    """
    mpp = {slide: row.mpp for slide, row in metadata.items() if row.mpp is not None}
    tiling = tiling_of(sets, config, mpp)
    first = next(one for one in sets if one.tiles)
    tiles = store.tiles.found or Recipe("import", {**vars(tiling), "tool": first.tool}, {})
    stored = Tiling(**{key: tiles.config[key] for key in vars(tiling)})
    if abs(tiling.edge_um / stored.edge_um - 1) > TOLERANCE:
        raise Mismatch(
            f"{store.url} has tiles of {stored.edge_um:g} microns ({stored.tile_px:g} px at {stored.mpp:g}); those "
            f"of {first.path} measure {tiling.edge_um:g} ({tiling.tile_px:g} px at {tiling.mpp:g})",
            "import them into a store of their own",
        )
    scaled: dict[str, ScaledSet] = {}
    failures = dict(broken)
    for one in sets:
        try:
            scaled[one.id] = (one, scale_of(one, stored, config, mpp.get(one.id)))
        except SlideError as error:
            failures[one.id] = reason_of(error)
    if not scaled:
        slide, reason = next(iter(failures.items()))
        raise InvalidInput(f"none of {len(failures)} files can be used; {slide}: {reason}")
    # whatever is compared by its encoder must not take scaled features for those that are not
    scaled_by = {"scale": config.scale} if config.scale != 1 else {}
    made = {
        "encoder": plain_name(f"{first.encoder or name}{f'-x{config.scale:g}' if scaled_by else ''}"),
        "tool": first.tool,
        "tool_version": ", ".join(sorted({one.tool_version for one in sets} - {""})),
        "width": first.width,
        **vars(tiling),
        **scaled_by,
    }
    recipe = Recipe("import", made, {"tiles": tiles.fingerprint})
    recipe = recipe_for(store.features(name), recipe, redo=config.redo)
    refuse_new(store, scaled)
    if unused := refuse_unused(metadata, {*scaled, *failures}, known=store, config=config):
        progress.say(unused)
    return Plan(config, store, name, tiling, tiles, recipe, scaled, failures, metadata)


def begin(plan: Plan) -> Features:
    """Write the slide table and make room; a slide whose file is broken is registered too, to be named later."""
    store = Store.create(plan.store.url, sync=plan.config.sync)
    if plan.tiles.stage == "import":
        store.write_slides(_slide_table(plan, store))
        store.tiles.begin(plan.tiles, max(one.tiles for one, _ in plan.sets.values()), redo=False)
    features = store.features(plan.name)
    features.begin(plan.recipe, plan.recipe.config["width"], redo=plan.config.redo)
    return features


@dataclass(frozen=True, eq=False)
class Imported:
    """Outcome of an import: the files used, and those that could not be."""

    sets: list[FeatureSet]  # those that were imported now
    skipped: int  # slides that were there
    failures: dict[str, str]  # slide -> why its file cannot be used


def work(plan: Plan, features: Features, progress: Progress) -> Imported:
    """Import what is not done; the store is valid wherever this is killed."""
    store, slides = features.store, features.store.slides
    finished, earlier = features.done().finished, store.failures("import")
    mine = {slides.index[slide]: one for slide, one in plan.sets.items()}
    todo = [row for row in sorted(mine) if not finished[row]]
    sets, failures = [], dict(plan.broken)
    tiled = store.tiles.done().finished

    def write(row: int) -> None:
        write_features(features, row, *mine[row], tiled=bool(tiled[row]), factor=plan.config.scale)

    progress.start(f"importing {plan.name}", len(mine), done=len(mine) - len(todo))
    for row, error in as_ready(write, todo, workers=worker_count(plan.config.workers)):
        slide = slides[row].id
        if error is None:
            sets.append(mine[row][0])
            if earlier[row]:
                store.fail("import", {row: ""})
        else:
            failures[slide] = reason_of(error)
            progress.say(f"{slide} failed: {failures[slide]}")
        progress.advance(note=slide)
    reasons = {slides.index[slide]: why for slide, why in failures.items() if slide in slides.index}
    store.fail("import", {row: why for row, why in reasons.items() if not finished[row]})
    return Imported(sets, len(mine) - len(todo), failures)


def summary(plan: Plan, imported: Imported, *, started: float) -> ImportSummary:
    """What was imported, since a time of the monotonic clock."""
    return ImportSummary(
        name=plan.name,
        kind=plan.store.features(plan.name).kind,
        tool=plan.recipe.config["tool"],
        slides=len({*plan.sets, *imported.failures}),
        done=len(imported.sets),
        skipped=imported.skipped,
        failed=len(imported.failures),
        tiles=sum(one.tiles for one in imported.sets),
        width=plan.recipe.config["width"],
        mpp=plan.tiling.mpp,
        mpp_source=next(iter(plan.sets.values()))[1].source,
        seconds=time.monotonic() - started,
        failures=dict(sorted(imported.failures.items())),
    )


def _slide_table(plan: Plan, store: Store) -> SlideTable:
    """Slide table after the import; slides without tiles get what the files say now."""
    rows = []
    for slide in sorted({*plan.sets, *plan.broken}):
        metadata = plan.metadata.get(slide)
        said = plan.sets[slide][0].patient if slide in plan.sets else ""
        row = SlideRow(id=slide, path="", patient=patient_of(slide, metadata, said=said))
        if slide in plan.sets:
            one, scale = plan.sets[slide]
            row = replace(row, path=one.slide_path, size_px=one.size_px, mpp=scale.slide_mpp, mpp_source=scale.source)
        if metadata is not None and metadata.path:  # relative to the table
            row = replace(row, path=str((Path(plan.config.csv or "").parent / metadata.path).absolute()))
        rows.append(row)
    finished = store.tiles.done().finished
    return merged(store.slides, rows, settled={slide for slide, row in store.slides.index.items() if finished[row]})
