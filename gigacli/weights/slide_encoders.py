"""Choice of the slide encoder of an embedding: of the store, a file, one of Hugging Face, or one of the authors'.

Whatever it is, it must go with the tile features of the store that it is used on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from gigacli.config.base import NAME_PATTERN
from gigacli.config.verbs import EmbedConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.giga import GigaSSL, is_of_encoder
from gigacli.nn.gigassl import DOWNMAP, LEVEL0_PER_PX
from gigacli.nn.views import ViewBatch
from gigacli.store.groups import Features, Model
from gigacli.store.store import Store
from gigacli.weights.authors import WIDTH_IN, read_gigassl
from gigacli.weights.card import WeightsCard, encoder_text
from gigacli.weights.hub import HUB, HubAddress, download
from gigacli.weights.joined import Joined, split_weights
from gigacli.weights.vector_kind import same_mpp, same_weights, tile_encoder_of

PAPER_TILES = 5
"""T of the paper, for the authors' checkpoints: they do not name theirs in a form that could be relied on."""


@dataclass(frozen=True)
class ModelChoice:
    """A slide encoder that goes with features of a store."""

    features: str  # name of the tile features it takes
    variant: str  # ``giga``, or ``gigassl`` for the authors' checkpoints
    width: int  # values per slide
    config: dict[str, Any]  # its settings in the recipe of an embedding
    identity: str  # hash of its weights, in the inputs of that recipe
    tiles: int  # T, tiles per view
    precision: str  # that it was trained in
    encode: Callable[[ViewBatch], torch.Tensor]  # function from views to vectors (b, width), in eval mode
    joined: Joined | None = None  # what its vectors are joined with, where that was learnt with it
    note: str = ""  # message to the user about what could not be checked; "" for none


def name_of_model(store: Store, config: EmbedConfig) -> str:
    """Return the name of the model asked for, in the store or of its file; without one, the store's only model.

    Raises:
        NotFound: There is no such model and no such file.
        InvalidInput: There are several models and none was named, or a file's name is none for the store.
    """
    there = store.names(Model)
    if config.model is None or config.model in there:
        return store.pick(Model, config.model).name
    if config.model.startswith(HUB):
        return config.name or HubAddress.of(config.model).name_in_store()
    path = Path(config.model)
    if not path.is_file():
        raise NotFound(
            f"there is no model {config.model!r}: neither in {store.url} nor a file",
            f"there is {', '.join(there)}" if there else f"run: giga train {store.url}, or give a model file",
        )
    if config.name is None and not NAME_PATTERN.fullmatch(path.stem):
        raise InvalidInput(f"{path.name} does not make a name for the store", "give one: `name`")
    return path.stem


def choose_model(store: Store, config: EmbedConfig, device: torch.device) -> ModelChoice:
    """Find the model asked for, and the features it takes.

    Raises:
        NotFound: There is no such model and no such file, it cannot be fetched, or no features could go with it.
        InvalidInput: There are several models or features and none was named.
        Mismatch: The model was trained on features of another tile encoder or on other tiles; or it is damaged.
    """
    name = name_of_model(store, config)
    if config.model is None or config.model in store.names(Model):
        return _of_store(store.model(name), config, device)
    if config.model.startswith(HUB):
        address = HubAddress.of(config.model)
        return _of_file(store, download(address, "model"), config, device, called=HUB + address.repository)
    path = Path(config.model)
    if path.suffix == ".safetensors":
        return _of_file(store, path, config, device, called=path.name)
    return _of_authors(store, path, config, device)


def _of_store(model: Model, config: EmbedConfig, device: torch.device) -> ModelChoice:
    """Choose a model of the store, which must have been trained on the bank that is there."""
    trained = model.usable
    features = model.store.features(config.features or trained.config["bank"])
    if config.features is not None:
        _check_encoder(features, tile_encoder_of(model.source.recipe), origin=f"model {model.name!r}")
    weights, joined = split_weights(load_safetensors(model.weights()))
    method = _method(config, trained.config, weights, features.width).to(device).eval()
    return ModelChoice(
        features=features.name,
        variant="giga",
        width=method.width,
        config={"model": model.name, "features_name": features.name},
        identity=model.sha256,
        tiles=trained.config["tiles"],
        precision=trained.config.get("precision", "fp32"),
        encode=method.vectors,
        joined=joined if config.aggregator == "model" else None,
    )


