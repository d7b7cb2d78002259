"""The configurations of the verbs but `bank`: every option with its default, its choices, its help and its validation.

Flags and docstrings are generated from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from gigacli.config.base import SEEDS, WORKERS, Config, one_resolution, option
from gigacli.config.options import (
    BATCHES,
    COUNTS,
    DASK,
    DEVICE,
    LOG_DIR,
    MAG,
    PASSES,
    PRECISION,
    RATES,
    SEED,
    SHARD,
    SYNC,
    TEMPERATURES,
    TRACKER,
    Precision,
    Preset,
    Tracker,
    run_option,
)
from gigacli.config.training import PAPER, REGIMES, Regime
from gigacli.errors import InvalidInput

SlideAggregator = Literal["sparse-resnet", "transformer", "attention", "mlp"]
Whitening = Literal["slides", "augmentations"]
SparseBackend = Literal["auto", "torch", "spconv"]
ClosedForm = Literal["whitened-mean", "mean-std", "view-whitened", "gmm", "arrangement"]
EmbedAggregator = Literal[
    "model", "mean", "random-init", "whitened-mean", "mean-std", "view-whitened", "gmm", "arrangement"
]


@dataclass(frozen=True, kw_only=True)
class TileConfig(Config):
    """Options of ``giga tile``."""

    csv: Path | None = run_option(None, "Table of slides: column path, and any of slide_id, mpp, patient_id, mask.")
    allow_missing: bool = run_option(False, "Go on where a table names slides that are not there.")
    coords: tuple[Path, ...] = run_option(
        (),
        "Take the tiles that another tool laid, all of them, repeatable: files or folders of TRIDENT, CLAM, hs2p, "
        "LazySlide, raw2features, or GeoJSON of squares.",
    )
    tiling: str | None = run_option(
        None, "Which tiles of `coords` to take, where files hold those of several tilings, as the refusal lists them."
    )
    patches: Path | None = run_option(
        None,
        "Take patches that were cut elsewhere in the place of slides: a folder with SLIDE_x512_y1024.png, by the "
        "level-0 pixel of their corner, or a table of path, slide_id, x, y; `mpp` says their resolution. Lists of them "
        "are written into STORE-patches, beside the store.",
    )
    mpp: float = option(1.0, "Resolution of the tiles, microns per pixel (1.0 is about 10x).", (0.08, 64))
    mag: float | None = run_option(None, MAG, (10 / 64, 125))
    tile_px: int = option(256, "Edge of a tile, pixels at that resolution.", (16, 8192))
    overlap: int = option(0, "Overlap of neighbouring tiles, pixels at that resolution.", (0, 8191))
    min_tissue: float = option(0.5, "Least share of a tile that must be tissue, 0 to 1.", (0, 1))
    slide_mpp: float | None = run_option(
        None, "Microns per pixel for slides that state no resolution of their own.", (0.08, 5)
    )
    upsample: bool = option(False, "Also take slides that were scanned coarser than the tiles, and enlarge them.")
    hash: bool = option(False, "Know slides by all of their bytes; else by their size and a sample of 1 MB.")
    slide_root: Path | None = run_option(None, "Folder to look in for slides that were moved.")
    qc: Path | None = run_option(None, "Folder for a picture of tissue and tiles per slide, and contact sheets of all.")
    strict: bool = run_option(False, "Stop at the first slide that fails.")
    plan: bool = run_option(False, "Register the slides, say what the run will cost, and stop.")
    shard: str | None = run_option(None, SHARD)
    dask: str | None = run_option(None, DASK)
    workers: int | None = run_option(None, "Slides read at once; default: the number of processors.", WORKERS)
    slide: tuple[str, ...] = run_option((), "Do only this slide, repeatable; with `redo`, no other is touched.")
    redo: bool = run_option(False, "Replace the tiles that are there; what is left out is as it was.")
    sync: bool = run_option(True, SYNC)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; `mpp` and `mag` must not contradict each other, and `patches` need one."""
        config = super().of(one_resolution(options))
        if config.patches is not None and not {"mpp", "mag"} & config.given:
            raise InvalidInput(
                f"`patches` is {config.patches}, and nothing says their resolution", "give it with `mpp` or `mag`"
            )
        return config

    def _check(self) -> None:
        if self.mag is not None:
            object.__setattr__(self, "mpp", 10 / self.mag)
        if self.overlap >= self.tile_px:
            raise InvalidInput(f"`overlap` is {self.overlap}; it must be less than {self.tile_px} px")
        self._shards(self.shard, self.dask)
        if self.slide and (self.shard or self.dask):
            raise InvalidInput("`slide` names the slides; `shard` and `dask` share out all of them", "leave one out")
        if self.tiling is not None and not self.coords:
            raise InvalidInput(f"`tiling` is {self.tiling}, and no files of `coords` are named", "name them")
        if self.coords and self.patches is not None:
            raise InvalidInput("`coords` lays tiles on slides; `patches` are tiles without slides", "give one of them")


