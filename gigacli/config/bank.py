"""The configuration of ``giga bank``, which makes two kinds of banks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from gigacli.config.base import SEEDS, WORKERS, Config, option
from gigacli.config.options import DASK, DEVICE, PRECISION, SEED, SHARD, SYNC, Precision, Preset, run_option
from gigacli.errors import InvalidInput

Compile = Literal["auto", "yes", "no"]
BankMode = Literal["tiles", "operators"]
Residuals = Literal["auto", "yes", "no"]

OPERATORS_ONLY = ("features", "sets", "calibration_tiles", "rank", "residuals")
OWN: dict[BankMode, tuple[str, ...]] = {
    "tiles": ("augmentations", "draws", "independent"),
    "operators": OPERATORS_ONLY,
}
"""Options of one mode alone."""


@dataclass(frozen=True, kw_only=True)
class BankConfig(Config):
    """Options of ``giga bank``."""

    encoder: str | None = run_option(
        None,
        "An encoder of the store, a published one that giga encoders lists, a weights file, hf://ORG/NAME where a "
        "model took its encoder along, timm:MODEL, or random-resnet18.",
    )
    weights: Path | None = run_option(
        None, "Of a published encoder: a file or folder of its weights; default: the cache of Hugging Face, or its hub."
    )
    name: str | None = run_option(None, "Name of the bank and the features; default: the encoder's.")
    augmentations: int = option(12, "Augmentations per slide, each shared by all its tiles (paper: 50).", (1, 10_000))
    draws: int = option(256, "Tiles drawn per augmentation, with replacement (paper: 256).", (1, 100_000))
    independent: bool = option(False, "Draw the parameters per tile instead (the paper's ablation NS).")
    stain: float = option(
        0.0, "Jitter the stains, too: how far concentrations are scaled and shifted (Tellez: 0.05; paper: 0).", (0, 1)
    )
    mode: BankMode | None = option(
        None,
        "operators: encode every tile once, and learn from a few what augmentation does to features; tiles: encode "
        "augmented tiles of every slide (paper). Default: operators, of fewer than 10 slides tiles; or whose options "
        "are given.",
    )
    features: str | None = option(
        None, "Imported features to learn operators for, with the `encoder` that made them; with `mode` operators."
    )
    sets: int = option(64, "Of operators: sets of augmentation parameters that one is learnt for each.", (8, 4096))
    calibration_tiles: int | None = option(
        None,
        "Of operators: tiles they are learnt from, spread over a fifth of the slides. Default: 2000; of a small cohort "
        "what costs five passes over its tiles, and 360 at least.",
        (100, 10_000_000),
    )
    rank: int = option(64, "Of operators: directions of features they act along.", (1, 65536))
    residuals: Residuals = option(
        "auto", "Of operators: add what they cannot foresee to augmented features; auto: where that is much."
    )
    held_out: int | None = option(
        None,
        "How many of the augmentations or sets no training draws, so that robustness can be judged by them; of sets "
        "half have their stains jittered. Default: every eighth set, or every sixth augmentation (paper: 0).",
        (0, 2048),
    )
    precision: Precision = option("auto", PRECISION)
    compile: Compile = option("auto", "Compile the encoder, which takes half a minute; auto: for banks worth it.")
    batch_size: int | None = run_option(None, "Tiles per encoder call; default: 64, on a GPU 256.", (1, 65536))
    read_timeout: float = run_option(
        600.0, "Seconds after which a slide that does not answer is given up.", (0.001, 1e6)
    )
    preset: Preset = run_option(
        "default", "Settings of what is not given; paper: augmented tiles, 50 times 256.", flag="--recipe"
    )
    plan: bool = run_option(False, "Encode for ten seconds, say what both modes would cost, and stop.")
    shard: str | None = run_option(None, SHARD)
    dask: str | None = run_option(None, DASK)
    workers: int | None = run_option(None, "Reading threads; default: the number of processors.", WORKERS)
    device: str = run_option("auto", DEVICE)
    seed: int = option(0, SEED, SEEDS)
    redo: bool = run_option(False, "Replace the bank that is there.")
    sync: bool = run_option(True, SYNC)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; what a preset says counts as given where nothing else is."""
        return super().of({**PAPER_BANK, **options} if options.get("preset") == "paper" else options)

    def _check(self) -> None:
        self._name("name", "features")
        if self.features is not None and self.name not in (None, self.features):
            raise InvalidInput(
                f"`name` is {self.name!r}, and operators of `features` {self.features!r} have the name of these",
                "leave `name` out",
            )
        for mode, name in (("operators", "sets"), ("tiles", "augmentations")):
            if self.mode == mode and self.held_out is not None and 2 * self.held_out > (all_ := getattr(self, name)):
                raise InvalidInput(
                    f"`held_out` is {self.held_out} of {all_} `{name}`", "leave half of them to training"
                )
        self._shards(self.shard, self.dask)

    def following(self, earlier: dict[str, Any] | None) -> Self:
        """Return this configuration with what was left out as an earlier run had it; options of one mode are its own.

        Raises:
            InvalidInput: An option of the other mode was given.
        """
        own = next((mode for mode, names in OWN.items() if self.given & set(names)), None)
        if earlier is not None:
            earlier = {"mode": "tiles", "held_out": 0, **earlier}
            if "mode" in self.given and earlier["mode"] != self.mode:
                earlier = None
        config = super().following(earlier)
        config = config.but(mode=config.mode or own)
        wrong = [name for mode, names in OWN.items() if mode != config.mode for name in names if name in self.given]
        if config.mode is not None and wrong:
            raise InvalidInput(
                f"`mode` is {config.mode}, which takes no {' '.join(f'`{name}`' for name in wrong)}",
                f"leave that out, or set `mode` {'tiles' if config.mode == 'operators' else 'operators'}",
            )
        return config

    def recipe(self) -> dict[str, Any]:
        """The values that decide the result: none of the other mode, nor `stain` and `held_out` where they are 0."""
        out = {"independent"} if self.mode == "operators" else {"mode", "sets", *OPERATORS_ONLY}
        out |= set() if self.stain else {"stain"}
        out |= set() if self.held_out else {"held_out"}
        return {name: value for name, value in super().recipe().items() if name not in out}


PAPER_BANK: dict[str, Any] = {
    "mode": "tiles",
    "augmentations": 50,
    "draws": 256,
    "independent": False,
    "stain": 0.0,
    "held_out": 0,
}
"""``--recipe paper``."""
