"""What becomes of each group of results when slides of stores go into a new one; everything is looked at first.

A group is what the verbs would have made of these slides, with the options that its recipe says. What was learnt on
other slides too comes in as it would from a file: encoders and models are then no results of the new store. What
cannot, as it is fitted on the slides of its store, is left out, and it is said how to make it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.cohort.room import room_for
from gigacli.errors import InvalidInput, Mismatch, NotFound, SlideError
from gigacli.store.groups import NAMED, Bank, Embedding, Encoder, Features, Group, Model, Tiles
from gigacli.store.lineage import input_group
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideTable

BY_SLIDE = ("mean", "model", "random-init", "import")
"""Aggregators of embeddings whose vector of a slide depends on no other slide."""

COUNTED = ("generation", "tool_version")
"""What a recipe says of imports that another import of the same files may say otherwise."""

ELSEWHERE = ("timm", "published")
"""What the recipe of an encoder says whose weights others keep."""

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Source:
    """Slides of a store, on their way into another.

    Attributes:
        store: The store.
        rows: (n,) of the slides that are taken, ascending.
        first: Row of the first of them in the new store.
    """

    store: Store
    rows: NDArray[np.int64]
    first: int

    def taken(self, finished: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows, here and in the new store, of the slides that are taken and finished (slide,) in a group."""
        some = finished[self.rows]
        return self.rows[some], self.first + np.flatnonzero(some)


@dataclass(frozen=True, eq=False)
class PlannedGroup:
    """A group of the new store.

    Attributes:
        recipe: As the verbs would have written it.
        parts: The same group of each store that has it.
    """

    recipe: Recipe
    parts: list[tuple[Source, Group]]


@dataclass(frozen=True, eq=False)
class MergePlan:
    """A store that is to be made.

    Attributes:
        url: Where.
        sources: Where its slides come from.
        table: Its slides.
        groups: Its groups, by path, in the order in which they are written.
        left_out: Groups that it will not have: path -> why, and what makes it.
        room: Tiles of a slide that there is room for.
    """

    url: str
    sources: list[Source]
    table: SlideTable
    groups: dict[str, PlannedGroup] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    room: int = 0


def plan_merge(taken: Sequence[tuple[Store, NDArray[np.int64]]], url: str) -> MergePlan:
    """Plan the store at a path or URL that some slides (rows) of stores go into.

    Raises:
        NotFound: A store has no slides.
        InvalidInput: Slides of one id are in several stores.
        Mismatch: Tiles, tile encoders, features or banks of one name were made otherwise in one of them.
    """
    sources, first = [], 0
    for store, rows in taken:
        if not store.registered:
            raise NotFound(f"{store.url} holds no slides", f"run: giga tile {store.url} SLIDES")
        sources.append(Source(store, rows, first))
        first += len(rows)
    _refuse_shared(sources)
    table = SlideTable(tuple(s.store.slides[row] for s in sources for row in s.rows.tolist()))
    plan = MergePlan(url, sources, table)
    made: dict[str, PlannedGroup] = {}
    for kind in (Tiles, Features, Bank, Model, Embedding):
        for path, parts in _found(sources, kind).items():
            _add(plan, made, path, parts)
    encoders = _encoders(plan, made)
    tiles = {path: group for path, group in made.items() if path == Tiles.kind}
    plan.groups.update(tiles | encoders | made)
    return replace(plan, room=_room(plan))


def _refuse_shared(sources: Sequence[Source]) -> None:
    where: dict[str, list[str]] = {}
    for source in sources:
        for row in source.rows.tolist():
            where.setdefault(source.store.slides[row].id, []).append(source.store.url)
    if shared := [name for name, urls in where.items() if len(urls) > 1]:
        urls = where[shared[0]]
        some = ", ".join(shared[:SHOWN]) + " ..." * (len(shared) > SHOWN)
        raise InvalidInput(
            f"{len(shared)} slides are in {urls[0]} and in {urls[1]}: {some}",
            f"leave them out of one of the two first: giga subset {urls[1]} --slides LIST --to rest.zarr",
        )


def _found(sources: Sequence[Source], kind: type[Group]) -> dict[str, list[tuple[Source, Group]]]:
    """Groups of a kind by path, those of the first store first."""
    found: dict[str, list[tuple[Source, Group]]] = {}
    for source in sources:
        store = source.store
        groups: list[Any] = store.groups(kind) if kind in NAMED else [store.tiles] if store.tiles.found else []
        for group in groups:
            found.setdefault(group.path, []).append((source, group))
    return found


def _add(plan: MergePlan, made: dict[str, PlannedGroup], path: str, parts: list[tuple[Source, Group]]) -> None:
    """Add a group, or say why it is left out."""
    kept: list[tuple[Source, Group, Recipe]] = []
    reasons: dict[str, str] = {}  # by store
    for source, group in parts:
        if why := _why_not(group, made, plan.url):
            reasons[source.store.url] = why
        else:
            kept.append((source, group, _as_from_files(group, made)))
    for url, why in list(reasons.items())[:1]:
        plan.left_out[path] = f"slides of {url}: {why}" if kept else why
    if not kept:
        return
    (source, group, recipe), *others = kept
    for other, _, theirs in others:
        if _comparable(theirs) == _comparable(recipe):
            continue
        names = {"here": f"in {source.store.url}", "there": f"in {other.store.url}"}
        found = recipe.differences(theirs, **names)
        if isinstance(group, Embedding):
            again = f"make it anew: {group.command(plan.url)}"
            plan.left_out[path] = f"it was made otherwise: {'; '.join(found)}; {again}"
            return
        raise _otherwise(group, found, other.store.url)
    made[path] = PlannedGroup(recipe, [(one, mine) for one, mine, _ in kept])