def _of_file(store: Store, path: Path, config: EmbedConfig, device: torch.device, *, called: str) -> ModelChoice:
    """Choose a model of another store, by its file; `called` is what the recipe says of where it is from."""
    card, weights, sha256 = read_weights_file(path, kind="model")
    if card.variant != "giga":
        raise Mismatch(f"{path} is a model of variant {card.variant!r}; this giga knows 'giga'", "update giga")
    tiles = store.tiles
    assert card.mpp is not None  # of a model's file: read_weights_file looked
    if tiles.tile_px != card.tile_px or not same_mpp(tiles.mpp, card.mpp):
        raise Mismatch(
            f"{path} was trained on {card.tiles}; {store.url} holds tiles of {tiles.tile_px} px at {tiles.mpp:g} µm "
            "per px",
            f"tile as the model expects: giga tile {Path(store.url).stem}-2.zarr SLIDES --mpp {card.mpp:g} "
            f"--tile-px {card.tile_px}",
        )
    features = _features_for(store, card, config.features, config.model or called)
    trained = card.recipes["model"]["config"]
    learnt, joined = split_weights(weights)
    try:
        method = _method(config, trained, learnt, card.features).to(device).eval()
    except RuntimeError as error:  # torch's, of names and shapes
        raise Mismatch(f"{path}: its weights are not those its card is about: {error}", "export it again") from error
    return ModelChoice(
        features=features,
        variant=card.variant,
        width=method.width,
        config={"model": called, "variant": card.variant, "features_name": features},
        identity=sha256,
        tiles=trained["tiles"],
        precision=trained.get("precision", "fp32"),
        encode=method.vectors,
        joined=joined if config.aggregator == "model" else None,
    )


def read_weights_file(path: Path, *, kind: str) -> tuple[WeightsCard, dict[str, torch.Tensor], str]:
    """Read a file of ``giga export``: its card, its tensors, and their SHA-256 as the store they are from keeps it.

    That is without the card, so that vectors of a model are known to be its own in every store.

    Raises:
        Mismatch: It is no such file, or not of this kind.
    """
    data = path.read_bytes()
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
        weights = load_safetensors(data)
    except SafetensorError as error:
        raise Mismatch(f"{path} is not a safetensors file: {error}", "it is damaged, or of another kind") from error
    card = WeightsCard.from_metadata(metadata, origin=str(path))
    if card.kind != kind:
        raise Mismatch(
            f"{path} is the file of a tile {card.kind}, not of a {kind}",
            f"give it to: giga bank STORE --encoder {path}" if card.kind == "encoder" else "",
        )
    if kind == "model" and not (card.mpp and card.tile_px and "model" in card.recipes):
        raise Mismatch(f"{path}: its card does not say what tiles or which training it is of", "export it again")
    return card, weights, hashlib.sha256(save_safetensors(weights)).hexdigest()


def _check_encoder(features: Features, wanted: tuple[str, str], *, origin: str) -> None:
    """Refuse features of another tile encoder."""
    found = tile_encoder_of(features.recipe)
    if not same_weights(found, wanted):
        raise Mismatch(
            f"{origin} goes with tile encoder {encoder_text(*wanted)}; features {features.name!r} of "
            f"{features.store.url} were made with {encoder_text(*found)}",
            "name others: `features`, or make them with that encoder: giga bank STORE --encoder",
        )


