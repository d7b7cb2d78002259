"""Check of a store against ``spec/store-0.2.md``, in levels: attributes, hierarchy, consistency, values.

The first three look at the flat description alone (:func:`~gigacli.store.describe.describe`), the last one reads all
data, one slide at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from gigacli.config.base import options_of
from gigacli.config.tools import ValidateConfig, ValidationLevel
from gigacli.shown import Block, Shown, some
from gigacli.store.describe import Description, Problem, attributes_of, check_hierarchy, describe, registered, written
from gigacli.store.folder import links
from gigacli.store.layout import NAMED_GROUPS, UNPACKED, beside, is_beside, spec_of
from gigacli.store.lineage import replaced
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.unfinished import unfinished
from gigacli.store.values import check_values

LEVELS = get_args(ValidationLevel)
"""In the order in which they are looked at; each one takes the ones before it for granted."""

OF_ATTRIBUTES = ("ROOT-1", "SLIDES-2", "RECIPE-1")  # rules of level 1; the schema's other ones are of level 2


@dataclass(frozen=True)
class Report(Shown):
    """Result of a validation.

    Attributes:
        store: Path or URL of the store.
        problems: Departures from the specification; empty for a valid store.
        unfinished: What was begun and is not done, which is no problem.
        checked: What was looked at.
        seconds: Time it took.
    """

    store: str
    problems: list[Problem]
    unfinished: list[str]
    checked: list[str]
    seconds: float

    def blocks(self) -> Iterator[Block]:
        """The problems, then what was begun."""
        yield from some("problems", ("rule", "path", "what"), ((p.rule, p.path, p.message) for p in self.problems))
        yield from (f"unfinished: {line}" for line in self.unfinished)
        yield f"{self.store}: {len(self.problems)} problems; checked {', '.join(self.checked)}"


@options_of(ValidateConfig)
def validate(config: ValidateConfig, path: str | Path | Store, *, level: ValidationLevel = "values") -> Report:
    """Check a store against the specification. An unfinished store is valid; a damaged one gives problems.

    Args:
        path: The cohort store.

    Raises:
        NotFound: There is nothing at `path`.
        Mismatch: What is there is not a cohort store, or of a version this giga does not read.
        InvalidInput: There is no such level.
    """
    started = time.monotonic()
    store = Store.open(path)
    description, level = describe(store), config.level
    problems = check_description(description, level=level)
    left: list[str] = []
    checked = list(LEVELS[: LEVELS.index(level) + 1])
    if level == "values":
        problems += check_values(store, description)
        problems += [Problem("ROOT-5", link, "is a symbolic link") for link in links(store.root, chunks=True)]
        left = unfinished(store)
        checked[-1] = f"values of {registered(description)} slides"
    return Report(store.url, problems, left, checked, time.monotonic() - started)


def check_description(description: Description, *, level: str = "consistency") -> list[Problem]:
    """Levels 1 to 3, or fewer: everything that a store's flat description tells."""
    problems = check_hierarchy(description)
    if level == "attributes":
        return [problem for problem in problems if problem.rule in OF_ATTRIBUTES]
    if level == "hierarchy":
        return problems
    unsound = {problem.path for problem in problems}
    sound = {path: node for path, node in description.items() if path not in unsound}
    for check in (_slide_axis, _tile_axis, _packed, _banks, _embeddings, _inputs):
        problems += check(sound)
    return problems


def _arrays(description: Description, *, group: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Arrays that count as there, under the dimension names of the layout."""
    for path, node in description.items():
        spec, kind = spec_of(path), path.split("/")[0]
        if spec is None or (group and not path.startswith(f"{group}/")):
            continue
        owner = "/".join(path.split("/")[:2]) if kind in NAMED_GROUPS else kind
        if kind == "failures" or written(description, owner):
            yield path, dict(zip(spec.dims, node["shape"], strict=True))


def _slide_axis(description: Description) -> Iterator[Problem]:
    n = registered(description)
    for path, sizes in _arrays(description):
        if sizes.get("slide", n) < n:
            yield Problem("AXES-1", path, f"dimension slide has size {sizes['slide']}; {n} slides are registered")


def _tile_axis(description: Description) -> Iterator[Problem]:
    arrays = dict(_arrays(description))
    if "tiles/coords" not in arrays:
        return
    most = arrays["tiles/coords"]["tile"]
    for path, sizes in arrays.items():
        if sizes.get("tile", most) > most:
            yield Problem("AXES-3", path, f"dimension tile has size {sizes['tile']}; it is {most} in tiles/coords")


def _packed(description: Description) -> Iterator[Problem]:
    """What may lie in tables because it is packed, and what a packed group must have for slides to come."""
    for path in dict(_arrays(description)):
        spec = spec_of(path)
        if spec is None or spec.chunk != "slide" or is_beside(path):
            continue
        group = path.rpartition("/")[0]
        marks = [path] if group == "failures" else [f"{group}/done", f"{group}/count"]
        if any(beside(mark) in description for mark in marks) and beside(path) not in description:
            yield Problem("PACKED-2", beside(path), "the array is missing, and its group is packed")
        if f"{group}/{UNPACKED}" not in description and description[path]["chunks"][0] != 1:
            text = f"a chunk holds {description[path]['chunks'][0]} slides, and the group is not packed"
            yield Problem("AXES-2", path, text)


def _banks(description: Description) -> Iterator[Problem]:
    arrays = dict(_arrays(description))
    for path, sizes in arrays.items():
        group, _, name = path.rpartition("/")
        if not group.startswith("banks/") or name not in ("vectors", "tile") or is_beside(path):
            continue
        config = attributes_of(description, group)["recipe"]["config"]
        for axis, key in (("augmentation", "augmentations"), ("draw", "draws")):
            grows = f"{group}/kept" in arrays and sizes[axis] > config[key]  # its recipe comes last
            if sizes[axis] != config[key] and not grows:
                text = f"dimension {axis} has size {sizes[axis]}; the recipe says {config[key]}"
                yield Problem("BANKS-3", path, text)
        chunks, shape = description[path]["chunks"], description[path]["shape"]
        whole = chunks[1:] == shape[1:]
        if name == "vectors" and not whole and (f"{group}/kept" not in arrays or chunks[3] != shape[3]):
            yield Problem("BANKS-2", path, f"chunks are {chunks}; one slide is {[1, *shape[1:]]}")
        plain = arrays.get(f"features/{group.removeprefix('banks/')}/vectors")
        if name == "vectors" and plain is not None and plain["feature"] != sizes["feature"]:
            text = f"dimension feature has size {sizes['feature']}; in the features of this name {plain['feature']}"
            yield Problem("BANKS-3", path, text)


def _embeddings(description: Description) -> Iterator[Problem]:
    arrays = dict(_arrays(description))
    for path, sizes in arrays.items():
        group = path.rpartition("/")[0]
        if not path.startswith("embeddings/") or "feature" not in sizes:
            continue
        config = attributes_of(description, group)["recipe"]["config"]
        features = arrays.get(f"features/{config.get('features_name')}/vectors")
        if config["aggregator"] == "mean" and features is not None and features["feature"] != sizes["feature"]:
            text = f"a mean of features of width {features['feature']} has width {sizes['feature']}"
            yield Problem("EMBEDDINGS-5", path, text)


def _inputs(description: Description) -> Iterator[Problem]:
    """Recipes chain up: an input that is in the store must be the one that was used."""
    for path in description:
        recipe = attributes_of(description, path).get("recipe")
        if recipe is not None:
            for why in replaced(Recipe(**recipe), partial(attributes_of, description)):
                yield Problem("RECIPE-3", path, f"is stale: {why}")
