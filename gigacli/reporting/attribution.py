"""Which tiles pull the vector of a slide towards a class.

A frozen vector does not say where on the slide it comes from. But the probe's score is linear in the vector, and the
vector a mean over views of few tiles, a closed form that is a mean over tiles to first order, or both side by side. So
every tile's part can be told apart (:mod:`gigacli.probing.attribution`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gigacli.config.tools import TileMapConfig
from gigacli.config.verbs import ClosedForm, EmbedConfig
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.attribution import TileAttribution, attribution_from_views, attribution_of_mean, balanced_views
from gigacli.probing.class_probe import ClassProbe, fit_class_probe
from gigacli.probing.labels import read_labels
from gigacli.probing.task import MEAN
from gigacli.progress import SILENT, Progress
from gigacli.randomness import keyed_rng
from gigacli.reporting.slides import find_slide
from gigacli.reporting.vectors import one_embedding
from gigacli.store.groups import Embedding
from gigacli.store.store import Store
from gigacli.store.table import SlideRow

ALIKE = 0.8
"""Cosine of the stored vector and the one of these views, below which there are too few views: of vectors that were
centred, what the sampling of views leaves is a larger share."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the tiles of one slide do to the score of a class."""

    slide: SlideRow
    embedding: str  # name of the embedding
    probe: ClassProbe  # what gives the score; it has not seen the slide's patient
    coords: NDArray[np.int32]  # (n, 2) level-0 x and y of the tiles' top-left corners
    edge_px: float  # edge of a tile in level-0 pixels
    attribution: TileAttribution  # how far every tile pulls the score
    views: int  # views that this was estimated from; 0 where none are needed
    similarity: float  # cosine of the stored vector and the one that these views give
    notes: tuple[str, ...]  # further remarks for the reader


def explain(
    store: Store, slide: str, labels: str | Path, config: TileMapConfig, *, progress: Progress = SILENT
) -> Explanation:
    """Tell which tiles of a slide speak for a class.

    Args:
        store: The cohort store.
        slide: Id of the slide.
        labels: Table of labels, as for ``giga probe``.
        config: Which class and embedding, and in how many views each tile is to be.
        progress: Receives progress.

    Raises:
        NotFound: No such slide, embedding, table or column.
        InvalidInput: No such class, or the slide has too few tiles.
        Mismatch: The embedding was made from tiles or with a model that are no longer there.
    """
    slides = store.slides
    row = find_slide(store, slide)
    slide = slides[row].id
    embedding = one_embedding(store, config.embedding)
    table, vectors, have = read_labels(labels, target=config.target), embedding.read(), embedding.done().filled
    if not have[row]:
        raise NotFound(f"slide {slide!r} has no vector in {embedding.name!r}", f"run: giga embed {store.url}")
    if not vectors[row].any():
        raise InvalidInput(
            f"the vector of {slide!r} in {embedding.name!r} is zero, so no tile pulls it anywhere",
            "choose another `embedding`; an arrangement is zero where tissue is not arranged",
        )
    patients, is_mean = [one.patient for one in slides.rows], embedding.aggregator == MEAN
    probe = fit_class_probe(
        table, slides.ids, patients, vectors, have, row=row, positive=config.positive, scale=is_mean
    )
    coords, edge_px = store.tiles.grid(row)
    if not len(coords):
        raise InvalidInput(f"slide {slide!r} has no tiles", "choose a slide with tissue: giga info lists failures")
    closed = embedding.aggregator in get_args(ClosedForm)
    attribute = _attribute_mean if is_mean else _attribute_form if closed else _attribute_views
    attribution, mean, views = attribute(embedding, row, probe, config)
    progress.say(f"{slide}: {len(coords)} tiles{f', {views} views' * bool(views)}")
    similarity = float(mean @ vectors[row] / (np.linalg.norm(mean) * np.linalg.norm(vectors[row])))
    notes = list(probe.notes)
    if similarity < ALIKE:
        notes.append(f"these views give a vector unlike the stored one (cosine {similarity:.2f}): trust neither")
    if views and not attribution.significant.any():
        notes.append("no tile stands out from the noise of sampling: raise `views`")
    return Explanation(
        slides[row], embedding.name, probe, coords, edge_px, attribution, views, similarity, tuple(notes)
    )


