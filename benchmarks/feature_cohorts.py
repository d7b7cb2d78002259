"""Cohorts in memory that `benchmarks/operators.py` learns augmentations from: a drawn one with pictures, and idc.

Beside un-augmented tiles each has a real bank, fresh augmentations that nothing is learnt from, and calibration tiles.
The drawn cohort is that of `benchmarks/study.py`, encoded here: some 2,000 calibration tiles of 30 slides under 64
sets, a bank of 12 augmentations of 48 draws a slide, 4 fresh ones of 32. Of idc there are 12 augmentations a slide and
no pictures; every slide has parameters of its own, so operators are learnt there per slide and augmentation, each from
the tiles of one slide, of the first 40 slides alone. Augmentations 0 to 7 are the real bank there, 8 to 11 are fresh.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from operator_families import family_of, side_by_side

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.augment import TileAugmentation, augment, draw_augmentation, fold
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.operators import Operators
from gigacli.nn.operators_fit import Calibration, fit_operators, operator_space
from gigacli.nn.tile_encoder import random_resnet18
from gigacli.nn.tile_features import Batches
from gigacli.nn.views import TilePositions
from gigacli.nn.whitening import FeatureSpace, Spread, slide_covariance, spread_of, spread_rows, whitening_matrix
from gigacli.randomness import keyed_rng
from gigacli.weights.resnet18 import resnet18_from_bytes
from gigacli.wsi.reader import SlideTiles, TileReader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CPU = torch.device("cpu")
TILE_PX, SETS, CALIBRATION_TILES, LEAST_SLIDES, SHARE = 128, 64, 2000, 30, 0.2
BANK, FRESH, LARGE = (12, 48), (4, 32), (50, 48)
"""Augmentations and draws."""
MOCO_EPOCHS = {"moco": 2, "moco8": 8}
IDC_BANK, IDC_SLIDES, IDC_LEAST_TILES = 8, 40, 30
FULL_RANK = 10**6


@dataclass(frozen=True, eq=False)
class Augmented:
    """Rows of a bank: a ViewSource."""

    vectors: NDArray[np.float16]  # (s, augmentation, draw, c)
    tile: NDArray[np.int32]  # (s, augmentation, draw)

    @property
    def augmentations(self) -> int:
        """Of a slide."""
        return self.tile.shape[1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(s,) draws."""
        return np.full(len(self.tile), self.tile.shape[2])

    def at(self, slide: Any, augmentation: Any, draw: Any) -> tuple[Any, ...]:
        """Indices into the vectors."""
        return slide, augmentation, draw

    def tiles(self, slide: Any, augmentation: Any, draw: Any) -> NDArray[np.int32]:
        """Numbers of the tiles."""
        return self.tile[slide, augmentation, draw]


@dataclass(frozen=True, eq=False)
class Plain:
    """All tiles as they are, one slide after the other: a ViewSource."""

    vectors: NDArray[np.float16]  # (n, c)
    counts: NDArray[np.int64]  # (s,)
    augmentations = 1

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(s,) the first tile of each."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def at(self, slide: Any, augmentation: Any, draw: Any) -> tuple[Any, ...]:
        """Indices into the vectors."""
        return (self.first[slide] + draw,)

    def tiles(self, slide: Any, augmentation: Any, draw: Any) -> NDArray[np.int32]:
        """Numbers of the tiles."""
        return draw.astype(np.int32)

    def slides(self) -> list[NDArray[np.float16]]:
        """Tiles of each slide."""
        return np.split(self.vectors, self.first[1:])


