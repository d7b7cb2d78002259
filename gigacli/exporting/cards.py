"""Cards of models and encoders for people, in Markdown: beside an exported file, or as its page on Hugging Face."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from gigacli.config.published import PUBLISHED, Published
from gigacli.weights.card import WeightsCard

FRONT = """---
library_name: gigacli
tags:
- giga-ssl
- computational-pathology
- whole-slide-images
- self-supervised-learning
---

"""
"""What Hugging Face finds a model by. A licence is not among it: that is for whoever publishes to say."""

ELSEWHERE_CALLED = {"univ1": "uni", "univ2": "uni2h", "gigapath": "provgigapath"}
"""What other tools call published encoders, where that is not our name but for dashes."""


def card_text(
    card: WeightsCard, file: str, data: bytes, *, patients: int | None, at: str = "", files: Sequence[str] = ()
) -> str:
    """The card in Markdown.

    Args:
        card: What the file says of itself.
        file: Its name.
        data: What is in it.
        patients: Of the slides it was trained on; None where that is not known.
        at: Its address on Hugging Face; "" for a file.
        files: All weights that are there.
    """
    of_kind = _of_model if card.kind == "model" else _of_encoder
    lines = [f"# {card.name}", "", *of_kind(card, at or file, seen=_seen(card, patients), files=files)]
    lines += ["", f"- file: {file}, SHA-256 {hashlib.sha256(data).hexdigest()}"]
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
    return (FRONT if at else "") + "\n".join(lines) + "\n"


def published_as(card: WeightsCard) -> tuple[str, Published] | None:
    """The published tile encoder of a model, and giga's name of it: by the recipe, else by what it is called."""
    recipe = card.recipes.get("encoder", {}).get("config", {})
    if one := PUBLISHED.get(str(recipe.get("published", ""))):
        return recipe["published"], one
    for name, one in PUBLISHED.items():
        if card.timm.partition(":")[2].partition("@")[0] == one.hub:
            return name, one
    if card.timm or card.encoder_sha256:
        return None
    called = _letters(card.encoder)
    called = ELSEWHERE_CALLED.get(called, called)
    return next(((name, one) for name, one in PUBLISHED.items() if _letters(name) == called), None)


def _of_model(card: WeightsCard, source: str, *, seen: str, files: Sequence[str]) -> list[str]:
    joined = card.recipes["model"]["config"].get("join")
    return [
        f"A Giga-SSL slide encoder (Lazard et al., CVPRW 2023): {card.features} values per tile and the places of "
        f"the tiles -> {card.width} values per slide. Trained without labels on {seen}.",
        "",
        "It goes with features of one tile encoder, made from one kind of tiles; `giga embed` checks both:",
        "",
        f"- tile encoder: {card.tile_encoder}" + (f", `{card.elsewhere}`" if card.elsewhere else ""),
        *_licence(card),
        f"- {card.tiles}",
        "",
        "## How to use it",
        "",
        *_commands(card, source, files),
        "",
        "## What to judge it beside",
        "",
        "`giga embed` writes the mean of tiles and the whitened mean beside its vectors, which need no training; "
        "`--aggregator random-init` gives this encoder before its training. `giga probe` puts all of them into one "
        "table. No scores are said here: they would be of somebody else's labels.",
        *(["", "Its vectors are joined with a closed form; `--no-closed-form` leaves that out."] if joined else []),
    ]


def _commands(card: WeightsCard, source: str, files: Sequence[str]) -> list[str]:
    """Command lines from slides, or from features of another tool, to vectors."""
    if "features" in card.recipes:
        lines = [f"giga import cohort.zarr FEATURES/  # of {card.encoder}, on such tiles"]
    else:
        encoder = card.elsewhere or (source if "encoder.safetensors" in files else f"{card.encoder}.safetensors")
        lines = [
            f"giga tile cohort.zarr SLIDES/ --mpp {card.mpp:g} --tile-px {card.tile_px}",
            f"giga bank cohort.zarr --encoder {encoder} --augmentations 1",
        ]
    return [f"    {line}" for line in (*lines, f"giga embed cohort.zarr --model {source}")]


def _of_encoder(card: WeightsCard, source: str, *, seen: str, files: Sequence[str]) -> list[str]:
    del files
    trained = f"Trained without labels on tiles of {seen}." if card.slides else ""
    return [
        f"A tile encoder: ResNet18 with torchvision's names, of which `layer3` gives {card.features} values per "
        f"tile. {trained}".rstrip(),
        "",
        *([f"- {card.tiles}", ""] if card.mpp is not None else []),
        f"    giga bank cohort.zarr --encoder {source}",
    ]


def _seen(card: WeightsCard, patients: int | None) -> str:
    return f"{card.slides} slides" + ("" if patients is None else f" of {patients} patients")


def _licence(card: WeightsCard) -> list[str]:
    found = published_as(card)
    if found is None:
        return []
    name, one = found
    return [
        f"- licence of {name}: {one.licence}, as <https://huggingface.co/{one.hub}> named it in 2026; that page says "
        "what may be done with models that were trained on its features"
    ]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("|", "\\|")
