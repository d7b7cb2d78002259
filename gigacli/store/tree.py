"""A store as a tree to unfold in a notebook: groups with their state, recipe and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from gigacli.store.layout import UNPACKED
from gigacli.store.nodes import arrays
from gigacli.store.slide_group import SlideGroup
from gigacli.store.trained import TrainedGroup

if TYPE_CHECKING:
    from gigacli.store.group import Group
    from gigacli.store.store import Store

_CELL = '<td style="text-align:left">{}</td>'
_INDENTED = '<details{} style="margin-left:1.2em"><summary>{}</summary>{}</details>'


def tree(store: Store) -> str:
    """HTML of a store: its slides, then every group of results."""
    patients = len({row.patient for row in store.slides.rows} - {""})
    of = f" of {patients} patients" if patients else ""
    with store.tiles.read_once():
        groups = [group_tree(group) for group in store.all_groups()]
    table = _arrays(store.root, "slides")
    inside = "".join([_INDENTED.format("", f"<code>slides</code> {store.registered} slides{of}", table), *groups])
    return f"<details open><summary><b>{escape(store.url)}</b></summary>{inside}</details>"


def group_tree(group: Group, *, unfolded: bool = False) -> str:
    """HTML of a group of results: its state beside its path, its recipe and its arrays to unfold."""
    found = group.found
    if found is None:
        return f"<code>{escape(group.path)}</code> is not there"
    recipe = ", ".join(f"{name}={_value(value)}" for name, value in found.config.items())
    used = ", ".join(f"{name} {value[:8]}" for name, value in found.inputs.items())
    about = f"<div>giga {escape(found.stage)}: {escape(recipe)}{escape(f'; from {used}' if used else '')}</div>"
    state = escape("; ".join(_states(group)))
    head = f"<code>{escape(group.path)}</code> {state}"
    return _INDENTED.format(" open" if unfolded else "", head, about + _arrays(group.store.root, group.path))


def _states(group: Group) -> Iterator[str]:
    """How far it is, and what it was made from and is not there any more."""
    stale = group.replaced
    if isinstance(group, SlideGroup):
        done = group.done()
        stale = group.stale_by(done)
        yield f"{int(done.finished.sum())} of {group.store.registered} slides done"
    elif isinstance(group, TrainedGroup):
        yield "finished" if group.complete else "not finished"
    if stale:
        yield f"stale: {'; '.join(stale)}"


def _arrays(root: Any, path: str) -> str:
    rows = "".join(_array(name, array) for name, array in arrays(root, path) if f"/{UNPACKED}/" not in name)
    return f"<table><tbody>{rows}</tbody></table>" if rows else ""


def _array(path: str, array: Any) -> str:
    """A row: name, dimensions with their sizes, type."""
    names = array.metadata.dimension_names or ["?"] * array.ndim
    shape = " × ".join(f"{n:,} {name}" for name, n in zip(names, array.shape, strict=True)) or "1 value"
    kind = array.metadata.to_dict()["data_type"]
    cells = (path.partition("/")[2] or path, shape, kind if isinstance(kind, str) else str(array.dtype))
    return f"<tr>{''.join(_CELL.format(escape(cell)) for cell in cells)}</tr>"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
