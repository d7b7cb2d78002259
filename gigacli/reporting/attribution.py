"""Which tiles pull the vector of a slide towards a class.

A frozen vector does not say where on the slide it comes from. But the probe's score is linear in the vector and the
vector a mean over views of few tiles, so every tile's part can be told apart (:mod:`gigacli.probing.attribution`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gigacli.config.verbs import EmbedConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.probing.attribution import balanced_views, pull_of_mean, pull_of_views
from gigacli.probing.labels import join, patients_of, read_labels
from gigacli.probing.linear import PAPER_C, score
from gigacli.probing.logistic import fit
from gigacli.probing.splits import make_splits
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng
from gigacli.store.bank import FeatureReader, tile_grid_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.probing.attribution import Pull
    from gigacli.probing.scores import Score
    from gigacli.progress import Progress
    from gigacli.store.store import Recipe, Store

MEAN = "mean"
ALIKE = 0.95
"""Cosine of the stored vector and the mean of these views, below which they are not of the same slide encoder."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the tiles of one slide do to the score of a class.

    Attributes:
        slide: Id of the slide.
        row: Its row in the store.
        target: The column of labels.
        positive: The class; all others are against it.
        label: The slide's own label, "" where it has none.
        embedding: Name of the embedding.
        coords: (n, 2) level-0 x and y of the tiles' top-left corners.
        edge_px: Edge of a tile in level-0 pixels.
        pull: Of every tile.
        views: Views that the pull was estimated from; 0 where it is exact.
        logit: Score of the slide's stored vector: log odds of the class.
        similarity: Cosine of the stored vector and the one that these views give.
        trained_on: Slides the probe was fitted on.
        left_out: Labelled slides of the same patient, this one included, which it has not seen.
        judged: How well the probe tells the class from the others, over splits that keep patients together; None where
            there are too few slides to say.
        notes: What deserves a sentence.
    """

    slide: str
    row: int
    target: str
    positive: str
    label: str
    embedding: str
    coords: NDArray[np.int32]
    edge_px: float
    pull: Pull
    views: int
    logit: float
    similarity: float
    trained_on: int
    left_out: int
    judged: Score | None
    notes: tuple[str, ...]


def explain(
    store: Store,
    slide: str,
    labels: str | Path,
    *,
    target: str | None = None,
    positive: str | None = None,
    embedding: str | None = None,
    views: int = 100,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Explanation:
    """Tell which tiles of a slide speak for a class.

    The probe is a logistic regression of the class against all others, C = 10 and balanced as in the paper, on every
    labelled slide but those of this slide's patient.

    Args:
        store: The cohort store.
        slide: Id of the slide.
        labels: Table of labels, as for ``giga probe``.
        target: Its column; default: `label`.
        positive: The class; default: the slide's own.
        embedding: Its name; may be left out where there is one beside the mean of tiles.
        views: In how many views each tile is, at least 10.
        seed: Of the views.
        device: Where the slide encoder runs.
        progress: Who listens.

    Raises:
        NotFound: No such slide, embedding, table or column.
        InvalidInput: No such class, or the slide has too few tiles.
        Mismatch: The embedding was made from tiles or with a model that are no longer there.
    """
    if views < 10:
        raise InvalidInput(f"--views is {views}; with fewer than 10 views per tile the noise is not known")
    row = store.slides.index.get(slide)
    if row is None:
        first = ", ".join(store.slides.ids[:3])
        raise NotFound(f"{store.url} holds no slide {slide!r}", f"its slides are named like {first}")
    name = embedding or _only(store)
    recipe = store.require(f"embeddings/{name}")
    probe = _Probe.fit(store, name, row, labels, target=target, positive=positive, scale=_kind(recipe) == MEAN)
    coords, edge_px = tile_grid_of(store, row)
    if not len(coords):
        raise InvalidInput(f"slide {slide!r} has no tiles", "choose a slide with tissue: giga info lists failures")
    if _kind(recipe) == MEAN:
        features = recipe.config["features_name"]
        _check_input(store, name, recipe, "features", f"features/{features}")
        tiles = FeatureReader(store, features)(row, len(coords)).astype(np.float64)
        pull, made = pull_of_mean(tiles / probe.deviation @ probe.weights), 0
        mean = tiles.mean(axis=0)
    else:
        scores, drawn, mean = _view_scores(store, recipe, name, row, probe, views=views, seed=seed, device=device)
        pull, made = pull_of_views(scores, drawn, len(coords)), len(scores)
    progress.say(f"{slide}: {len(coords)} tiles, {made} views" if made else f"{slide}: {len(coords)} tiles")
    similarity = float(mean @ probe.own / (np.linalg.norm(mean) * np.linalg.norm(probe.own)))
    notes = list(probe.notes)
    if similarity < ALIKE:
        notes.append(f"these views give a vector unlike the stored one (cosine {similarity:.2f}): trust neither")
    if made and not pull.significant.any():
        notes.append("no tile stands out from the noise of sampling: raise --views")
    return Explanation(
        slide=slide,
        row=row,
        target=probe.target,
        positive=probe.positive,
        label=probe.label,
        embedding=name,
        coords=coords,
        edge_px=edge_px,
        pull=pull,
        views=made,
        logit=probe.logit,
        similarity=similarity,
        trained_on=probe.trained_on,
        left_out=probe.left_out,
        judged=probe.judged,
        notes=tuple(notes),
    )


def _only(store: Store) -> str:
    """The one embedding that a slide encoder made, where none was named."""
    names = store.names("embeddings")
    ours = [n for n in names if _kind(store.require(f"embeddings/{n}")) == "model"]
    return ours[0] if len(ours) == 1 else store.pick("embeddings", None)


def _kind(recipe: Recipe) -> str:
    return str(recipe.config.get("aggregator", ""))


def _check_input(store: Store, name: str, recipe: Recipe, key: str, path: str) -> None:
    """Refuse an embedding whose input was replaced after it was made: other tiles, other views."""
    if store.require(path).fingerprint != recipe.inputs.get(key):
        raise Mismatch(
            f"embeddings/{name} was made from another {path} than the one in {store.url}",
            f"make it again: giga embed {store.url} --redo",
        )


@dataclass(frozen=True, eq=False)
class _Probe:
    """A logistic regression that has not seen the slide's patient, in the space of the stored vectors.

    `weights` (features,) act on vectors divided by `deviation`; `own` (features,) is the slide's stored vector.
    """

    weights: NDArray[np.float64]
    deviation: NDArray[np.float64]
    own: NDArray[np.float32]
    logit: float
    target: str
    positive: str
    label: str
    trained_on: int
    left_out: int
    judged: Score | None
    notes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        store: Store,
        name: str,
        row: int,
        labels: str | Path,
        *,
        target: str | None,
        positive: str | None,
        scale: bool,
    ) -> _Probe:
        table = read_labels(labels, target=target)
        have = store.array(f"embeddings/{name}/done")[:] > 0
        vectors = store.array(f"embeddings/{name}/vectors")[:]
        slides = store.slides
        if not have[row]:
            raise NotFound(f"slide {slides.ids[row]!r} has no vector in {name!r}", f"run: giga embed {store.url}")
        joined = join(table, slides.ids, have)
        place = {int(i): str(label) for i, label in zip(joined.index, joined.label, strict=True)}
        label, classes = place.get(row, ""), sorted(set(place.values()))
        chosen = positive if positive is not None else label
        if chosen not in classes:
            said = f"there is no class {chosen!r}" if chosen else f"slide {slides.ids[row]!r} has no label"
            raise InvalidInput(f"{said} in `{table.target}`", f"name one with --class: {', '.join(classes)}")
        known = {int(i): p for i, p in zip(joined.index, joined.patient_id or [None] * len(place), strict=True)}
        said_of = [known.get(i) or slides[i].patient for i in range(len(slides))]
        patients, source = patients_of(slides.ids, from_store=said_of, from_labels=None)
        patient = np.array(patients or slides.ids)
        y = (joined.label == chosen).astype(np.int64)
        unseen = patient[joined.index] != patient[row]
        if len(set(y[unseen].tolist())) < 2:
            raise InvalidInput(
                f"without the patient of {slides.ids[row]!r} there are not two classes left of `{table.target}`",
                "label slides of other patients, too",
            )
        train = vectors[joined.index][unseen]
        mean = train.mean(axis=0, dtype=np.float64) if scale else np.zeros(train.shape[1])
        spread = train.std(axis=0, dtype=np.float64) if scale else np.ones(train.shape[1])
        spread = np.where(spread > 0, spread, 1.0)
        model = fit(((train - mean) / spread).astype(np.float32), y[unseen], C=PAPER_C)
        weights, bias = model.weights[0, :-1].astype(np.float64), float(model.weights[0, -1])
        judged, note = _judge(vectors[joined.index], joined.label == chosen, patient[joined.index], scale=scale)
        notes = [f"patients: {source}", *([note] if note else [])]
        if judged is not None and (judged.auc_low or 0.0) <= 0.5:
            notes.append(
                f"the probe does not tell {chosen!r} from the others for sure (AUC {judged.auc_mean:.3f}, 95 % "
                f"interval {judged.auc_low:.3f} to {judged.auc_high:.3f}): its map need not mean anything"
            )
        return cls(
            weights=weights,
            deviation=spread,
            own=vectors[row],
            logit=float((vectors[row] - mean) / spread @ weights + bias),
            target=table.target,
            positive=chosen,
            label=label,
            trained_on=int(unseen.sum()),
            left_out=int((~unseen).sum()),
            judged=judged,
            notes=tuple(notes),
        )


def _judge(
    vectors: NDArray[np.float32], is_class: NDArray[np.bool_], patient: NDArray[np.str_], *, scale: bool
) -> tuple[Score | None, str]:
    """How good the probe is, and why it cannot be said."""
    names = np.where(is_class, "1", "0")
    try:
        splits, _ = make_splits(names, patient)
        return score(vectors, names, splits, scale=scale), ""
    except InvalidInput as error:
        return None, f"how well the probe tells the class apart is not known: {error.message}"


def _view_scores(
    store: Store, recipe: Recipe, name: str, row: int, probe: _Probe, *, views: int, seed: int, device: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Scores of views that hold every tile equally often, (R,); their tiles, (R, T); and their mean vector."""
    import torch

    from gigacli.nn.device import pick_device
    from gigacli.nn.giga import TILES_AT_ONCE
    from gigacli.nn.views import TilePositions, make_views
    from gigacli.store.bank import grids_of
    from gigacli.weights.slide_encoders import choose_model

    model = recipe.config.get("model")
    if model is None or "variant" in recipe.config:
        raise InvalidInput(
            f"embeddings/{name} was not made by a slide encoder of this store, so its tiles cannot be told apart",
            "choose another --embedding",
        )
    kept = {k: v for k, v in recipe.config.items() if k in ("aggregator", "weights", "views", "seed")}
    config = EmbedConfig.of({**kept, "model": model, "features": recipe.config.get("features_name")})
    loaded = choose_model(store, config, pick_device(device))
    _check_input(store, name, recipe, "model", f"models/{model}")
    _check_input(store, name, recipe, "features", f"features/{loaded.features}")
    positions = TilePositions(grids_of(store, np.array([row])))
    n = int(positions.counts[0])
    rng = keyed_rng(seed, "tile-map", store.slides.ids[row])
    drawn = balanced_views(rng, n, tiles=loaded.tiles, per_tile=views)  # (R, T)
    features = FeatureReader(store, loaded.features)(row, n)
    vectors, step = [], max(1, TILES_AT_ONCE // loaded.tiles)
    with torch.inference_mode():
        for part in (drawn[i : i + step] for i in range(0, len(drawn), step)):
            placed = positions(np.zeros(len(part), dtype=np.int64), part)
            batch = make_views(features[part], placed, augmentation=None, device=pick_device(device))
            vectors.append(loaded.encode(batch).double().cpu().numpy())
    all_views = np.concatenate(vectors)  # (R, width)
    mean = all_views.mean(axis=0)
    return all_views @ probe.weights / np.linalg.norm(mean), drawn, mean
