"""A cohort that exists as tile features only: what `benchmarks/study.py` trains on beside drawn slides.

Every tile has one of six types. A feature is the type's prototype, plus what is special about the tile, plus the
stain of its lab and patient, plus, in the bank, an augmentation of the stain that all tiles of a view share and a
little noise of its own. Two labels, independent of each other, of lab and of everything else, each a patient's:

- `mixture` (few, many): slides of `many` hold more tiles of type 0 and fewer of type 1; patients differ in it, too.
- `arrangement` (mixed, apart): how the tiles of types 2 and 3 lie in the region they share: shuffled, or one on each
  side of a smooth line. Region and numbers are drawn before the label is looked at, so nothing else can tell.

The label `lab` is a nuisance: whether vectors still know it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LABS, SLIDES_OF_A_PATIENT = 4, 2
TISSUE = (0.35, 0.6)
WIDTH, TYPES, STAIN = 64, 6, 8
AUGMENTATIONS = 24
MPP, TILE_PX, TILE_L0_PX = 0.5, 256, 512

SHIFT = 0.35
"""Of the logits of types 0 and 1, up or down, by the label `mixture`."""
PATIENT, SLIDE = 0.4, 0.2
"""Spread of the logits of all types between patients, and between the slides of one."""
OWN, STAIN_OF_LAB, STAIN_OF_PATIENT, SCANNER, NOISE = 1.2, 1.0, 1.0, 0.3, 0.5
"""Spread, per feature or stain, of what a tile, a lab, a patient, a scanner and a draw add."""
AUGMENTED = 4.0
"""The same of an augmentation: well above what labs and patients differ by, as colour jitter is."""


@dataclass(frozen=True)
class Size:
    """How large slides are, and how many tiles of them a bank holds per augmentation."""

    grid: int  # cells along an edge, of which about half are tissue
    draws: int


SMALL, LARGE = Size(24, 64), Size(46, 256)
"""About 270 tiles a slide, and about 1,000."""


@dataclass(frozen=True)
class Slide:
    """What is known of a simulated slide.

    Attributes:
        cells: (n, 2) int64, (x, y) of its tiles on the grid.
        kind: (n,) type of each tile.
        features: (n, WIDTH) float32, un-augmented.
    """

    cells: NDArray[np.int64]
    kind: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """What all slides of a cohort share.

    Attributes:
        prototypes: (TYPES, WIDTH).
        stains: (STAIN, WIDTH), rows of unit length: directions that a stain moves features in.
        labs: (LABS, STAIN) the stain of each lab.
        scanners: (LABS, WIDTH) what a lab adds that no augmentation imitates.
    """

    prototypes: NDArray[np.float64]
    stains: NDArray[np.float64]
    labs: NDArray[np.float64]
    scanners: NDArray[np.float64]

    @classmethod
    def of(cls, seed: int) -> World:
        """The world of a seed."""
        rng = keyed_rng(seed, "world")
        stains = np.linalg.qr(rng.standard_normal((WIDTH, STAIN)))[0].T * np.sqrt(WIDTH / STAIN)
        return cls(
            rng.standard_normal((TYPES, WIDTH)),
            stains,
            STAIN_OF_LAB * rng.standard_normal((LABS, STAIN)),
            SCANNER * rng.standard_normal((LABS, WIDTH)),
        )


def smooth(rng: np.random.Generator, scale: float, grid: int) -> NDArray[np.float64]:
    """Noise (grid, grid) whose bumps are about `scale` cells wide."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(grid), np.fft.fftfreq(grid)))
    spectrum = np.fft.fft2(rng.standard_normal((grid, grid))) * np.exp(-2 * (frequency * scale) ** 2)
    field = np.fft.ifft2(spectrum).real
    return field / field.std()


