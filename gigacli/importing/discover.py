"""Which files hold features, and of which slides and encoders: told by what is in them, not by their names."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput, NotFound, reason_of
from gigacli.importing import h5, npy, raw2features, shards, tensors, wsidata
from gigacli.importing.feature_set import FeatureSet, NoFeatures
from gigacli.parallel import worker_count
from gigacli.progress import Progress
from gigacli.tables import bare_id

H5 = (".h5", ".hdf5")
TENSORS = (".pt", ".npz")
SHARD = ".parquet"
ENDINGS = (*H5, *TENSORS, SHARD, ".npy", ".zarr")
"""Of files that are taken for features in a folder."""

TABLES = (".csv", ".tsv", ".h5ad")
"""Of slide vectors. Folders are full of other tables, so that these are read where they are named."""

_SHOWN = 5


@dataclass
class Discovery:
    """Feature sets found in files, and the files without any."""

    found: list[FeatureSet] = field(default_factory=list)  # feature sets, by slide
    broken: dict[str, str] = field(default_factory=dict)  # slide -> why its file cannot be used
    ignored: list[str] = field(default_factory=list)  # why files that were met in a folder are no features


def files_of(paths: Sequence[Path], endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """Every file that may hold features: those named, and those below the folders named, sorted; zarr stores are one.

    Args:
        paths: Files and folders.
        endings: Of the files that are looked for in folders.

    Raises:
        NotFound: There is no such path, or nothing in it.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist", "name feature files, or the folder that holds them")
        files |= dict.fromkeys(_below(path, endings) if path.is_dir() and path.suffix != ".zarr" else [path])
    if not files:
        tiles = next((file for path in paths for file in path.rglob("*.geojson")), None)
        them = f"; tiles, such as {tiles}, go to giga tile STORE SLIDES --coords FILES" if tiles else ""
        raise NotFound(
            f"no feature file in {', '.join(map(str, paths))}; looked for {' '.join(endings)}",
            f"name the folder that holds the features{them}",
        )
    return list(files)


