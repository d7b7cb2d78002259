"""The kinds of groups of results, each with a class of its own: what a stage reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gigacli.errors import InvalidInput
from gigacli.store.bank import Bank
from gigacli.store.embedding import Embedding
from gigacli.store.features import Features
from gigacli.store.group import Group
from gigacli.store.slide_group import Done, SlideGroup
from gigacli.store.tiles import TileGrid, Tiles
from gigacli.store.trained import Encoder, Model, TrainedGroup

if TYPE_CHECKING:
    from gigacli.store.store import Store

__all__ = [
    "NAMED",
    "Bank",
    "Done",
    "Embedding",
    "Encoder",
    "Features",
    "Group",
    "Model",
    "SlideGroup",
    "TileGrid",
    "Tiles",
    "TrainedGroup",
    "group_at",
]

NAMED: tuple[type[Group], ...] = (Encoder, Features, Bank, Model, Embedding)
"""Kinds of which a store may hold several, by name; in the order of the format."""


def group_at(store: Store, path: str) -> Group:
    """The group at a path such as ``embeddings/giga`` or ``tiles``, whether it is there or not.

    Raises:
        InvalidInput: The format knows no such group.
    """
    kind, slash, name = path.partition("/")
    if kind == Tiles.kind and not slash:
        return store.tiles
    of = next((one for one in NAMED if one.kind == kind), None)
    if of is None or not name or "/" in name:
        raise InvalidInput(f"{path!r} is no group of results", f"kinds are: {', '.join(one.kind for one in NAMED)}")
    return store.group(of, name)
