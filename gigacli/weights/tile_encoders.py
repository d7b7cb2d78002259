"""Choice of the tile encoder of a bank: one of the store, a weights file, a model of timm, or a random one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from gigacli.config.bank import BankConfig
from gigacli.config.base import NAME_PATTERN
from gigacli.errors import GigaError, InvalidInput, NotFound
from gigacli.nn.device import pick_precision
from gigacli.nn.frozen import FrozenTileEncoder, can_compile
from gigacli.nn.tile_encoder import random_resnet18, weights_hash, weights_to_bytes
from gigacli.nn.tile_features import TileEncoder
from gigacli.nn.timm_encoder import TIMM, TimmEncoder
from gigacli.store.groups import Encoder
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.weights.resnet18 import read_resnet18, resnet18_from_bytes

RANDOM = "random-resnet18"

COMPILE_FROM = {"cpu": 50_000, "cuda": 10_000_000}
"""Encodings from which compiling the encoder, half a minute, is sooner paid back than felt."""


@dataclass(frozen=True)
class EncoderChoice:
    """A tile encoder that has been found, and can be made."""

    name: str  # its name in the store
    # a ResNet18 as a safetensors file; empty for a model of timm, whose weights are not ours to keep
    weights: bytes = b""
    timm: str = ""  # name of a model of timm; empty for a ResNet18
    note: str = ""  # report on the weights file, for messages; "" where there is none


def choose_encoder(store: Store, config: BankConfig) -> EncoderChoice:
    """Find the encoder asked for; without a name the only one of the store.

    Raises:
        NotFound: There is none of that name, or none at all.
        Mismatch: A file is no ResNet18.
    """
    there = store.names(Encoder)
    wanted = config.encoder
    if wanted is None and not there:
        raise NotFound(
            f"{store.url} holds no encoder and none was named",
            f"run: giga pretrain-tiles {store.url}, or name one: `encoder='{RANDOM}'` or a weights file",
        )
    if wanted is None or wanted in there:
        encoder = store.pick(Encoder, wanted)
        if encoder.complete or encoder.name != RANDOM:
            if timm := encoder.finished.config.get("timm"):
                return EncoderChoice(encoder.name, timm=timm)
            return EncoderChoice(encoder.name, encoder.weights())
    if wanted in (None, RANDOM):
        return EncoderChoice(RANDOM, weights_to_bytes(random_resnet18(config.seed)))
    if wanted.startswith(TIMM):
        model = wanted.removeprefix(TIMM)
        return EncoderChoice(config.name or store_name(model), timm=model)
    return _from_file(Path(wanted), [*there, RANDOM, f"{TIMM}NAME"], config.name)


def store_name(name: str) -> str:
    """Make a name for the store of timm's name of a model: ``hf-hub:org/model`` becomes ``org-model``.

    Raises:
        InvalidInput: Nothing is left of it.
    """
    source, colon, rest = name.partition(":")
    rest = rest if colon else source
    if source == "local-dir":
        rest = Path(rest).name
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", rest).strip("._-")[:80]
    if not NAME_PATTERN.fullmatch(cleaned):
        raise InvalidInput(f"{TIMM}{name} does not make a name for the store", "give one: `name`")
    return cleaned


def _from_file(path: Path, known: list[str], name: str | None) -> EncoderChoice:
    if not path.exists():
        hint = f"known names: {', '.join(known)}"
        raise NotFound(f"there is no encoder {str(path)!r}: neither in the store nor a file", hint)
    name = name or path.stem
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(f"{path.name} does not make a name for the store", "give one: `name`")
    network, report = read_resnet18(path, trunk=True)
    return EncoderChoice(name, weights_to_bytes(network), note=f"{path}: {report}")


def make_encoder(
    choice: EncoderChoice, config: BankConfig, device: torch.device, *, encodings: int
) -> tuple[TileEncoder, BankConfig]:
    """Load the frozen encoder, and return the options with precision and compiling decided.

    Args:
        choice: The encoder.
        config: Options.
        device: Where it computes.
        encodings: How many tiles the whole bank will encode, whichever shard asks: so all decide alike.
    """
    precision = pick_precision(config.precision, device)
    if choice.timm:
        encoder: TileEncoder = TimmEncoder(choice.timm, device=device, precision=precision)
        return encoder, config.but(precision=precision, compile="no")
    compiled = config.compile == "yes"
    if config.compile == "auto":
        compiled = encodings >= COMPILE_FROM[device.type] and can_compile(device)
    encoder = _resnet18(choice.weights, device, precision, compiled)
    return encoder, config.but(precision=precision, compile="yes" if compiled else "no")


@lru_cache(maxsize=1)
def _resnet18(weights: bytes, device: torch.device, precision: str, compiled: bool) -> TileEncoder:  # noqa: FBT001
    """Load a frozen ResNet18, cached because compiling takes long and this process may be given another shard."""
    network = resnet18_from_bytes(weights, trunk=True)
    return FrozenTileEncoder(network, device=device, precision=precision, compiled=compiled)


def weights_of(choice: EncoderChoice, encoder: TileEncoder) -> str:
    """Return the hash that stands for the weights in a recipe."""
    return encoder.weights_sha256 if isinstance(encoder, TimmEncoder) else weights_hash(choice.weights)


def keep_encoder(store: Store, choice: EncoderChoice, sha256: str, *, redo: bool) -> None:
    """Keep the weights a bank was made with, unless the store holds them already; of timm only name and hash."""
    encoder = store.encoder(choice.name)
    if encoder.complete:
        kept = encoder.config.get("weights_sha256", "") if choice.timm else ""
        if (kept or weights_hash(encoder.weights())) == sha256:
            return
        if not redo:
            raise GigaError(f"{store.url} holds another encoder {choice.name!r}", "give this bank another `name`")
    source = {"timm": choice.timm} if choice.timm else {}
    encoder.keep(Recipe("bank", {**source, "weights_sha256": sha256}, {}), choice.weights)