def _below(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and entry.suffix != ".zarr":
            yield from _below(entry, endings)
        elif entry.suffix.lower() in endings:
            yield entry


def read_headers(files: Sequence[Path], named: Iterable[Path], config: ImportConfig, progress: Progress) -> Discovery:
    """Read the headers of all files.

    Args:
        files: From :func:`files_of`.
        named: Those of them that the user named: a file named by itself must hold features.
        config: Says how many are read at once.
        progress: Receives progress.

    Raises:
        InvalidInput: A file that was named holds no features.
    """
    discovery, insisted = Discovery(), {path for path in named if path.suffix != ".npz"}
    companions = _Companions(files)
    progress.start("reading headers", len(companions.features))
    with ThreadPoolExecutor(worker_count(config.workers)) as pool:
        results = pool.map(companions.look_into, companions.features)
        for path, (found, error) in zip(companions.features, results, strict=True):
            progress.advance()
            discovery.found += found
            if isinstance(error, NoFeatures) and path in insisted:
                raise InvalidInput(f"{path} holds no features: {error}", "see: giga import --help")
            if isinstance(error, NoFeatures):
                discovery.ignored.append(f"{path}: {error}")
            elif error is not None:
                discovery.broken[_slide_of(path)] = f"{path}: {reason_of(error)}"
    found, ignored = shards.look_into([path for path in files if path.suffix.lower() == SHARD], insisted)
    discovery.found += found
    discovery.ignored += ignored
    if not discovery.found and (
        alone := [*(c.path for c in companions.coordinates.values()), *companions.tiles.values()]
    ):
        says = "it holds tiles and no features; a bank is made of them with: giga tile STORE SLIDES --coords FILES"
        discovery.ignored.insert(0, f"{alone[0]}: {says}")
    return discovery


class _Companions:
    """Files of coordinates, by slide, and the files that may hold features."""

    def __init__(self, files: Sequence[Path]) -> None:
        tiles = [f for f in files if f.name.endswith(tensors.TILES)]
        self.tiles = {(tensors.part_of(f), f.name.removesuffix(tensors.TILES)): f for f in tiles}
        self.coordinates: dict[str, h5.Coordinates] = {}
        self.features: list[Path] = []
        for file in files:
            if file.suffix.lower() in H5 and self._keep_coordinates(file):
                continue
            if file.suffix.lower() == SHARD or file.name.endswith(tensors.TILES):
                continue
            if file.suffix.lower() == ".npy" and (file.parent.name != npy.FEATURES or not npy.is_of_slide(file)):
                continue
            self.features.append(file)
        # CLAM writes every slide twice: h5_files with coordinates, and pt_files without
        held = {f.stem for f in self.features if f.suffix.lower() in H5}
        self.features = [f for f in self.features if f.suffix != ".pt" or f.stem not in held]

    def _keep_coordinates(self, file: Path) -> bool:
        try:
            coordinates = h5.look_for_coordinates(file)
        except OSError:
            return False  # the reason is found again, and told, when its features are looked for
        if coordinates is not None:
            self.coordinates[file.stem.removesuffix(h5.PATCHES)] = coordinates
        return coordinates is not None

    def look_into(self, path: Path) -> tuple[list[FeatureSet], Exception | None]:
        """Feature sets of a file, or why there are none."""
        slide = _slide_of(path)
        try:
            if path.suffix == ".zarr":
                of_tool = raw2features if raw2features.wrote(path) else wsidata
                return of_tool.look_into(path), None
            if path.suffix.lower() in H5:
                return h5.look_into(path, self.coordinates.get(slide)), None
            if path.suffix == ".npy":
                return npy.look_into(path), None
            if path.suffix in TENSORS:
                beside = tensors.tiles_beside(path)
                tiles = self.tiles.get((tensors.part_of(path), slide)) or (beside if beside.is_file() else None)
                return tensors.look_into(path, tiles, self.coordinates.get(slide)), None
        except Exception as error:  # a damaged file raises anything, and must not take the other slides with it
            return [], error
        return [], NoFeatures(f"{path.suffix or 'a file without extension'} is no format of features")


def _slide_of(path: Path) -> str:
    return path.stem.removesuffix(h5.PATCHES)


def choose(discovery: Discovery, config: ImportConfig) -> list[FeatureSet]:
    """Choose the features of one encoder, one feature set per slide, sorted by slide.

    Raises:
        NotFound: Nothing was found, or nothing of that encoder.
        InvalidInput: Features of several encoders, or of one slide twice.
    """
    found = discovery.found
    if not found and discovery.broken:
        slide, reason = next(iter(discovery.broken.items()))
        raise InvalidInput(f"none of {len(discovery.broken)} files can be used; {slide}: {reason}")
    if not found:
        said = f": {discovery.ignored[0]}" if discovery.ignored else ""
        raise NotFound(f"no features were found{said}", "name the folder that holds the features")
    kinds = Counter(_kind(one) for one in found)
    if config.encoder is not None:
        kinds = Counter({kind: n for kind, n in kinds.items() if config.encoder in (kind[0], _called(kind))})
        if not kinds:
            names = sorted({_called(_kind(one)) for one in found})
            raise NotFound(f"no features of encoder {config.encoder!r}; there are those of {', '.join(names)}")
    if len(kinds) > 1:
        listed = "; ".join(
            f"{_called(kind)}, {'slide vectors' if kind[1] else 'tiles'}, {kind[2]}: {n}"
            for kind, n in sorted(kinds.items())
        )
        raise InvalidInput(
            f"the files hold {len(kinds)} sets of features: {listed}", "name one folder, or choose with `encoder`"
        )
    [kind] = kinds
    chosen = sorted((one for one in found if _kind(one) == kind), key=lambda one: one.id)
    twice = [(a, b) for a, b in itertools.pairwise(chosen) if a.id == b.id]
    if twice:
        listed = ", ".join(f"{a.path} and {b.path}" for a, b in twice[:_SHOWN])
        raise InvalidInput(f"{len(twice)} slides have two files of features: {listed}", "leave out one of them")
    return chosen


def _kind(one: FeatureSet) -> tuple[str, bool, str, str]:
    return one.encoder, one.vector, one.tool, one.part


def _called(kind: tuple[str, bool, str, str]) -> str:
    """What `encoder` may say to choose this kind."""
    return f"{kind[3]}/{kind[0]}".removeprefix("/") or "(not named)"


def name_of(chosen: Sequence[FeatureSet], paths: Sequence[Path], config: ImportConfig) -> str:
    """Name of the features in the store: the one asked for, that of the encoder, or that of the files' folder."""
    if config.name is not None:
        return config.name
    first = paths[0]
    folder = first if first.is_dir() and first.suffix != ".zarr" else first.parent
    return plain_name(chosen[0].encoder or bare_id(folder.resolve().name))


def plain_name(text: str) -> str:
    """Turn a text into a name that a store can hold: other characters become '-'.

    Raises:
        InvalidInput: Nothing is left of it.
    """
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).lstrip("._-")[:80]
    if not name:
        raise InvalidInput(f"{text!r} cannot be a name in the store", "give one with `name`")
    return name
