"""The files of a slide: one, or a folder beside it (MIRAX), or a folder (OME-Zarr)."""

from __future__ import annotations

from pathlib import Path

from gigacli.wsi.ome_zarr import files_that_tell


def slide_files(path: Path, *, whole: bool = False) -> list[Path]:
    """Return the files of a slide, those that describe it first.

    Args:
        path: The slide.
        whole: All chunks of an OME-Zarr image, rather than some.
    """
    if path.is_dir():
        told = files_that_tell(path)
        return [*told, *sorted(_files_in(path) - set(told))] if whole else told
    folder = path.with_suffix("")
    return [path, *(sorted(_files_in(folder)) if path.suffix.lower() == ".mrxs" and folder.is_dir() else ())]


def size_and_time(path: Path) -> tuple[int, int]:
    """Return bytes and time of the last change (nanoseconds) of a slide.

    Of an OME-Zarr image they are those of the files that tell it from others.

    Raises:
        OSError: It is not there.
    """
    found = [file.stat() for file in (files_that_tell(path) if path.is_dir() else [path])]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def stamp(path: Path) -> tuple[int, int]:
    """Return the same of any file; zeros where it is not there any more."""
    try:
        return size_and_time(path)
    except OSError:
        return 0, 0


def _files_in(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}
