"""Where imported files go: the recipe of their group, and what was imported into it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gigacli.errors import Mismatch
from gigacli.shown import Shown
from gigacli.store.groups import Embedding, Features
from gigacli.store.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ImportSummary(Shown):
    """What ``giga import`` did.

    Attributes:
        name: Of the features, or of the embedding, in the store.
        kind: ``features`` or ``embeddings``.
        tool: Which tool wrote the files.
        slides: Slides that were named.
        done: Slides imported now.
        skipped: Slides that were there.
        failed: Slides whose file could not be used.
        tiles: Tiles imported now.
        width: Values per vector.
        mpp: Resolution of the tiles, microns per pixel; NaN for slide vectors.
        mpp_source: Who says what a level-0 pixel measures, as in the slide table; of the first slide.
        seconds: Time it took.
        failures: Slide -> why its file could not be used.
    """

    name: str
    kind: str
    tool: str
    slides: int
    done: int
    skipped: int
    failed: int
    tiles: int = 0
    width: int
    mpp: float = float("nan")
    mpp_source: str = ""
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)


def recipe_for(group: Features | Embedding, recipe: Recipe, *, redo: bool) -> Recipe:
    """The recipe of a group: what the files say, and which import under its name they are.

    Nothing else would tell: files of other content may have the same encoder, tool and tiles. So what was trained on
    the vectors that were replaced is seen to be stale. The version of the tool stays that of the first files.

    Raises:
        Mismatch: What is there was not imported, or was imported otherwise.
    """
    store, there = group.store, group.found
    made = there is not None and there.stage != "import"
    bank = store.bank(group.name)
    if made or (isinstance(group, Features) and bank.found is not None and not bank.learns):
        raise Mismatch(
            f"{store.url} has {group.kind} or a bank of the name {group.name!r} of its own", "choose another `name`"
        )
    before = there.config if there is not None else {}
    generation = int(before.get("generation", 1)) + int(redo and there is not None)
    kept = {key: before[key] for key in ("tool_version",) if key in recipe.config and key in before and not redo}
    recipe = replace(recipe, config={**recipe.config, **kept, "generation": generation})
    group.check(recipe, redo=redo)
    return recipe