def lay_out(
    rng: np.random.Generator, logits: NDArray[np.float64], *, apart: bool, grid: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells (n, 2) of a slide's tiles and their types (n,), those of types 2 and 3 by the label `arrangement`.

    Both arrangements are made and one is taken: the generator is left in the same state by both.
    """
    outline = smooth(rng, 8, grid)
    y, x = np.nonzero(outline > np.quantile(outline, 1 - rng.uniform(*TISSUE)))
    share = np.exp(logits) / np.exp(logits).sum()
    counts = np.floor(share * len(x)).astype(np.int64)
    counts[-1] += len(x) - counts.sum()
    of_others = np.repeat([0, 1, 4, 5], counts[[0, 1, 4, 5]])
    order = np.argsort(smooth(rng, 8, grid)[y, x])  # the region of types 2 and 3 is at its end
    region, rest = order[len(of_others) :], order[: len(of_others)]
    kind = np.empty(len(x), dtype=np.int64)
    kind[rest[np.argsort(smooth(rng, 3, grid)[y, x][rest])]] = of_others
    inside = np.repeat([2, 3], counts[[2, 3]])
    one_side, shuffled = np.argsort(smooth(rng, 8, grid)[y, x][region]), rng.permutation(len(region))
    kind[region[one_side if apart else shuffled]] = inside
    return np.stack([x, y], axis=1), kind


def draw_slide(world: World, patient: dict[str, int], seed: int, number: int, *, grid: int) -> Slide:
    """A slide of a patient."""
    own, rng = keyed_rng(seed, "patient", patient["number"]), keyed_rng(seed, "slide", patient["number"], number)
    logits = PATIENT * own.standard_normal(TYPES) + SLIDE * rng.standard_normal(TYPES)
    logits[:2] += SHIFT * (2 * patient["mixture"] - 1) * np.array([1, -1])
    cells, kind = lay_out(rng, logits, apart=bool(patient["arrangement"]), grid=grid)
    stain = world.labs[patient["lab"]] + STAIN_OF_PATIENT * own.standard_normal(STAIN)
    plain = world.prototypes[kind] + OWN * rng.standard_normal((len(kind), WIDTH))
    features = plain + stain @ world.stains + world.scanners[patient["lab"]]
    return Slide(cells, kind, features.astype(np.float32))


def draw_bank(
    world: World, slide: Slide, rng: np.random.Generator, *, draws: int
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """A bank's rows of a slide (AUGMENTATIONS, draws, WIDTH), and which tile each is of."""
    tile = rng.integers(0, len(slide.kind), (AUGMENTATIONS, draws))
    shift = AUGMENTED * rng.standard_normal((AUGMENTATIONS, STAIN)) @ world.stains  # shared by a view
    noise = NOISE * rng.standard_normal((AUGMENTATIONS, draws, WIDTH))
    return (slide.features[tile] + shift[:, None] + noise).astype(np.float16), tile


def plan(patients: int) -> list[dict[str, int]]:
    """Every combination of both labels and lab equally often; the number of a patient tells nothing."""
    if patients % (4 * LABS):
        raise ValueError(f"{patients} patients: take a multiple of {4 * LABS}")
    return [{"number": i, "mixture": i % 2, "arrangement": i // 2 % 2, "lab": i // 4 % LABS} for i in range(patients)]


def write(folder: Path, *, seed: int, size: Size = SMALL, patients: int = 64) -> tuple[Path, Path, list[Slide]]:
    """A store with tiles, features and bank `simulated`, a table of its labels, and the truth; kept where complete."""
    world = World.of(seed)
    people = [p for p in plan(patients) for _ in range(SLIDES_OF_A_PATIENT)]
    drawn = [draw_slide(world, p, seed, i % SLIDES_OF_A_PATIENT, grid=size.grid) for i, p in enumerate(people)]
    ids = [f"p{p['number']:03}_{i % SLIDES_OF_A_PATIENT}" for i, p in enumerate(people)]
    path, labels = folder / "cohort.zarr", folder / "labels.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with labels.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("slide_id", "patient_id", "mixture", "arrangement", "lab"))
        for slide, p in zip(ids, people, strict=True):
            many, apart = ("few", "many")[p["mixture"]], ("mixed", "apart")[p["arrangement"]]
            table.writerow((slide, f"p{p['number']:03}", many, apart, f"lab{p['lab']}"))
    store = Store.create(path)
    if store.progress().get("banks/simulated") != len(ids):
        _fill(store, ids, drawn, world, seed, size)
    return path, labels, drawn


def _fill(store: Store, ids: list[str], drawn: list[Slide], world: World, seed: int, size: Size) -> None:
    most, edge = max(len(s.kind) for s in drawn), size.grid * TILE_L0_PX
    rows = [SlideRow(id=name, path=f"/{name}", patient=name[:4], size_px=(edge, edge), mpp=MPP) for name in ids]
    store.write_slides(SlideTable(tuple(rows)))
    tiles, features, bank = store.tiles, store.features("simulated"), store.bank("simulated")
    config = {"mpp": MPP * TILE_L0_PX / TILE_PX, "tile_px": TILE_PX, "overlap": 0, "min_tissue": 0.5}
    tiles.begin(Recipe("tile", config, {}), most, redo=False)
    base, inputs = {"encoder": "none", "precision": "fp32"}, {"tiles": tiles.fingerprint, "encoder": "0" * 64}
    features.begin(Recipe("bank", base, inputs), WIDTH, redo=False)
    made = {**base, "augmentations": AUGMENTATIONS, "draws": size.draws, "seed": 0}
    bank.begin(Recipe("bank", made, inputs), WIDTH, redo=False)
    every = np.ones((AUGMENTATIONS, size.draws), dtype=bool)
    for i, slide in enumerate(drawn):
        vectors, tile = draw_bank(world, slide, keyed_rng(seed, "bank", i), draws=size.draws)
        corners = (slide.cells * TILE_L0_PX).astype(np.int32)
        tiles.write(i, corners, np.ones(len(corners), dtype=np.float32))
        features.write(i, slide.features.astype(np.float16))
        bank.write(i, vectors, tile.astype(np.int32), made=every)


def composition(slide: Slide) -> NDArray[np.float64]:
    """Shares of the types, (TYPES,)."""
    return np.bincount(slide.kind, minlength=TYPES) / len(slide.kind)


def neighbours_alike(slide: Slide) -> float:
    """The hand-made statistic of `arrangement`: among neighbours of types 2 and 3, the share that are of one type."""
    grid = np.full(slide.cells.max(axis=0)[::-1] + 2, -1)
    grid[slide.cells[:, 1], slide.cells[:, 0]] = slide.kind
    pairs = [(grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:])]
    both = [(a[k], b[k]) for a, b in pairs for k in [np.isin(a, (2, 3)) & np.isin(b, (2, 3))]]
    return float(np.mean(np.concatenate([a == b for a, b in both])))


def moran(slide: Slide) -> NDArray[np.float64]:
    """The same from features alone, blind to types: per feature, Moran's I over the pairs of neighbours, (WIDTH,)."""
    index = np.full(slide.cells.max(axis=0)[::-1] + 2, -1)
    index[slide.cells[:, 1], slide.cells[:, 0]] = np.arange(len(slide.kind))
    centred = slide.features - slide.features.mean(axis=0)
    pairs = [(index[:-1].ravel(), index[1:].ravel()), (index[:, :-1].ravel(), index[:, 1:].ravel())]
    first, second = (np.concatenate([p[i][(p[0] >= 0) & (p[1] >= 0)] for p in pairs]) for i in (0, 1))
    return (centred[first] * centred[second]).mean(axis=0) / centred.var(axis=0)
