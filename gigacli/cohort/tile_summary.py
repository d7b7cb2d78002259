"""What ``giga tile`` says of a run: tiles per slide, the lowest ten, failures by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from gigacli.errors import kind_of

LOWEST = 10


@dataclass(frozen=True)
class TileSummary:
    """What ``giga tile`` did.

    Attributes:
        slides: Slides of this shard, all of them without ``--shard``.
        done: Slides tiled now.
        skipped: Slides that were tiled before.
        failed: Slides that could not be registered or read.
        empty: Slides without tissue: a result, not a failure.
        tiles: Tiles of this shard's slides.
        least: Tiles of the slide with the fewest.
        median: Tiles of the slide in the middle.
        most: Tiles of the slide with the most.
        seconds: Time it took.
        why_empty: Reason per slide that turned out to have no tiles now.
        lowest: The ten slides with the fewest tiles.
        failures: Reason per slide that failed.
        reasons: How many slides failed for each kind of reason.
    """

    slides: int
    done: int
    skipped: int
    failed: int
    empty: int
    tiles: int
    least: int
    median: float
    most: int
    seconds: float
    why_empty: dict[str, str] = field(default_factory=dict)
    lowest: list[tuple[str, int]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TilePlan:
    """What a run will cost, from the headers of all slides and the tissue of a few.

    Attributes:
        slides: Slides registered.
        done: Slides tiled before.
        skipped: Slides tiled before.
        failed: Slides that cannot be tiled as registered.
        positions: Grid positions of all slides: an upper bound of the tiles.
        estimated_tiles: Tiles expected.
        estimated_tile_seconds: Time to tile what is not done, on one process of this machine.
        estimated_bank_gib: Size of a bank of 50 augmentations of 256 draws of 256 features.
        seconds: Time it took to plan.
        failures: Reason per slide that cannot be tiled.
    """

    slides: int
    done: int
    skipped: int
    failed: int
    positions: int
    estimated_tiles: int
    estimated_tile_seconds: float
    estimated_bank_gib: float
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)


def summarise(
    counts: dict[str, int],
    *,
    new: int,
    slides: int,
    failures: dict[str, str],
    why_empty: dict[str, str],
    seconds: float,
) -> TileSummary:
    """The summary of a run.

    Args:
        counts: Tiles of every slide that is done.
        new: How many of those were done now.
        slides: Slides there are.
        failures: Reason per slide that failed.
        why_empty: Reason per slide without tiles.
        seconds: Time it took.
    """
    numbers = sorted(counts.values()) or [0]
    return TileSummary(
        slides=slides,
        done=new,
        skipped=len(counts) - new,
        failed=len(failures),
        empty=sum(n == 0 for n in counts.values()),
        tiles=sum(counts.values()),
        least=numbers[0],
        median=float(median(numbers)),
        most=numbers[-1],
        seconds=seconds,
        why_empty=why_empty,
        lowest=sorted(counts.items(), key=lambda item: (item[1], item[0]))[:LOWEST],
        failures=failures,
        reasons=dict(Counter(kind_of(reason) for reason in failures.values()).most_common()),
    )
