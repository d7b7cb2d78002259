"""What a slide encoder starts from, and what is fitted beside it once it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.config.verbs import TrainConfig
from gigacli.nn.giga import GigaSSL
from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.nn.whitening import (
    FeatureSpace,
    augmentation_covariance,
    slide_covariance,
    spread_of,
    spread_rows,
    whitening_matrix,
)
from gigacli.probing.robust import robustness
from gigacli.progress import Progress
from gigacli.store.groups import Bank, Encoder, Features
from gigacli.store.mapped import MappedBank, MappedFeatures
from gigacli.weights.fresh import FreshFeatures
from gigacli.weights.joined import fit_joined
from gigacli.weights.resnet18 import resnet18_from_bytes
from gigacli.weights.slide_tiles import tiles_of_slides
from gigacli.weights.slide_vectors import encode_slides


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained, and what on."""

    config: TrainConfig
    source: Bank | Features  # the bank, or the imported features that stand in for one
    views: MappedBank | MappedFeatures  # its slides to train on, mapped into memory
    features: Features  # of the same tiles, without augmentation
    tiles: int  # of a view
    precision: str  # fp32 or bf16, what the networks compute in


def initial_method(material: Material, progress: Progress) -> tuple[GigaSSL, str]:
    """Make the networks as they are before the first step; says where the slide encoder's weights come from."""
    config, source, views = material.config, material.source, material.views
    views.load(cache=config.cache, progress=progress)
    method = GigaSSL.of_recipe(
        views.width, config.recipe(), seed=config.seed, stream="train", sparse_backend=config.sparse_backend
    )
    method.enter(_feature_space(material))
    origin = _load_layer4(method, source.store.encoder(source.config["encoder"]))
    progress.say(f"slide encoder starts from {origin}")
    if isinstance(source, Features):
        progress.say(f"{source.path} were imported: all tiles of a slide are its one augmentation")
    return method, origin


def learnt(material: Material, method: GigaSSL, *, device: torch.device, progress: Progress) -> bytes:
    """The weights as a file, and in it what joins their vectors with a closed form."""
    config, source = material.config, material.source
    if not config.join:
        return weights_to_bytes(method)
    progress.say("fitting the closed form that the encoder's vectors are joined with")
    joined = fit_joined(
        method.eval().vectors,
        material.features,
        source if isinstance(source, Bank) else None,
        material.views.rows,
        tiles=material.tiles,
        seed=config.seed,
        device=device,
        precision=material.precision,
    )
    return weights_to_bytes(method, beside=joined.state())


def _feature_space(material: Material) -> FeatureSpace:
    """What features are brought into before the encoder: plain tiles say the standard, augmented ones the whitening."""
    config, views = material.config, material.views
    spread = spread_of(map(material.features.read, views.rows.tolist())) if config.standardise else None
    standard = spread.standard if spread is not None else None
    if not config.whiten:
        return FeatureSpace(standard, None)
    if config.whitening == "augmentations":
        noise = augmentation_covariance(_augmented(material), standard)
    elif isinstance(material.source, Bank):
        noise = slide_covariance((slide for slide, _ in _augmented(material)), standard)
    else:
        noise = slide_covariance(views.slides(), standard)
    return FeatureSpace(standard, whitening_matrix(noise, spread))


def _augmented(material: Material) -> Iterator[tuple[NDArray[np.float16], NDArray[np.int32]]]:
    """Per slide its augmented features (augmentation, draw, c), and which tiles they are of."""
    views = material.views
    if isinstance(views, MappedBank):
        yield from zip(views.slides(), views.tile, strict=True)
        return
    assert isinstance(material.source, Bank)
    for slide in tiles_of_slides(material.features, views.rows, bank=material.source, placed=False):
        assert slide.augmented is not None
        assert slide.drawn is not None
        yield slide.augmented.astype(np.float16, copy=False), slide.drawn


def _load_layer4(method: GigaSSL, encoder: Encoder) -> str:
    """Start from the tile encoder's layer4 where there is one that fits (paper: the second part of one ResNet18)."""
    if not encoder.has("weights"):
        return "random weights (the store holds no tile encoder)"
    if not isinstance(method.encoder, SlideEncoder):
        return "random weights (this aggregator is no part of a ResNet18)"
    network = resnet18_from_bytes(encoder.weights(), trunk=True)
    if network.layer4 is None:
        return f"random weights (encoder {encoder.name!r} stops at layer3)"
    if len(network.layer4) != len(method.encoder.blocks):
        return (
            f"random weights (layer4 of encoder {encoder.name!r} has {len(network.layer4)} blocks, "
            f"the slide encoder {len(method.encoder.blocks)})"
        )
    for one in method.encoders:
        assert isinstance(one, SlideEncoder)
        one.load_layer4(network.state_dict())
    return f"layer4 of encoder {encoder.name!r}"


LOOKED_AT, LOOKS = 256, 8
"""Slides that are embedded under another augmentation, to see whether their vectors withstand it, and views of each."""


def withstands(material: Material, method: GigaSSL, *, device: torch.device) -> dict[str, float]:
    """How far the encoder's vectors move under another augmentation: "found" and "moved"; empty where there is none."""
    source, features = material.source, material.features
    rows = material.views.rows[spread_rows(len(material.views.rows), LOOKED_AT)]
    if not isinstance(source, Bank) or features.found is None or not features.done().filled[rows].all():
        return {}
    if source.learns and not source.held_out:
        return {}
    otherwise = FreshFeatures(features, 0)
    rows = np.union1d(rows, material.views.rows[otherwise.of(material.views.rows)][:LOOKED_AT])
    some = otherwise.of(rows)
    if not some.any():
        return {}
    views: dict[str, Any] = {"views": LOOKS, "tiles": material.tiles, "seed": 0}
    clean, fresh = (
        encode_slides(method.eval().vectors, seen, those, **views, device=device, precision=material.precision)
        for seen, those in ((features, rows), (otherwise, rows[some]))
    )
    every = np.full_like(clean, np.nan)
    every[some] = fresh
    found = robustness(clean, every[:, None], scale=False)
    return {"found": found.found, "moved": found.moved}