def _features_for(store: Store, card: WeightsCard, named: str | None, source: str) -> str:
    """Return the name of the store's features that the model of a file goes with."""
    wanted = (card.encoder, card.encoder_sha256)
    if named is not None:
        _check_encoder(store.pick(Features, named), wanted, origin=source)
        return named
    there = {features.name: tile_encoder_of(features.recipe) for features in store.groups(Features)}
    fit = [name for name, encoder in there.items() if same_weights(encoder, wanted)]
    if len(fit) > 1:
        found = ", ".join(fit)
        raise InvalidInput(
            f"{store.url} holds several features that {source} goes with: {found}", "name one: `features`"
        )
    if not fit:
        found = "; ".join(f"{name!r} were made with {encoder_text(*encoder)}" for name, encoder in there.items())
        raise Mismatch(
            f"{source} goes with features of tile encoder {card.tile_encoder}; "
            + (f"of the features in {store.url}, {found}" if found else f"{store.url} holds no features"),
            _how_to_make(store, card, source),
        )
    return fit[0]


def _how_to_make(store: Store, card: WeightsCard, source: str) -> str:
    """Return the commands that make the features a model goes with."""
    if card.elsewhere:
        return f"run: giga bank {store.url} --encoder {card.elsewhere}"
    if not card.encoder_sha256:
        return f"it was trained on features of another tool: features of {card.encoder!r} are needed here, too"
    if source.startswith(HUB):
        return f"run: giga bank {store.url} --encoder {source}"
    file = f"{card.encoder}.safetensors"
    return (
        f"where the model was trained: giga export STORE encoders/{card.encoder} --to {file}; "
        f"then here: giga bank {store.url} --encoder {file}"
    )


def _of_authors(store: Store, path: Path, config: EmbedConfig, device: torch.device) -> ModelChoice:
    """Choose a checkpoint of the authors' code, which does not say what tiles and features it goes with."""
    if config.aggregator == "random-init":
        raise InvalidInput(f"{path} does not say what its slide encoder started from", "use `aggregator='model'`")
    encoder = read_gigassl(path)
    there = [store.pick(Features, config.features)] if config.features else store.groups(Features)
    there = there or [store.pick(Features, None)]  # raises: there are none
    fit = [features for features in there if features.width == encoder.width_in]
    if not fit:
        found = ", ".join(f"{features.name!r} with {features.width}" for features in there)
        raise Mismatch(
            f"{path} takes {encoder.width_in} values per tile; of the features in {store.url} there is {found}",
            f"run: giga bank {store.url} --encoder resnet18.pth, with the tile encoder that belongs to the checkpoint",
        )
    if len(fit) > 1:
        names = ", ".join(features.name for features in fit)
        raise InvalidInput(f"{store.url} holds several features: {names}", "name one: `features`")
    features, tiles = fit[0], store.tiles
    note = (
        f"{path} is a checkpoint of the authors' code and does not say what it goes with: expected are {WIDTH_IN} "
        "values per tile of the ResNet18 (up to layer3) it was trained with, from tiles of 224 px at 10x, about 1 µm "
        f"per px. Not checked: features {features.name!r} are of encoder "
        f"{encoder_text(*tile_encoder_of(features.recipe))}, tiles of {tiles.tile_px} px at {tiles.mpp:g} µm per px"
    )
    cell_px = DOWNMAP / LEVEL0_PER_PX
    return ModelChoice(
        features=features.name,
        variant="gigassl",
        width=encoder.width,
        config={"model": path.name, "variant": "gigassl", "features_name": features.name, "cell_px": cell_px},
        identity=hashlib.sha256(path.read_bytes()).hexdigest(),
        tiles=PAPER_TILES,
        precision="fp32",  # as their code embeds
        encode=encoder.to(device),
        note=note,
    )


def _method(config: EmbedConfig, trained: dict[str, Any], learnt: dict[str, torch.Tensor], width: int) -> GigaSSL:
    """Make the model, with the slide encoder it learnt or with the one it started from."""
    method = GigaSSL.of_recipe(width, trained, seed=config.seed, stream="random-init")
    born = {name: value for name, value in method.state_dict().items() if is_of_encoder(name)}
    method.load_state_dict({**learnt, **(born if config.aggregator == "random-init" else {})})
    return method
