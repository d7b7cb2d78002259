"""The cohorts of `benchmarks/study.py`: stores up to their bank, with labels. Each is made where it is missing.

- `simulated`, `large` (`simulated.py`): tile features alone, about 270 and 1,000 tiles a slide; another one per seed.
- `drawn-2`, `drawn-8`, `drawn-random`: slides of the generator of `giga demo`, another cohort per seed and none that
  of the demo (seed 0), with three tile encoders: MoCo of 2 passes, as in the demo, MoCo of 8, and random weights.
- `idc`: real tissue, of `../shared/cohorts/idc.npz`: `patient` (s), `tiles` (s), tiles packed one slide after the other
  as `xy` (n, 2) in whole tiles, `plain` (n, c) and `augmented` (n, a, c) features, `label` (s) 0, 1 or -1 for none. Of
  it there is one; seeds are those of trainings.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import judge
import numpy as np
import simulated

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDC = Path("../shared/cohorts/idc.npz")
SIZES = {"simulated": simulated.SMALL, "large": simulated.LARGE}
ENCODERS = {"drawn-2": "moco2", "drawn-8": "moco8", "drawn-random": "random-resnet18"}
COHORTS = (*SIZES, *ENCODERS, "idc")
FEW = 32
"""Labels, where `judge.py` does not say otherwise."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """A store up to its bank, and its labels."""

    name: str
    seed: int
    store: Path
    features: str  # name of the features, and of the bank
    target: str
    table: dict[str, dict[str, str]]  # labels of a slide by its id
    truth: list[simulated.Slide] = field(default_factory=list)

    @cached_property
    def ids(self) -> list[str]:
        """Slides, in the order of vectors."""
        return giga.open(self.store).slides.ids

    def judged(self, vectors: NDArray[np.floating], *, scale: bool) -> dict[str, float]:
        """Mean AUC of vectors of all slides, in all and in each half of the splits; with -C auto, and at C = 10."""
        labelled = np.array([self.table[i][self.target] != "" for i in self.ids])
        labels = np.array([self.table[i][self.target] for i in self.ids])[labelled]
        patients = [self.table[i]["patient_id"] for i in np.array(self.ids)[labelled]]
        mine = vectors[labelled]
        real = self.name == "idc"
        splits = judge.shuffled(labels, draws=1) if real else judge.by_patient(labels, patients, few=FEW)
        auto, paper = (judge.probed(mine, labels, splits, c=c, scale=scale, patients=patients) for c in ("auto", 10.0))
        main = judge.judge(mine, labels.astype(np.int64), scale=scale) if real else auto
        scores = {"auto": auto.halves(), "c10": paper.halves()}
        both = {f"{how}_{label}": halves[label] for how, halves in scores.items() for label in ("all", "few")}
        if "arrangement" in next(iter(self.table.values())):
            where = np.array([self.table[i]["arrangement"] for i in self.ids])
            places = judge.by_patient(where, patients, few=FEW)
            spatial = judge.probed(vectors, where, places, c="auto", scale=scale, patients=patients)
            both["arrangement"] = spatial.halves()["all"]
        return {**main.halves(), **both}


def cohort_of(name: str, folder: Path, seed: int) -> Cohort:
    """The cohort of a name and seed under a folder."""
    return (of_idc if name == "idc" else of_simulation if name in SIZES else of_drawing)(name, folder, seed)


def of_simulation(name: str, folder: Path, seed: int) -> Cohort:
    """Features alone."""
    path, labels, truth = simulated.write(folder / f"{name}{seed}", seed=seed, size=SIZES[name])
    return Cohort(name, seed, path, "simulated", "mixture", read_labels(labels), truth)


def of_drawing(name: str, folder: Path, seed: int) -> Cohort:
    """Slides that are drawn, tiled and encoded as by `giga demo`, but for the seed and the tile encoder."""
    size = (3072, 2304)
    made = write_cohort(folder / f"drawn{seed}", slides=96, patients=48, labs=3, seed=seed + 1, size_px=size, workers=1)
    store, encoder = made.folder / "cohort.zarr", ENCODERS[name]
    quick: dict[str, Any] = {"workers": 1, "sync": False}
    giga.tile(store, csv=made.cohort_csv, mpp=1.0, tile_px=128, **quick)
    if encoder.startswith("moco"):
        moco = {"max_tiles": 1024, "batch_size": 64, "queue": 1024, "seed": seed}
        giga.pretrain_tiles(store, name=encoder, epochs=int(encoder.removeprefix("moco")), **moco, **quick)
    giga.bank(store, encoder=encoder, augmentations=12, draws=32, compile="no", seed=seed, **quick)
    return Cohort(name, seed, store, encoder, "label", read_labels(made.labels_csv))


def of_idc(name: str, folder: Path, seed: int) -> Cohort:
    """Real tissue."""
    with np.load(IDC) as file:
        arrays = {key: file[key] for key in ("patient", "tiles", "xy", "plain", "augmented", "label")}
    store = folder / "idc.zarr"
    write_idc(store, arrays)
    labels = {f"p{p}": "" if y < 0 else str(y) for p, y in zip(arrays["patient"], arrays["label"], strict=True)}
    table = {slide: {"label": label, "patient_id": slide} for slide, label in labels.items()}
    return Cohort(name, seed, store, "plain", "label", table)


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table of labels, by slide."""
    with path.open() as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


NAME, TILE_PX, MPP, DRAWS = "plain", 50, 1.0, 48
"""Of the store of `idc`."""


def write_idc(path: Path, arrays: Any) -> Store:
    """A store with tiles, features and a bank of 12 augmentations of 48 draws; kept where there is one."""
    store = Store.create(path)
    counts, first = arrays["tiles"], np.concatenate([[0], np.cumsum(arrays["tiles"])])
    if store.progress().get(f"features/{NAME}") == len(counts):
        return store
    edge = int(arrays["xy"].max() + 1) * TILE_PX
    rows = [
        SlideRow(id=f"p{p}", path=f"/{p}", size_px=(edge, edge), mpp=MPP, patient=str(p)) for p in arrays["patient"]
    ]
    store.write_slides(SlideTable(tuple(rows)))
    plain, augmented, width = arrays["plain"], arrays["augmented"], arrays["plain"].shape[1]
    shape = (augmented.shape[1], DRAWS)
    tiles, features, bank = store.tiles, store.features(NAME), store.bank(NAME)
    config = {"mpp": MPP, "tile_px": TILE_PX, "overlap": 0, "min_tissue": 0.5}
    tiles.begin(Recipe("tile", config, {}), int(counts.max()), redo=False)
    base, inputs = {"encoder": "none", "precision": "fp32"}, {"tiles": tiles.fingerprint, "encoder": "0" * 64}
    features.begin(Recipe("bank", base, inputs), width, redo=False)
    config = {**base, "augmentations": shape[0], "draws": shape[1], "seed": 0}
    bank.begin(Recipe("bank", config, inputs), width, redo=False)
    for row, slide in enumerate(rows):
        mine = slice(first[row], first[row + 1])
        tiles.write(row, (arrays["xy"][mine] * TILE_PX).astype(np.int32), None)
        # Every tile once per augmentation, then some again.
        orders = [keyed_rng(0, "draws", slide.id, a).permutation(counts[row]) for a in range(shape[0])]
        drawn = np.stack([np.resize(order, DRAWS) for order in orders]).astype(np.int32)
        vectors = augmented[mine][drawn, np.arange(shape[0])[:, None]]
        bank.write(row, vectors, drawn, made=np.ones(shape, dtype=bool))
        features.write(row, plain[mine])  # last: a store of all slides is kept
    return store