@dataclass(frozen=True, eq=False)
class Cohort:
    """A cohort in memory."""

    name: str
    plain: Plain
    positions: TilePositions
    bank: Augmented
    fresh: Augmented
    calibrations: list[Calibration]  # one; or one a slide, where sets are not shared
    labels: NDArray[np.int64]  # (s,) -1 for none
    patients: NDArray[Any]
    few: int
    largest: Augmented  # a bank of more augmentations, or the same
    space_of_bank: bool = False  # whether encoders see features whitened on the bank, as `giga train` does

    def bank_of(self, augmentations: int) -> Augmented:
        """A bank of so many; those of few are of the bank itself."""
        whole = self.bank if augmentations <= self.bank.augmentations else self.largest
        return Augmented(whole.vectors[:, :augmentations], whole.tile[:, :augmentations])

    @cached_property
    def spread(self) -> Spread:
        """Of all un-augmented tiles."""
        return spread_of(self.plain.slides())

    @cached_property
    def space(self) -> FeatureSpace:
        """What encoders see, the same for all variants: whitened within slides, on un-augmented tiles or the bank."""
        plain = (slide[spread_rows(len(slide), 64)][:, None] for slide in self.plain.slides())
        some = iter(self.bank.vectors) if self.space_of_bank else plain
        return FeatureSpace(
            self.spread.standard, whitening_matrix(slide_covariance(some, self.spread.standard), self.spread)
        )

    def operators(
        self, *, tiles: int = CALIBRATION_TILES, sets: int = SETS, rank: int = FULL_RANK, held_out: int = 0
    ) -> Operators:
        """Learnt from so many calibration tiles and sets; where sets are not shared by slides, from all."""
        if len(self.calibrations) > 1:
            return side_by_side(self.of_slides())
        one = self.calibrations[0]
        some = one_of(one, some_tiles(one, tiles), sets)
        return fit_operators(some, operator_space(some, self.spread), rank=rank, held_out=held_out)

    def family(self) -> Operators:
        """Learnt from slides with sets of their own: those of idc, or 30 of the drawn cohort's real bank."""
        ones = self.calibrations if len(self.calibrations) > 1 else self.from_bank
        return family_of(ones, pooled_space(ones, self.spread))

    @cached_property
    def from_bank(self) -> list[Calibration]:
        """Rows of the real bank, of slides all of whose tiles are in it under each of its augmentations."""
        chosen = np.flatnonzero(self.plain.counts <= self.bank.tile.shape[2])[:LEAST_SLIDES]
        found = []
        for i, n in zip(chosen.tolist(), self.plain.counts[chosen].tolist(), strict=True):
            order = np.argsort(self.bank.tile[i, :, :n], axis=1)[..., None]  # (a, n, 1)
            vectors = np.take_along_axis(self.bank.vectors[i, :, :n], order, axis=1).swapaxes(0, 1)
            found.append(Calibration(self.plain.slides()[i], vectors, np.arange(n)))
        return found

    def of_slides(self) -> list[Operators]:
        """Those of each slide by itself."""
        space = pooled_space(self.calibrations, self.spread)
        return [fit_operators(one, space, rank=FULL_RANK) for one in self.calibrations]


