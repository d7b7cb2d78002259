"""Choice of a bank's tile encoder: of the store, a published one, of Hugging Face, a file, of timm, or a random one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from gigacli.config.bank import BankConfig
from gigacli.config.base import NAME_PATTERN
from gigacli.config.published import PUBLISHED
from gigacli.errors import GigaError, InvalidInput, NotFound
from gigacli.nn.device import pick_precision
from gigacli.nn.frozen import FrozenTileEncoder, can_compile
from gigacli.nn.published_encoder import published_encoder
from gigacli.nn.tile_encoder import random_resnet18, weights_hash, weights_to_bytes
from gigacli.nn.tile_features import TileEncoder
from gigacli.nn.timm_encoder import TIMM, TimmEncoder
from gigacli.nn.vision_encoder import VisionEncoder
from gigacli.store.groups import Encoder
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.weights.hub import HUB, HubAddress, download
from gigacli.weights.resnet18 import read_resnet18, resnet18_from_bytes

RANDOM = "random-resnet18"

OF_TIMM = ("hf-hub:", "hf_hub:", "local-dir:")
"""What names that only timm knows begin with."""

COMPILE_FROM = {"cpu": 50_000, "cuda": 10_000_000}
"""Encodings from which compiling the encoder, half a minute, is sooner paid back than felt."""


@dataclass(frozen=True)
class EncoderChoice:
    """A tile encoder that has been found, and can be made."""

    name: str  # its name in the store
    weights: bytes = b""  # a ResNet18 as a safetensors file; empty for others, whose weights are not ours to keep
    timm: str = ""  # name of a model of timm; empty for others
    published: str = ""  # name of a published encoder; empty for others
    note: str = ""  # report on the weights file, for messages; "" where there is none


def choose_encoder(store: Store, config: BankConfig) -> EncoderChoice:
    """Find the encoder asked for; without a name the only one of the store.

    Raises:
        NotFound: There is none of that name, or none at all; or it cannot be fetched.
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
            made = encoder.finished.config
            if made.get("timm") or made.get("published"):
                return EncoderChoice(encoder.name, timm=made.get("timm", ""), published=made.get("published", ""))
            return EncoderChoice(encoder.name, encoder.weights())
    if wanted in (None, RANDOM):
        return EncoderChoice(RANDOM, weights_to_bytes(random_resnet18(config.seed)))
    if wanted in PUBLISHED:
        return EncoderChoice(config.name or wanted, published=wanted)
    if wanted.startswith((TIMM, *OF_TIMM)):
        model = wanted.removeprefix(TIMM)
        return EncoderChoice(config.name or store_name(model), timm=model)
    if wanted.startswith(HUB):
        address = HubAddress.of(wanted)
        name = config.name or address.name_in_store()
        network, report = read_resnet18(download(address, "encoder"), trunk=True)
        return EncoderChoice(name, weights_to_bytes(network), note=f"{wanted}: {report}")
    return _from_file(Path(wanted), list(dict.fromkeys([*there, RANDOM, *PUBLISHED, f"{TIMM}NAME"])), config.name)


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
    if config.weights is not None and not choice.published:
        raise InvalidInput(f"`weights` are those of a published encoder; {choice.name!r} is none", "see: giga encoders")
    if choice.published:
        encoder: TileEncoder = published_encoder(
            choice.published, device=device, precision=precision, weights=config.weights
        )
        return encoder, config.but(precision=precision, compile="no")
    if choice.timm:
        encoder = TimmEncoder(choice.timm, device=device, precision=precision)
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
    return encoder.weights_sha256 if isinstance(encoder, VisionEncoder) else weights_hash(choice.weights)


def keep_encoder(store: Store, choice: EncoderChoice, sha256: str, *, redo: bool) -> None:
    """Keep the weights a bank was made with, unless the store holds them; of those kept elsewhere name and hash."""
    encoder = store.encoder(choice.name)
    if encoder.complete:
        kept = encoder.config.get("weights_sha256", "") if not choice.weights else ""
        if (kept or weights_hash(encoder.weights())) == sha256:
            return
        if not redo:
            raise GigaError(f"{store.url} holds another encoder {choice.name!r}", "give this bank another `name`")
    elsewhere = {"timm": choice.timm, "published": choice.published}
    source = {key: value for key, value in elsewhere.items() if value}
    encoder.keep(Recipe("bank", {**source, "weights_sha256": sha256}, {}), choice.weights)