@dataclass(frozen=True, kw_only=True)
class PretrainTilesConfig(Config):
    """Options of ``giga pretrain-tiles``: MoCo (He et al. 2020) with the head of its second version."""

    name: str = run_option("moco", "Name of the encoder in the store.")
    epochs: int = option(200, "Passes over the drawn tiles (paper: 200).", PASSES)
    batch_size: int = option(256, "Tiles per step over all processes.", BATCHES)
    max_slides: int = option(3000, "Slides to draw tiles from (paper: 3000).", COUNTS)
    max_tiles: int = option(6_000_000, "Tiles to draw in all, spread over those slides (paper: 6 million).", COUNTS)
    init: str = option("random", "Initial weights: 'random' or a file (torchvision's names, MoCo's, Lightning's).")
    lr: float = option(
        0.03, "Peak learning rate of SGD for 256 tiles per step (MoCo: 0.03); in proportion for others.", RATES
    )
    queue: int = option(
        65536, "Negatives kept in the queue (MoCo: 65536), at most as many as there are tiles.", (1, 2**24)
    )
    momentum: float = option(0.999, "Momentum of the key encoder (MoCo: 0.999).", (0, 1))
    temperature: float = option(0.07, "Temperature of InfoNCE (MoCo: 0.07).", TEMPERATURES)
    precision: Precision = option("auto", PRECISION)
    labels: Path | None = run_option(
        None, "Table of slide_id and label, to see how well tiles know their slide's label; never trained on."
    )
    target: str | None = run_option(None, "Column of that table; default: label.")
    cache: Path | None = run_option(
        None, "Folder to keep tiles in while training; default: STORE-tiles, beside a local store, else in $GIGA_CACHE."
    )
    cache_gb: float = run_option(
        100.0, "Gigabytes it may take; tiles beyond that are read anew in every epoch.", (0, 1e9)
    )
    log_dir: Path | None = run_option(None, LOG_DIR)
    tracker: Tracker | None = run_option(None, TRACKER)
    workers: int | None = run_option(None, "Readers; default: the number of processors.", WORKERS)
    device: str = run_option("auto", DEVICE)
    seed: int = option(0, SEED, SEEDS)
    redo: bool = run_option(False, "Replace the encoder that is there.")
    sync: bool = run_option(True, SYNC)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; `target` needs `labels`."""
        config = super().of(options)
        if config.target is not None and config.labels is None:
            raise InvalidInput(f"`target` is {config.target!r} without `labels`", "give the table of labels")
        return config

    def _check(self) -> None:
        self._name("name")


OF_SPARSE = {"blocks": 2, "stride": 2, "sparse_backend": "auto"}
"""Options of the sparse CNN alone, and their defaults."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Options of ``giga train``."""

    bank: str | None = run_option(None, "The bank, or imported features, to train on; may be left out if there is one.")
    name: str = run_option("giga", "Name of the model in the store.")
    tiles: int | None = option(
        None, "Tiles per view, T; default: 5 (paper), of a transformer 25 where slides have 100 and more.", (1, 10_000)
    )
    epochs: int | None = option(
        None,
        "Passes over the slides; default: 300, or what makes 600 steps if that is more; of other aggregators 1000 "
        "(paper) and 1200.",
        PASSES,
    )
    steps: int | None = run_option(None, "The same in steps, rounded up to whole passes.", COUNTS)
    batch_size: int | None = option(
        None,
        "Slides per step over all processes; fewer slides than that are one batch. Default: 128, of other aggregators "
        "256.",
        BATCHES,
    )
    lr: float = option(1e-3, "Peak learning rate of Adam.", RATES)
    warmup: float = option(
        0.05, "Share of the steps in which the learning rate rises; then it falls as a cosine.", (0, 1)
    )
    temperature: float = option(0.2, "Temperature of NT-Xent.", TEMPERATURES)
    aggregator: SlideAggregator = option("transformer", "What makes a vector of tiles (paper: sparse-resnet).")
    blocks: int = option(2, "Residual blocks of sparse-resnet (paper: 2, as in ResNet18).", (1, 16))
    stride: int = option(2, "Stride of its first block: 2 (paper), or 1, blind to the parity of a cell.", (1, 2))
    standardise: bool = option(True, "Bring every feature to mean 0 and deviation 1 over all tiles first (paper: no).")
    whiten: bool = option(True, "Even out how features spread within slides before the slide encoder (paper: no).")
    whitening: Whitening = option(
        "slides", "What is evened out: how the tiles of a slide differ, or how the augmentations of a tile do."
    )
    seeds: int = option(
        1,
        "Encoders to train side by side, of this seed and those after it; their vectors stand side by side.",
        (1, 100),
    )
    slide_aug: bool = option(True, "Flip, rotate and scale the coordinates of every view (paper, step 4).")
    join: bool = option(
        True, "Keep a closed form beside the encoder, whose vectors giga embed joins with it (paper: no)."
    )
    preset: Preset = run_option(
        "default",
        "Settings of what is not given; paper: the paper's, and its authors' code's where it is silent.",
        flag="--recipe",
    )
    exclude: Path | None = run_option(None, "Table of slides not to train on: column slide_id, or patient_id.")
    allow_missing: bool = run_option(False, "Go on where that table names what the store does not have.")
    precision: Precision = option("auto", PRECISION)
    sparse_backend: SparseBackend = run_option("auto", "What computes sparse convolutions; auto: the faster one here.")
    log_dir: Path | None = run_option(None, LOG_DIR)
    tracker: Tracker | None = run_option(None, TRACKER)
    cache: Path | None = run_option(
        None,
        "Local folder for the copy of a remote store's bank, while it trains; default: $GIGA_CACHE, or the system's.",
    )
    device: str = run_option("auto", DEVICE)
    seed: int = option(0, SEED, SEEDS)
    redo: bool = run_option(False, "Replace the model that is there.")
    sync: bool = run_option(True, SYNC)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; what a preset says counts as given where nothing else is.

        What only the sparse CNN has asks for it.
        """
        if options.get("steps") is not None and options.get("epochs") is not None:
            raise InvalidInput(f"`steps` {options['steps']} and `epochs` {options['epochs']} say the same", "give one")
        options = {**PAPER, **options} if options.get("preset") == "paper" else options
        if any(options.get(name, usual) != usual for name, usual in OF_SPARSE.items()):
            options = {"aggregator": "sparse-resnet", **options}
        if options.get("whitening") and options.get("whiten") is False:
            raise InvalidInput(
                f"`whitening` is {options['whitening']}, and nothing is whitened", "leave it out, or set `whiten`"
            )
        return super().of(options)

    def _check(self) -> None:
        given = [f"`{k}` {getattr(self, k)}" for k, v in OF_SPARSE.items() if getattr(self, k) != v]
        if self.aggregator != "sparse-resnet" and given:
            raise InvalidInput(
                f"`aggregator` {self.aggregator} has no sparse convolutions for {' '.join(given)}",
                "leave that out, or use `aggregator` sparse-resnet",
            )
        self._name("name")

    def following(self, earlier: dict[str, Any] | None) -> Self:
        """Return this configuration with what was left out as an earlier run had it.

        Of another aggregator, how long, in what batches and on how many tiles it was trained is not followed.
        """
        if earlier is not None and "aggregator" in self.given and earlier.get("aggregator") != self.aggregator:
            earlier = {k: v for k, v in earlier.items() if k not in ("epochs", "batch_size", "tiles")}
        return super().following(earlier)

    @property
    def regime(self) -> Regime:
        """What the aggregator is trained with, as far as no option says otherwise."""
        regime = REGIMES[self.aggregator]
        return replace(regime, batch_size=self.batch_size or regime.batch_size)

    def epochs_for(self, slides: int, steps_per_epoch: int) -> int:
        """Passes over the slides; small cohorts need more, for a training is as good as its number of steps."""
        if self.epochs is not None and self.steps is None:
            return self.epochs
        return -(-(self.steps or self.regime.steps(slides)) // steps_per_epoch)

    def settings(self, slides: int, steps_per_epoch: int) -> dict[str, Any]:
        """The recipe on so many slides: every number that a default depends on is said."""
        regime = self.regime
        numbers = {"batch_size": regime.batch_size, "weight_decay": regime.weight_decay, "log_scale": regime.log_scale}
        return {**self.recipe(), "epochs": self.epochs_for(slides, steps_per_epoch), **numbers}


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """Options of ``giga embed``."""

    model: str | None = run_option(
        None,
        "A model of the store (may be left out when there is one), a file of giga export, hf://ORG/NAME of Hugging "
        "Face, or an authors' checkpoint.",
    )
    features: str | None = run_option(None, "The tile features to embed; default: those that go with the model.")
    views: int = option(50, "Views averaged per slide, R (paper: 50).", (1, 100_000))
    aggregator: EmbedAggregator = option(
        "model",
        "The model; the slide encoder at its random start; or a closed form, which needs no training: the mean of all "
        "tiles, and the others after the features were whitened.",
    )
    augmented: int = option(
        0,
        "Embed every slide as it is seen under so many other augmentations, too, and with each strength of jittered "
        "stains under as many or all that operators hold out, for giga probe --robust.",
        (0, 100),
    )
    closed_form: bool = option(
        True, "Put the closed form that a model keeps beside the encoder's vectors, where it has one."
    )
    join: tuple[str, ...] = run_option(
        (),
        "Nothing is embedded: write embeddings that are there side by side, by slide id, each centred and of unit "
        "length. STORE::NAME is one of another store.",
    )
    name: str | None = run_option(None, "Name of the embedding; default: the model's.")
    precision: Precision = option(
        "auto", "Floating point of the network; auto is that of the training, where the device computes in it."
    )
    device: str = run_option("auto", DEVICE)
    seed: int = option(0, SEED, SEEDS)
    redo: bool = run_option(False, "Replace the embedding that is there.")
    sync: bool = run_option(True, SYNC)

    def _check(self) -> None:
        self._name("name", "features")
        if self.join and len(self.join) < 2:
            raise InvalidInput(f"`join` names {self.join[0]} alone; a join is of several", "name two at least")
        if self.join and self.name is None:
            raise InvalidInput("a join of embeddings has no name of its own", "give one: `name`")

    def recipe(self) -> dict[str, Any]:
        """The values that decide the result; of no other augmentations, and of fp32, nothing is said."""
        silent = {"augmented": 0, "precision": "fp32"}
        return {name: value for name, value in super().recipe().items() if silent.get(name) != value}
