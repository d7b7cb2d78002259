"""Operators of a bank: learnt from its calibration tiles, kept in the store, and applied to features.

What they are is a function of the calibration tiles, of the slides these are of, and of the recipe: whichever process
fits them, and however often, they come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.config.bank import OWN, BankConfig
from gigacli.config.bank_sizes import calibrating_count, calibration_size, held_out_count, set_stains
from gigacli.config.base import fingerprint
from gigacli.errors import InvalidInput, Mismatch
from gigacli.nn.operators import AppliedOperators, Gate, Operators
from gigacli.nn.operators_fit import LEAST_SLIDES, Calibration, fit_operators, operator_space
from gigacli.nn.tile_features import TileEncoder
from gigacli.nn.whitening import spread_of
from gigacli.progress import Progress
from gigacli.randomness import keyed_rng, keyed_seed
from gigacli.store.groups import Bank, Features
from gigacli.store.store import Store

BANK_AUGMENTATIONS, BANK_DRAWS = 16, 48
"""Augmented tiles of a slide that whitening and closed forms look at, where a bank would hold them."""


def with_mode(config: BankConfig, store: Store) -> BankConfig:
    """The options with a mode, and how much is held out.

    Operators where nobody says and slides with tiles are enough to learn them from.
    """
    if config.mode is None:
        enough = int(store.tiles.done().filled.sum()) >= LEAST_SLIDES
        config = config.but(mode="operators" if enough else "tiles")
    return config.but(held_out=held_out_count(config))


def why_tiles(config: BankConfig, store: Store) -> list[str]:
    """A note where nobody asked for augmented tiles, and slides are too few to learn operators from."""
    if config.given & {"mode", *OWN["tiles"]} or int(store.tiles.done().filled.sum()) >= LEAST_SLIDES:
        return []
    return [f"augmented tiles were encoded: operators, the default, want {LEAST_SLIDES} slides with tiles"]


def calibrating_of(bank: Bank, config: BankConfig) -> tuple[NDArray[np.int64], BankConfig]:
    """Rows of the slides that a bank's operators are learnt from, and the options with the number of tiles decided.

    Raises:
        InvalidInput: Too few slides have tiles.
    """
    anew = config.redo and config.shard is None  # what was decided goes with the bank
    rows = _calibrating(bank, seed=config.seed, anew=anew)
    tiles = calibration_size(config, int(bank.store.tiles.done().counts.sum()))
    return rows, config.but(calibration_tiles=tiles, augmentations=config.sets, draws=-(-tiles // len(rows)))


def _calibrating(bank: Bank, *, seed: int, anew: bool) -> NDArray[np.int64]:
    """As was decided, or by lots keyed by the slides' ids."""
    if not anew and bank.learns and bank.calibrates.any():
        return np.flatnonzero(bank.calibrates)
    rows, ids = np.flatnonzero(bank.store.tiles.done().filled), bank.store.slides.ids
    if len(rows) < LEAST_SLIDES:
        raise InvalidInput(
            f"operators are learnt on some slides and judged on others, {LEAST_SLIDES} in all; {len(rows)} have tiles",
            "encode augmented tiles instead: `mode` tiles",
        )
    lots = sorted(rows.tolist(), key=lambda row: keyed_seed(seed, "calibrating", ids[row]))
    return np.sort(np.array(lots[: calibrating_count(len(rows))], dtype=np.int64))


def check_imported(features: Features, encoder: TileEncoder, name: str) -> None:
    """Refuse to learn operators for features that are none of this encoder's, or need none of the tools here.

    Raises:
        InvalidInput: They were made here, or have another width.
    """
    if not features.imported:
        raise InvalidInput(
            f"{features.path} were made here, and need no other encoder", "leave out `features`; use `name`"
        )
    if features.width != encoder.features:
        raise InvalidInput(
            f"{features.path} have {features.width} values a tile; encoder {name!r} gives {encoder.features}",
            "give the encoder that made them",
        )


