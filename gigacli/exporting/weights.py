"""Models and encoders as safetensors files that say what they go with, and a card in Markdown beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from gigacli.errors import Mismatch, NotFound
from gigacli.exporting.cards import card_text
from gigacli.exporting.output import check_free, export_file
from gigacli.store.groups import Encoder, Model
from gigacli.store.recipe import CREATED_BY, Recipe
from gigacli.weights.card import WeightsCard, elsewhere_as
from gigacli.weights.hub import CARD, WEIGHTS, HubAddress, upload

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
    card, data = _file_of(group)
    with export_file(card_of(to)) as file:
        file.write_text(card_text(card, to.name, data, patients=_patients(group)), encoding="utf-8")
    with export_file(to) as file:
        file.write_bytes(data)
    return card.slides


def publish_weights(group: Model | Encoder, to: HubAddress, *, redo: bool) -> tuple[int, int]:
    """Put a model or an encoder on Hugging Face, with its card as the page, in one commit.

    A model takes its tile encoder along where the store keeps the weights of that: the one is of no use without the
    other. Where others publish them, the card says where.

    Returns:
        Slides it was trained on, as :func:`write_weights`, and the bytes that went there.

    Raises:
        NotFound: As there; or the user is not logged in, or the Hub cannot be reached.
        InvalidInput: It holds such files, and `redo` is off.
        Mismatch: What it was made from has been replaced.
        GigaError: The user may not write there.
    """
    card, data = _file_of(group)
    files = {WEIGHTS[card.kind]: data}
    if isinstance(group, Model) and not card.elsewhere and (encoder := group.store.encoder(card.encoder)).complete:
        files[WEIGHTS["encoder"]] = _file_of(encoder)[1]
    text = card_text(card, WEIGHTS[card.kind], data, patients=_patients(group), at=str(to), files=tuple(files))
    files[CARD] = text.encode("utf-8")
    upload(to, files, redo=redo)
    return card.slides, sum(map(len, files.values()))


def _file_of(group: Model | Encoder) -> tuple[WeightsCard, bytes]:
    """The card of a model or an encoder, and the safetensors file with that card in its metadata."""
    card, weights = _model_card(group) if isinstance(group, Model) else _encoder_card(group)
    return card, save(load(weights), metadata=card.to_metadata())


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


def _patients(group: Model | Encoder) -> int | None:
    """Patients of the slides it was trained on; None where one of those has none."""
    seen = group.seen()
    patients = {group.store.slides[row].patient for row in np.flatnonzero(seen).tolist()} if seen is not None else {""}
    return None if "" in patients else len(patients)


def _plain(recipes: dict[str, Recipe | None]) -> dict[str, dict[str, Any]]:
    return {role: dict(vars(recipe)) for role, recipe in recipes.items() if recipe is not None}