def some_tiles(one: Calibration, tiles: int) -> NDArray[np.bool_]:
    """(n,) so many of its tiles, as many of each slide; by a drawn order, for they lie as on the glass."""
    share = -(-tiles // (len(one.first) - 1))
    orders = [keyed_rng("some", i).permutation(n) for i, n in enumerate(np.diff(one.first).tolist())]
    return np.concatenate(orders) < share


def one_of(one: Calibration, chosen: NDArray[np.bool_], sets: int) -> Calibration:
    """Some tiles (n,) of a calibration under its first sets."""
    return Calibration(one.plain[chosen], one.augmented[chosen, :sets], one.slide[chosen])


def pooled_space(calibrations: list[Calibration], spread: Spread) -> FeatureSpace:
    """The space of slides with sets of their own."""
    several = Calibration(
        np.concatenate([one.plain for one in calibrations]),
        np.concatenate([one.augmented for one in calibrations]),
        np.repeat(np.arange(len(calibrations)), [len(one.plain) for one in calibrations]),
    )
    return operator_space(several, spread)


def idc(path: Path) -> Cohort:
    """Of `../shared/cohorts/idc.npz`."""
    with np.load(path) as file:
        arrays = dict(file)
    plain = Plain(arrays["plain"], arrays["tiles"].astype(np.int64))
    draws = BANK[1]
    tile = np.stack([np.resize(np.arange(n), draws) for n in plain.counts]).astype(np.int32)  # (s, draws)
    rows = arrays["augmented"][plain.first[:, None] + tile].swapaxes(1, 2)  # (s, 12, draws, c)
    tiles = np.repeat(tile[:, None], rows.shape[1], axis=1)
    grids = np.split(arrays["xy"].astype(np.int32), plain.first[1:])
    calibrations = [
        Calibration(arrays["plain"][at], arrays["augmented"][at, :IDC_BANK], np.arange(n))
        for start, n in zip(plain.first[:IDC_SLIDES].tolist(), plain.counts[:IDC_SLIDES].tolist(), strict=True)
        if n >= IDC_LEAST_TILES
        for at in [slice(start, start + n)]
    ]
    bank = Augmented(rows[:, :IDC_BANK], tiles[:, :IDC_BANK])
    return Cohort(
        name="idc",
        plain=plain,
        positions=TilePositions((grid, 1.0) for grid in grids),
        bank=bank,
        largest=bank,
        fresh=Augmented(rows[:, IDC_BANK:], tiles[:, IDC_BANK:]),
        calibrations=calibrations,
        labels=arrays["label"].astype(np.int64),
        patients=arrays["patient"],
        few=50,
    )


def drawn(folder: Path, encoder: str) -> Cohort:
    """The drawn cohort, encoded where it is not yet; of the MoCo that `giga demo` trains there is a bank of 50, too."""
    made = write_cohort(folder / "drawn", slides=96, patients=48, labs=3, seed=0, size_px=(3072, 2304), workers=1)
    path, kept = made.folder / "cohort.zarr", folder / f"{encoder}.npz"
    if not kept.exists():
        giga.tile(path, csv=made.cohort_csv, mpp=1.0, tile_px=TILE_PX, workers=1)
        if encoder in MOCO_EPOCHS:
            moco = {"max_tiles": 1024, "batch_size": 64, "queue": 1024}  # as `giga demo`
            giga.pretrain_tiles(path, name=encoder, epochs=MOCO_EPOCHS[encoder], precision="bf16", workers=1, **moco)
        np.savez(kept, **Encoding(path, encoder, {"bank": BANK, "fresh": FRESH}, sets=SETS).run())
    with np.load(kept) as file:
        arrays = dict(file)
    bank = largest = Augmented(arrays["bank"], arrays["banktile"])
    if encoder == "moco":
        kept = folder / f"{encoder}-{LARGE[0]}.npz"
        if not kept.exists():
            np.savez(kept, **Encoding(path, encoder, {"large": LARGE}, sets=0).run())
        with np.load(kept) as file:
            largest = Augmented(file["large"], file["largetile"])
    with made.labels_csv.open() as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    table = [rows[name] for name in arrays["ids"].tolist()]
    plain = Plain(arrays["plain"], arrays["counts"])
    grids = np.split(arrays["coords"], plain.first[1:])
    at = plain.first[arrays["cal_slide"]] + arrays["cal_tile"]
    return Cohort(
        name=f"drawn-{encoder}",
        plain=plain,
        positions=TilePositions((grid, float(2 * TILE_PX)) for grid in grids),
        bank=bank,
        largest=largest,
        fresh=Augmented(arrays["fresh"], arrays["freshtile"]),
        calibrations=[Calibration(arrays["plain"][at], arrays["cal_aug"], arrays["cal_slide"])],
        labels=np.unique([row["label"] for row in table], return_inverse=True)[1],
        patients=np.array([row["patient_id"] for row in table]),
        few=32,
    )


class Encoding:
    """Encodes the drawn cohort: what operators, real banks and their judges need."""

    def __init__(self, path: Path, encoder: str, banks: dict[str, tuple[int, int]], *, sets: int) -> None:
        self.store = giga.open(path)
        weights = None if encoder == "random" else self.store.encoder(encoder).weights()
        network = random_resnet18(0) if weights is None else resnet18_from_bytes(weights, trunk=True)
        frozen = FrozenTileEncoder(network, device=CPU, precision="bf16")
        self.batches = Batches(frozen, tile_px=TILE_PX, size=64, say=print)
        self.banks = banks
        self.sets = draw_augmentation(keyed_rng(0, "sets"), sets, tile_px=TILE_PX) if sets else None
        self.rows = np.flatnonzero(self.store.tiles.done().counts > 0)
        slides = max(LEAST_SLIDES, round(SHARE * len(self.rows)))
        self.chosen = set(np.sort(keyed_rng(0, "calibration").permutation(self.rows)[:slides]).tolist())
        self.share = -(-CALIBRATION_TILES // slides)

    def run(self) -> dict[str, NDArray[Any]]:
        """All arrays."""
        tiles, table = self.store.tiles, self.store.slides
        found: dict[str, list[NDArray[Any]]] = {}
        slides = (SlideTiles(r, table[r].path, table[r].mpp, tiles.coords(r)) for r in self.rows.tolist())
        with TileReader(tile_px=TILE_PX, mpp=tiles.mpp, upsample=tiles.upsample, workers=1, timeout_s=600) as reader:
            for number, block in enumerate(reader.blocks(slides)):
                if block.error is not None or not block.last:
                    raise SystemExit(f"cannot read {block.slide.path} in one go: {block.error}")
                row = block.slide.key
                made = self.slide(torch.from_numpy(block.tiles), number, table[row].id, calibrate=row in self.chosen)
                for name, values in {**made, "coords": block.slide.coords}.items():
                    found.setdefault(name, []).append(values)
        stacked = ("ids", "counts", *self.banks, *(f"{name}tile" for name in self.banks))
        return {k: (np.stack if k in stacked else np.concatenate)(v) for k, v in found.items()}

    def slide(self, images: torch.Tensor, number: int, name: str, *, calibrate: bool) -> dict[str, NDArray[Any]]:
        """What is encoded of a slide."""
        plain = np.concatenate([features.numpy() for _, features in self.batches.plain(images)])
        made: dict[str, Any] = {"plain": plain, "counts": np.array(len(plain)), "ids": np.array(name)}
        if calibrate and self.sets is not None:
            some = np.sort(keyed_rng(0, "caltiles", name).permutation(len(images))[: self.share])
            features = self.augmented(images, self.sets, np.tile(some, (SETS, 1)))
            made |= {"cal_aug": features.swapaxes(0, 1), "cal_tile": some, "cal_slide": np.full(len(some), number)}
        for key, (augmentations, draws) in self.banks.items():
            own = draw_augmentation(keyed_rng(0, key, name), augmentations, tile_px=TILE_PX)
            rng = keyed_rng(0, f"{key}t", name)
            tile = np.stack([np.resize(rng.permutation(len(images)), draws) for _ in range(augmentations)])
            made |= {key: self.augmented(images, own, tile), f"{key}tile": tile.astype(np.int32)}
        return made

    def augmented(self, images: torch.Tensor, sets: TileAugmentation, tile: NDArray[np.int64]) -> NDArray[np.float16]:
        """(set, draw, feature) of tiles (set, draw), each row under its set."""
        folded = fold(sets, tile_px=TILE_PX, out_px=self.batches.augmented_px, device=CPU)
        flat, owner = tile.ravel(), np.repeat(np.arange(len(tile)), tile.shape[1])

        def fill(rows: slice, out: torch.Tensor) -> None:
            ends = [*(np.flatnonzero(np.diff(owner[rows])) + 1).tolist(), rows.stop - rows.start]
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                k = int(owner[rows][start])
                augment(images[flat[rows][start:end]], folded.of(slice(k, k + 1)), out=out[start:end])

        run = self.batches.run(len(flat), self.batches.augmented_px, fill)
        return np.concatenate([features.numpy() for _, features in run]).reshape(*tile.shape, -1)