def _otherwise(group: Group, found: Sequence[str], other: str) -> Mismatch:
    again = f"make it anew in one of them with the options of the other: {group.command(other)} --redo"
    return Mismatch(
        f"{group.path} of {group.store.url} and of {other} were made otherwise, and do not go into one store:\n  "
        + "\n  ".join(found),
        again if isinstance(group, Tiles) else f"{again}; or give one of them another `name`",
    )


def _why_not(group: Group, made: dict[str, PlannedGroup], url: str) -> str:
    """Why a group does not go with its slides, and what makes it; "" where it does."""
    store, again = group.store, f"make it, with its options: {group.command(url)}"
    if group.replaced:
        return f"it is stale in {store.url}: {'; '.join(group.replaced)}"
    if isinstance(group, Model) and not group.complete:
        return f"its training in {store.url} is not finished"
    if isinstance(group, Model):
        file = f"{group.name}.safetensors"
        return (
            f"it was trained on slides of {store.url}; take it along as a file: giga export {shlex.quote(store.url)} "
            f"{group.path} --to {file}, then giga embed {shlex.quote(url)} --model {file}"
        )
    if isinstance(group, Bank) and group.learns:
        return f"its operators were learnt from slides of {store.url}; {again}"
    if not isinstance(group, Embedding):
        return ""
    if group.aggregator not in BY_SLIDE:
        what = "centred" if group.aggregator == "join" else "fitted"
        return f"it is {what} on the slides of {store.url}; {again}"
    needs = [input_group(group.config, key, store.attributes) for key in group.recipe.inputs if key != "model"]
    lacking = [str(path) for path in needs if path not in made]
    return f"{', '.join(lacking)}, which it was made from, is not there; {again}" if lacking else ""


def _as_from_files(group: Group, made: dict[str, PlannedGroup]) -> Recipe:
    """The recipe that a group has where models come from files, and inputs are those of the new store."""
    recipe, store = group.recipe, group.store
    inputs = dict(recipe.inputs)
    for key in inputs:
        path = input_group(recipe.config, key, store.attributes)
        if key not in ("encoder", "model") and path in made:
            inputs[key] = made[path].recipe.fingerprint
    config = dict(recipe.config)
    if "generation" in config:
        config["generation"] = 1
    if isinstance(group, Embedding) and "model" in inputs and "variant" not in config:
        features, own = group.features, config.pop("model")
        config.pop("features_name", None)
        name = features.name if features is not None else None
        config = {"model": f"{own}.safetensors", "variant": "giga", "features_name": name, **config}
    return Recipe(recipe.stage, config, inputs)


def _comparable(recipe: Recipe) -> Recipe:
    """A recipe without what may differ between stores whose slides go together: a file of one model has any name."""
    out = {*COUNTED, *(("model",) if "model" in recipe.inputs else ())}
    return replace(recipe, config={key: value for key, value in recipe.config.items() if key not in out})


def _encoders(plan: MergePlan, made: dict[str, PlannedGroup]) -> dict[str, PlannedGroup]:
    """The tile encoders that features and banks were made with, as from their files; the others are left out.

    Raises:
        Mismatch: Stores have different ones under one name.
    """
    found: dict[str, PlannedGroup] = {}
    users = [part for group in made.values() for part in group.parts if isinstance(part[1], Features | Bank)]
    for source, group in users:
        wanted = group.recipe.inputs.get("encoder")
        encoder = source.store.encoder(str(group.config["encoder"]))
        if wanted is None or not encoder.complete or encoder.sha256 != wanted:
            continue
        kept: dict[str, Any] = {key: encoder.config[key] for key in ELSEWHERE if key in encoder.config}
        recipe = Recipe("bank", {**kept, "weights_sha256": wanted}, {})
        known = found.setdefault(encoder.path, PlannedGroup(recipe, [(source, encoder)]))
        if known.recipe != recipe:
            first = known.parts[0][0].store.url
            lines = known.recipe.differences(recipe, here=f"in {first}", there=f"in {source.store.url}")
            raise _otherwise(known.parts[0][1], lines, source.store.url)
    for path, parts in _found(plan.sources, Encoder).items():
        if path not in found:
            source, group = parts[0]
            file = f"{group.name}.safetensors"
            plan.left_out[path] = (
                f"nothing was made with it; take it along as a file: giga export {shlex.quote(source.store.url)} "
                f"{path} --to {file}, then giga bank {shlex.quote(plan.url)} --encoder {file}"
            )
    return found


def _room(plan: MergePlan) -> int:
    """Tiles of a slide that the verbs would have made room for, all slides at once."""
    tiles = plan.groups.get(Tiles.kind)
    if tiles is None:
        return 0
    counts = [source.store.tiles.done().counts[source.rows].max(initial=0) for source in plan.sources]
    rooms = [int(max(counts))]
    if tiles.recipe.stage == "tile" and "coords" not in tiles.recipe.config:
        for row in plan.table.rows:
            try:
                rooms.append(room_for(row, tiles.recipe.config) if row.usable else 0)
            except SlideError:  # the list of its patches is not there any more
                continue
    return max(rooms)
