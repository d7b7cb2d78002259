"""Slide files in folders, and their slide ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import openslide

from gigacli.errors import NotFound
from gigacli.progress import SILENT, Progress
from gigacli.wsi.ome_zarr import is_image

EXTENSIONS = (
    *(".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".qptiff", ".scn", ".svs", ".svslide", ".tif", ".tiff"),
    *(".vms", ".vmu"),
)
"""File extensions taken for slides in a folder: the main files of the formats OpenSlide 4 reads, and QPTIFF."""

_PICTURES = (".png", ".jpg", ".jpeg")
_SHOWN = 6  # kinds of files passed over that are named


def find_slides(paths: Sequence[Path], *, progress: Progress = SILENT) -> list[Path]:
    """Find the slides among files and folders.

    Files are taken as given, whatever their extension. Folders are searched recursively for `EXTENSIONS` and OME-Zarr
    images, sorted by path; hidden files and folders and other zarr stores are passed over. What is passed over and not
    hidden is said. The .dcm files of one folder and series are one slide, stood for by the first of them.

    Args:
        paths: Files and folders.
        progress: Is told what was passed over.

    Returns:
        Paths in the order of `paths`, each once.

    Raises:
        NotFound: A path does not exist or cannot be listed, or there is no slide at all.
    """
    found: list[Path] = []
    others = Counter[str]()
    for path in paths:
        if path.is_dir() and not is_image(path):
            found.extend(_search(path, set(), others))
        elif path.exists():
            found.append(path)
        else:
            expected = f"a slide ({' '.join(EXTENSIONS)}) or a folder of slides"
            raise NotFound(f"{path} does not exist; expected {expected}", "Check the path.")
    if not found:
        where = ", ".join(str(path) for path in paths) or "an empty list of paths"
        hint = "Name the slides, or the folder that holds them; images that were cut out of slides go to --patches."
        there = f"; found {_named(others)}" if others else ""
        raise NotFound(f"no slide in {where}; looked for {' '.join(EXTENSIONS)} and OME-Zarr{there}", hint)
    if others:
        pictures = any(extension in others for extension in _PICTURES)
        hint = "; a picture that is a slide has to be named itself: giga tile STORE PICTURE" if pictures else ""
        progress.say(f"passed over among the slides: {_named(others)}{hint}")
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.absolute(), path)
    return list(_one_per_series(once.values()))


def slide_id_of(path: Path) -> str:
    """Return the id of a slide: its file name without the last extension, as text (``007.svs`` is ``007``).

    A DICOM slide is called after its folder if that holds one series only, else by its SeriesInstanceUID: its files
    have names that mean nothing.
    """
    if path.suffix.lower() != ".dcm":
        return path.stem
    series = series_of(path)
    if series is None:
        return path.stem
    siblings = (other for other in sorted(path.parent.iterdir()) if _is_slide(other) and other.suffix.lower() == ".dcm")
    alone = all(series_of(other) in (series, None) for other in siblings)
    return path.resolve().parent.name if alone else series


def series_of(path: Path) -> str | None:
    """Return the SeriesInstanceUID of a DICOM slide; None if it is not there or OpenSlide cannot open it."""
    if not path.is_file():
        return None
    stat = path.stat()
    return _series_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65536)
def _series_of(path: Path, size: int, mtime_ns: int) -> str | None:
    """Remember the series for as long as the file is the same: opening a .dcm reads the headers of its folder."""
    try:
        with openslide.OpenSlide(path) as slide:
            series: str | None = slide.properties.get("dicom.SeriesInstanceUID")
            return series
    except openslide.OpenSlideError:
        return None


def _one_per_series(paths: Iterable[Path]) -> Iterator[Path]:
    """Drop all but the first .dcm of each folder and series.

    A .dcm that OpenSlide cannot open is no slide (a report, an annotation, another modality), unless its folder
    has none that it can: then the first stands for all, to be reported as the failure it is.
    """
    paths = list(paths)
    dicom = [path for path in paths if path.suffix.lower() == ".dcm"]
    readable = {path.parent for path in dicom if series_of(path) is not None}
    seen: set[tuple[Path, str | None]] = set()
    for path in paths:
        if path.suffix.lower() == ".dcm":
            key = (path.parent, series_of(path))
            if key in seen or (key[1] is None and path.parent in readable):
                continue
            seen.add(key)
        yield path


def _named(others: Counter[str]) -> str:
    """Say how many files of which kinds there are."""
    most = [f"{n} {extension}" for extension, n in sorted(others.items(), key=lambda one: (-one[1], one[0]))]
    rest = len(most) - _SHOWN
    return ", ".join(most[:_SHOWN]) + (f" and {rest} kinds more" if rest > 0 else "")


def _search(folder: Path, seen: set[Path], others: Counter[str]) -> Iterator[Path]:
    """Yield the slides below a folder, by path, and count the `others` by extension.

    Links to folders are followed, once each; the folder of a MIRAX slide holds nothing but parts of it.
    """
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except PermissionError as error:
        raise NotFound(f"{folder} cannot be listed: {error.strerror}", "Check its permissions.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if is_image(entry):
                yield entry
            elif entry.suffix == ".zarr":
                others[".zarr that holds no OME-Zarr image"] += 1
            elif not entry.with_name(f"{entry.name}.mrxs").exists():
                yield from _search(entry, seen, others)
        elif _is_slide(entry):
            yield entry
        else:
            others[entry.suffix.lower() or "without extension"] += 1


def _is_slide(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS and path.is_file()
