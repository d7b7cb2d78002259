"""What ``giga import`` is asked to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gigacli.errors import NotFound
from gigacli.store.store import Store

if TYPE_CHECKING:
    from gigacli.config.tools import ImportConfig
    from gigacli.importing.slides import Said


@dataclass(frozen=True)
class Request:
    """Where to, and what the user says.

    Attributes:
        where: The store.
        known: It, opened, or None where there is none yet.
        said: What the user's table says of slides.
        config: The options.
        started: When, on the monotonic clock.
    """

    where: str | Path | Store
    known: Store | None
    said: dict[str, Said]
    config: ImportConfig
    started: float

    def opened(self) -> Store:
        """The store, made if it is not there."""
        return self.known if self.known is not None else Store.create(str(self.where))


def existing(store: str | Path | Store) -> Store | None:
    """The store if there is one, open for writing.

    Raises:
        Mismatch: What is there is no store.
    """
    if isinstance(store, Store):
        return store
    url = str(store)
    if "://" not in url and Path(url).is_dir() and all(p.suffix == ".partial" for p in Path(url).iterdir()):
        return None  # an empty folder, or what a writer left that was killed at once
    try:
        return Store.open(url, write=True)
    except NotFound:
        return None


@dataclass(frozen=True)
class ImportSummary:
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
    tiles: int
    width: int
    mpp: float
    mpp_source: str
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