def _attribute_mean(
    embedding: Embedding, row: int, probe: ClassProbe, config: TileMapConfig
) -> tuple[TileAttribution, NDArray[np.float64], int]:
    """Attribution of a mean of tiles, the mean (features,), and 0 views."""
    from gigacli.nn.whitening import tile_parts

    features = embedding.store.features(embedding.config["features_name"])
    tiles = features.read(row)  # (n, features)
    weights = probe.weights / probe.deviation
    scores = np.concatenate([part.astype(np.float64) @ weights for part in tile_parts(tiles)])
    return attribution_of_mean(scores), tiles.mean(axis=0, dtype=np.float64), 0


def _attribute_form(
    embedding: Embedding, row: int, probe: ClassProbe, config: TileMapConfig
) -> tuple[TileAttribution, NDArray[np.float64], int]:
    """Attribution of a closed form, its vector (width,), and 0 views."""
    from gigacli.nn.forms import Vectors
    from gigacli.weights.slide_tiles import tiles_of_slides

    kept = Vectors.from_bytes(embedding.aggregator, embedding.state)
    features = embedding.store.features(embedding.config["features_name"])
    [slide] = tiles_of_slides(features, np.array([row]), augmented=False)
    return attribution_of_mean(kept.scores(slide, probe.weights)), kept.transform([slide])[0].astype(np.float64), 0


def _attribute_views(
    embedding: Embedding, row: int, probe: ClassProbe, config: TileMapConfig
) -> tuple[TileAttribution, NDArray[np.float64], int]:
    """Attribution from views that hold every tile equally often, their mean vector (width,), and how many there are."""
    import torch

    from gigacli.nn.device import pick_device
    from gigacli.nn.giga import TILES_AT_ONCE
    from gigacli.nn.views import TilePositions, slide_views
    from gigacli.weights.slide_encoders import choose_model
    from gigacli.weights.slide_tiles import tiles_of_slides

    store, made, device = embedding.store, embedding.config, pick_device(config.device)
    if "model" not in made or "variant" in made:
        raise InvalidInput(
            f"{embedding.path} was not made by a slide encoder of this store, so its tiles cannot be told apart",
            "choose another `embedding`",
        )
    kept: dict[str, Any] = {key: made[key] for key in ("aggregator", "views", "seed", "model", "join") if key in made}
    choice = choose_model(store, EmbedConfig.of({**kept, "features": made.get("features_name")}), device)
    features = store.features(choice.features)
    positions, tiles = TilePositions(store.tiles.grids(np.array([row]))), features.read(row)
    rng = keyed_rng(config.seed, "tile-map", store.slides[row].id)
    views = balanced_views(rng, len(tiles), tiles=choice.tiles, per_tile=config.views)  # (R, T)
    joined = choice.joined if "blocks" in made else None
    first, last = joined.join.columns()[joined.encoder] if joined is not None else (0, choice.width)
    weights = probe.weights[first:last]  # (width,)
    step, total, scores = max(1, TILES_AT_ONCE // choice.tiles), np.zeros(choice.width), np.empty(len(views))
    half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=made.get("precision") == "bf16")
    with torch.inference_mode(), half:  # views of a million tiles are too many to be kept: only how far each pulls is
        for i in range(0, len(views), step):
            batch = slide_views([tiles], positions, views[None, i : i + step], device=device)
            vectors = choice.encode(batch).double().cpu().numpy()  # (r, width)
            scores[i : i + step], total = vectors @ weights, total + vectors.sum(axis=0)
    length = np.linalg.norm(total / len(views))
    mean = total / len(views) / length
    scores = scores / length
    if joined is None:
        return attribution_from_views(scores, views, len(tiles)), mean, len(views)
    [slide] = tiles_of_slides(features, np.array([row]), augmented=False)
    blocks = {joined.encoder: mean, joined.form.name: joined.form.transform(slide)}
    parts_of = joined.join.gradient(blocks, probe.weights)
    square = float(weights @ weights)
    along = float(parts_of[joined.encoder] @ weights) / square if square else 0.0  # one is a multiple of the other
    exact = attribution_of_mean(joined.form.scores(slide, parts_of[joined.form.name])).value
    vector = joined.join.transform({name: block[None] for name, block in blocks.items()})[0]
    return attribution_from_views(along * scores, views, len(tiles), exact=exact), vector.astype(np.float64), len(views)
