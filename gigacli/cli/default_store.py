"""The store of a command line that names none, and which of its words names one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gigacli.cli.command import STORE, Argument
from gigacli.errors import InvalidInput


def settle(arguments: Sequence[Argument], values: dict[str, Any]) -> None:
    """Give words to the arguments they are meant for, and the store that is meant where none is named.

    A command line that leaves the store out begins with its next argument: ``giga search SLIDE``. Its first word is
    the store if it looks like one; otherwise, if the next argument would go without, or if it is a file or a folder
    with something in it, which cannot become a store.

    Args:
        arguments: Of the command.
        values: Of the arguments, changed in place.

    Raises:
        InvalidInput: An argument is missing; or no store is named, and none can be meant.
    """
    from gigacli.store.address import find_store

    words = [argument for argument in arguments if not argument.flag]
    if not words or words[0] is not STORE:
        return
    word, rest = values["store"], words[1:]
    if word is not None and rest and not looks_like_store(word):
        name, several = rest[0].name, rest[0].kind == list[str]
        if not values[name] or (several and _is_taken(Path(word))):
            values[name] = [word, *values[name]] if several else word
            values["store"] = None
    for argument in rest:
        if argument.default is inspect.Parameter.empty and not values[argument.name]:
            raise InvalidInput(f"{argument.metavar.strip('.')} is missing", f"it is: {argument.help}")
    if values["store"] is None:
        values["store"] = find_store()


def looks_like_store(word: str) -> bool:
    """Whether a word is a URL, the name of a store or a folder that is a zarr group."""
    return "://" in word or word.rstrip("/").endswith(".zarr") or (Path(word) / "zarr.json").is_file()


def _is_taken(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
