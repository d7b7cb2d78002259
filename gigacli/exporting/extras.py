"""Libraries that only some formats need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gigacli.errors import NotFound


def need(module: str, *, extra: str, what: str) -> Any:
    """Import a library of an extra.

    Raises:
        NotFound: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise NotFound(f"{what} needs {error.name}", f"run: pip install 'gigacli[{extra}]'") from None
