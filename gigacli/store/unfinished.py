"""What was begun and is not done: what a kill leaves, and all that is left to see of a mark that was lost.

A store in which something is unfinished is valid, and the same command goes on with it.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from gigacli.store.groups import Bank, Features, Group, Tiles, TrainedGroup
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Store
from gigacli.store.unpacked import chunks_of


def unfinished(store: Store) -> list[str]:
    """Groups with something that is not done though there is something of it, one line each.

    What cannot be read is left out: it is a problem of its own.
    """
    lines = []
    with suppress(Exception):  # of any kind, as damaged data make codecs raise anything
        for group in store.all_groups():
            with suppress(Exception):
                lines += _of(group)
    return lines


def _of(group: Group) -> list[str]:
    if isinstance(group, TrainedGroup):
        begun = not group.complete and group.has("weights") and group.store.has_bytes(f"{group.path}/weights")
        return [f"{group.path} has weights and is not done"] if begun else []
    if isinstance(group, Tiles):
        left = group.identities() != NOT_DONE
    elif isinstance(group, Features | Bank):
        left = np.ones(group.store.registered, dtype=bool)
    else:
        return []
    left &= ~group.done().finished & ~group.done().stale
    rows = _with_chunks(group, np.flatnonzero(left))
    if not rows:
        return []
    first = group.store.slides[rows[0]].id
    return [f"{group.path}: there is something of {len(rows)} slides that are not done, the first {first!r}"]


def _with_chunks(group: Tiles | Features | Bank, rows: NDArray[np.int64]) -> list[int]:
    chunks = chunks_of(group.array("coords" if isinstance(group, Tiles) else "vectors"))
    return [row for row in rows.tolist() if chunks.stored_of_slide(row)]
