"""Models and encoders as safetensors files that say what they go with, and a card in Markdown beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from gigacli.errors import Mismatch, NotFound
from gigacli.exporting.output import check_free, export_file
from gigacli.store.groups import Encoder, Model
from gigacli.store.recipe import CREATED_BY, Recipe
from gigacli.weights.card import WeightsCard, elsewhere_as

RESNET18_FEATURES = 256
SLIDE_WIDTH = "projector.0.weight"
"""The layer of a model whose inputs are the values of a slide vector, whatever its aggregator."""


def write_weights(group: Model | Encoder, to: Path, *, redo: bool) -> int:
    """Write a model or an encoder, its card in its metadata, and the same card for people beside it (:func:`card_of`).

    Returns:
        Slides it was trained on, 0 where it was not trained in this store.

    Raises:
        InvalidInput: There is a card, and `redo` is off.
        NotFound: It is not there or not finished, or the store does not keep its weights.
        Mismatch: What it was made from has been replaced.
    """
    check_free(card_of(to), folder=False, redo=redo)
    card, weights = _model_card(group) if isinstance(group, Model) else _encoder_card(group)
    data = save(load(weights), metadata=card.to_metadata())
    with export_file(card_of(to)) as file:
        file.write_text(_markdown(card, to.name, hashlib.sha256(data).hexdigest()), encoding="utf-8")
    with export_file(to) as file:
        file.write_bytes(data)
    return card.slides


def card_of(to: Path) -> Path:
    """Path of the card beside a weights file."""
    return to.with_suffix(".md")


def _model_card(model: Model) -> tuple[WeightsCard, bytes]:
    trained, source, store = model.usable, model.source, model.store
    bank, tiles = source.recipe, store.tiles.recipe
    if bank.inputs.get("tiles") != tiles.fingerprint:
        raise Mismatch(
            f"model {model.name!r} was trained on other tiles than {store.url} holds now",
            f"run: giga validate {store.url}",
        )
    encoder = str(bank.config["encoder"])
    made = store.encoder(encoder).found
    weights = model.weights()
    card = WeightsCard(
        kind="model",
        name=model.name,
        created_by=CREATED_BY,
        variant="giga",
        encoder=encoder,
        encoder_sha256=bank.inputs.get("encoder", ""),
        timm=str(made.config.get("timm", "")) if made is not None else "",
        mpp=tiles.config["mpp"],
        tile_px=tiles.config["tile_px"],
        features=source.width,
        width=int(load(weights)[SLIDE_WIDTH].shape[1]),
        slides=_slides_seen(model),
        recipes=_plain({"tiles": tiles, "encoder": made, source.input_name: bank, "model": trained}),
    )
    return card, weights


def _encoder_card(encoder: Encoder) -> tuple[WeightsCard, bytes]:
    made, store = encoder.finished, encoder.store
    if elsewhere := elsewhere_as(made.config):
        raise NotFound(
            f"{store.url} does not keep the weights of encoder {encoder.name!r}, which others publish",
            f"they are to be had there: giga bank STORE --encoder {elsewhere}",
        )
    weights = encoder.weights()
    tiles = store.tiles.found if made.stage == "pretrain-tiles" else None
    if tiles is not None and tiles.fingerprint != made.inputs.get("tiles"):
        tiles = None
    card = WeightsCard(
        kind="encoder",
        name=encoder.name,
        created_by=CREATED_BY,
        variant="",
        encoder=encoder.name,
        encoder_sha256=hashlib.sha256(weights).hexdigest(),
        timm="",
        mpp=tiles.config["mpp"] if tiles is not None else None,
        tile_px=tiles.config["tile_px"] if tiles is not None else None,
        features=RESNET18_FEATURES,
        width=0,
        slides=_slides_seen(encoder),
        recipes=_plain({"tiles": tiles, "encoder": made}),
    )
    return card, weights


def _slides_seen(group: Model | Encoder) -> int:
    seen = group.seen()
    return 0 if seen is None else int(np.count_nonzero(seen))


def _plain(recipes: dict[str, Recipe | None]) -> dict[str, dict[str, Any]]:
    return {role: dict(vars(recipe)) for role, recipe in recipes.items() if recipe is not None}


def _markdown(card: WeightsCard, file: str, sha256: str) -> str:
    """The card in Markdown."""
    lines = [f"# {card.name}", ""]
    if card.kind == "model":
        lines += [
            f"A Giga-SSL slide encoder (Lazard et al., CVPRW 2023): {card.features} values per tile and the places of "
            f"the tiles -> {card.width} values per slide. Trained without labels on {card.slides} slides.",
            "",
            "It goes with features of one tile encoder, made from one kind of tiles; `giga embed` checks both:",
            "",
            f"- tile encoder: {card.tile_encoder}" + (f", `{card.elsewhere}`" if card.elsewhere else ""),
            f"- {card.tiles}",
            "",
            f"    giga embed cohort.zarr --model {file}",
        ]
    else:
        trained = f"Trained without labels on tiles of {card.slides} slides." if card.slides else ""
        lines += [
            f"A tile encoder: ResNet18 with torchvision's names, of which `layer3` gives {card.features} values per "
            f"tile. {trained}".rstrip(),
            "",
            *([f"- {card.tiles}", ""] if card.mpp is not None else []),
            f"    giga bank cohort.zarr --encoder {file}",
        ]
    lines += ["", f"- file: {file}, SHA-256 {sha256}"]
    lines += [f"- weights: SHA-256 {card.encoder_sha256}"] if card.kind == "encoder" else []
    lines += [f"- written by {card.created_by}; this card is also in the metadata of the file, under `giga`", ""]
    for role, recipe in card.recipes.items():
        lines += [f"## Recipe: {role}", "", f"`giga {recipe['stage']}`", ""]
        lines += ["| option | value |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in sorted(recipe["config"].items())]
        lines += [f"| made from {key} | {value} |" for key, value in sorted(recipe["inputs"].items())] + [""]
    lines += [
        "## Limits",
        "",
        "Vectors of slides that were seen in training are not independent of them. Nothing here says for which "
        "tissues, stains or scanners the weights are of use: `giga probe` on labels of your own does.",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("|", "\\|")
