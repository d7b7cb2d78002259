"""What vectors of two stores must have in common to be read by one probe: tiles, tile encoder, model, join."""

from __future__ import annotations

import hashlib

from gigacli.probing.head_card import HeadCard, VectorKind
from gigacli.store.groups import Embedding
from gigacli.store.recipe import Recipe
from gigacli.weights.card import encoder_text

MPP_TOLERANCE = 0.01  # relative difference of resolutions that count as the same: tools round what scanners state


def kind_of(embedding: Embedding) -> VectorKind:
    """What kind of vectors an embedding holds, by its recipe and those of what it was made from.

    Raises:
        NotFound: It is not there.
    """
    recipe, features, tiles = embedding.recipe, embedding.features, embedding.store.tiles
    encoder, sha256 = str(recipe.config.get("encoder", "")), ""
    if features is not None and features.found is not None:
        encoder, sha256 = tile_encoder_of(features.recipe)
    from_tiles, drawn = bool(recipe.inputs) and tiles.found is not None, embedding.aggregator == "random-init"
    blocks = recipe.config.get("blocks", {})
    return VectorKind(
        aggregator=embedding.aggregator,
        width=embedding.width,
        model=str(recipe.config.get("model") or ""),
        learnt=recipe.inputs.get("model") or _hash_of_state(embedding),
        start=int(recipe.config.get("seed", 0)) if drawn else None,
        blocks={str(name): (int(first), int(last)) for name, (first, last) in blocks.items()},
        encoder=encoder,
        encoder_sha256=sha256,
        mpp=float(tiles.mpp) if from_tiles else None,
        tile_px=int(tiles.tile_px) if from_tiles else None,
    )


def same_kind(found: Embedding | VectorKind, expected: Embedding | HeadCard | VectorKind) -> list[str]:
    """Say how the vectors of an embedding differ from those of another, or from those that a head was fitted on.

    The vectors of a model are of one kind wherever its weights are the same, whatever it is called. Those of a closed
    form other than the mean are not where it was fitted on other slides: each cohort has another space then.

    Returns:
        One line each, as "tiles: found 224 px at 0.5 µm per px, expected 256 px at 1 µm per px", in the order in which
        they are made; empty where one probe reads both.
    """
    mine, wanted = (_kind(one) for one in (found, expected))
    texts = (
        ("tiles", _tiles(mine), _tiles(wanted), same_tiles(mine, wanted)),
        ("tile encoder", _encoder(mine), _encoder(wanted), same_encoder(mine, wanted)),
        ("vectors", _maker(mine), _maker(wanted), _origin(mine) == _origin(wanted)),
        ("join", _blocks(mine), _blocks(wanted), mine.blocks == wanted.blocks),
        ("values of a vector", str(mine.width), str(wanted.width), mine.width == wanted.width),
    )
    compared = texts if mine.aggregator == wanted.aggregator else texts[:3]  # the others follow from that
    return [f"{what}: found {here}, expected {there}" for what, here, there, same in compared if not same]


def tile_encoder_of(recipe: Recipe) -> tuple[str, str]:
    """Return name and hash of the tile encoder behind features or a bank; no hash for what was imported."""
    return str(recipe.config.get("encoder", "")), recipe.inputs.get("encoder", "")


def same_encoder(one: VectorKind, other: VectorKind) -> bool:
    """Whether vectors are of tile features of the same encoder."""
    return same_weights((one.encoder, one.encoder_sha256), (other.encoder, other.encoder_sha256))


def same_weights(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Compare hashes, or the names (first) too where a hash is not known: one hash alone proves nothing."""
    return one[1] == other[1] if one[1] and other[1] else one == other


def same_tiles(one: VectorKind, other: VectorKind) -> bool:
    """Whether vectors are of tiles of one size and resolution; where these are not known, of both."""
    if one.mpp is None or other.mpp is None:
        return (one.mpp, one.tile_px) == (other.mpp, other.tile_px)
    return one.tile_px == other.tile_px and same_mpp(one.mpp, other.mpp)


def same_mpp(one: float, other: float) -> bool:
    """Whether two resolutions count as the same."""
    return abs(one - other) <= MPP_TOLERANCE * other


def _kind(of: Embedding | HeadCard | VectorKind) -> VectorKind:
    if isinstance(of, VectorKind):
        return of
    return of.vectors if isinstance(of, HeadCard) else kind_of(of)


def _hash_of_state(embedding: Embedding) -> str:
    state = embedding.state
    return hashlib.sha256(state).hexdigest() if state else ""


def _tiles(kind: VectorKind) -> str:
    return "not known" if kind.mpp is None else f"{kind.tile_px} px at {kind.mpp:g} µm per px"


def _encoder(kind: VectorKind) -> str:
    return encoder_text(kind.encoder, kind.encoder_sha256) if kind.encoder else "not known"


def _origin(kind: VectorKind) -> tuple[str, str, int | None]:
    return kind.aggregator, kind.learnt, kind.start


def _maker(kind: VectorKind) -> str:
    if not kind.learnt:
        return kind.aggregator
    if not kind.model:
        return f"{kind.aggregator} fitted on slides of its own ({kind.learnt[:12]})"
    start = "" if kind.start is None else f", started at random from seed {kind.start}"
    return f"{kind.aggregator} {kind.model!r} (weights {kind.learnt[:12]}{start})"


def _blocks(kind: VectorKind) -> str:
    return ", ".join(f"{name} {first}:{last}" for name, (first, last) in kind.blocks.items()) or "none"