def fit_bank_operators(bank: Bank, features: Features, progress: Progress) -> str:
    """Learn the operators of a bank from what is done of its calibration slides, unless they are there already.

    Returns:
        What they foresee, in words.

    Raises:
        InvalidInput: Too few calibration slides are done, or their features cannot be used.
        Mismatch: Operators cannot stand in for augmented tiles here.
    """
    config, ids = bank.config, bank.store.slides.ids
    done = bank.done().filled & features.done().filled
    rows = np.flatnonzero(bank.calibrates & done)
    identities = bank.store.tiles.identities()[rows].tolist()
    learnt_from = fingerprint([[ids[row], value] for row, value in zip(rows.tolist(), identities, strict=True)])
    if bank.fitted.get("learnt_from") == learnt_from:
        return _gate(bank).words(residuals=bank.fitted["residuals"])
    progress.say(f"learning {config['sets']} operators from tiles of {len(rows)} slides")
    calibration = _calibration(bank, features, rows)
    space = operator_space(calibration, spread_of(map(features.read, rows.tolist())))
    asked = config["residuals"]
    operators = fit_operators(
        calibration,
        space,
        rank=config["rank"],
        held_out=config.get("held_out", 0),
        residuals=asked != "no",
        seed=config["seed"],
    )
    gate = operators.gate
    if gate.outcome == "refused":
        instead = f"encode augmented tiles instead: {bank.again} --mode tiles"
        if features.imported:
            instead = f"train on the features as they are: remove {bank.store.url}/{bank.path}, then giga train"
        raise Mismatch(gate.words(residuals=False), instead)
    if asked == "auto" and gate.outcome == "operators":
        operators = replace(operators, residuals=None)
    said = {
        "learnt_from": learnt_from,
        "slides": len(rows),
        "tiles": len(calibration.plain),
        "r2": {"tile": gate.tile, "slide": gate.slide, "slide_by_shift": gate.shift},
        "penalty": operators.penalty,
        "rank_kept": operators.kept,
        "residuals": operators.residuals is not None,
        "held_out": held_out_stains(config),
    }
    bank.keep_operators(operators.state(), said)
    return gate.words(residuals=operators.residuals is not None)


def held_out_stains(config: Mapping[str, Any]) -> list[float]:
    """Strengths of the jitter of stains in the sets that no training draws, by a bank's recipe; [] for none."""
    held_out = config.get("held_out", 0)
    every = set_stains(sets=config["sets"], held_out=held_out, stain=config.get("stain", 0.0))
    return every[len(every) - held_out :]


def read_operators(bank: Bank) -> Operators:
    """The operators of a bank.

    Raises:
        NotFound: They have not been learnt yet.
    """
    said, state = bank.fitted, bank.operators()
    about = {"penalty": said["penalty"], "kept": said["rank_kept"], "held_out": len(said.get("held_out", ()))}
    return Operators.from_state(state, gate=_gate(bank), **about)


def _gate(bank: Bank) -> Gate:
    r2 = bank.fitted["r2"]
    return Gate(r2["tile"], r2["slide"], r2["slide_by_shift"])


def applied(bank: Bank, *, device: torch.device, precision: str = "fp32") -> AppliedOperators:
    """The operators of a bank, ready to move features."""
    return AppliedOperators(read_operators(bank), device=device, precision=precision)


def augmented_slide(
    operators: AppliedOperators, plain: NDArray[np.float16], *, slide_id: str
) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """What a bank would hold of a slide, features (n, d): (augmentation, draw, d), and which tile each is of."""
    rng = keyed_rng("operators", slide_id)
    return operators.bank(plain, rng, augmentations=BANK_AUGMENTATIONS, draws=BANK_DRAWS)


def _calibration(bank: Bank, features: Features, rows: NDArray[np.int64]) -> Calibration:
    """The calibration tiles of slides, as they are and augmented."""
    plain, augmented, slide = [], [], []
    for row in rows.tolist():
        vectors, tile = bank.read_calibration(row)
        plain.append(features.read(row)[tile])
        augmented.append(vectors)
        slide += [bank.store.slides.ids[row]] * len(tile)
    if not rows.size:
        raise InvalidInput(f"{bank.path}: none of its calibration slides is done", "see why: giga info STORE")
    return Calibration(np.concatenate(plain), np.concatenate(augmented), np.array(slide))
