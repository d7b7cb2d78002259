"""Files and folders of an export: checked first, written aside, then put in their place as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gigacli.errors import GigaError, InvalidInput
from gigacli.files import abandoned, new_file, partial_path

NOTE = "giga.json"  # in every exported folder: what it was made from, and the names of its files


def check_free(to: Path, *, folder: bool, redo: bool) -> None:
    """Refuse to replace files that no export wrote, or without `redo`.

    Raises:
        InvalidInput: There is something already, and `redo` is off; or it is no earlier export, or more than that.
    """
    if not to.exists() or (folder and to.is_dir() and not any(to.iterdir())):
        return
    if folder != to.is_dir():
        raise InvalidInput(
            f"{to} is a {'folder' if to.is_dir() else 'file'}; a {'folder' if folder else 'file'} is written"
        )
    if folder:
        _check_ours(to, redo=redo)
    if not redo:
        raise InvalidInput(f"{to} is there already", "name another `to`, or replace it with `redo=True`")


def _check_ours(folder: Path, *, redo: bool) -> None:
    """Refuse to touch a folder with files that no export wrote."""
    try:
        ours = {NOTE, *json.loads((folder / NOTE).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput(f"{folder} is a folder that giga export did not write", "name a new one with `to`") from None
    others = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    others = [name for name in others if name not in ours]
    if redo and others:
        raise InvalidInput(
            f"{folder} also holds {others[0]}, which giga export did not write ({len(others)} such files)",
            "move them away, or name another `to`",
        )


@contextmanager
def export_file(to: Path) -> Iterator[Path]:
    """Give a path to write to; what is there when the block ends well replaces `to`.

    Raises:
        GigaError: It cannot be written.
    """
    with _write_errors(to), new_file(to) as path:
        yield path


@contextmanager
def export_folder(to: Path, note: dict[str, Any]) -> Iterator[Path]:
    """Give a folder to write into; when the block ends well it gets its note and replaces `to`.

    Raises:
        GigaError: It cannot be written.
    """
    with _write_errors(to):
        _clean_up(to)
        aside = partial_path(to)
        made, old = aside / "new", aside / "old"
        try:
            made.mkdir(parents=True)
            yield made
            files = sorted(p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file())
            text = json.dumps({**note, "files": files}, indent=1, sort_keys=True, ensure_ascii=False)
            (made / NOTE).write_text(text + "\n", encoding="utf-8")
            if to.exists():
                to.rename(old)
            made.rename(to)
        finally:
            _put_back(old, to)
            shutil.rmtree(aside, ignore_errors=True)


def _clean_up(to: Path) -> None:
    """Remove what killed exports to the same folder left; an earlier export that one had just put aside comes back."""
    for left in abandoned(to.parent, name=to.name):
        _put_back(left / "old", to)
        shutil.rmtree(left, ignore_errors=True)


def _put_back(old: Path, to: Path) -> None:
    if old.is_dir() and not to.exists():
        old.rename(to)


@contextmanager
def _write_errors(to: Path) -> Iterator[None]:
    try:
        yield
    except GigaError:
        raise
    except OSError as error:
        raise GigaError(
            f"{to} cannot be written: {error}", "make room, give write access, or name another `to`"
        ) from error


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
