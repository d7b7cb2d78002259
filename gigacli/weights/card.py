"""Card of a weights file of ``giga export``: what another cohort must know to use it.

It is a safetensors file. Its metadata has one entry, ``giga``: the card below as a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from gigacli.errors import Mismatch

KEY = "giga"
CARD_VERSION = "0.1"


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """The card of a model or an encoder."""

    kind: str  # ``model`` or ``encoder``
    name: str  # its name in the store it came from
    created_by: str  # the program that wrote the file
    variant: str  # rule by which a model's views become cells and maps; ``giga``. Empty for an encoder
    encoder: str  # name, in that store, of the encoder of the tile features
    encoder_sha256: str  # SHA-256 of its weights; empty where the features came from elsewhere and it is not known
    timm: str  # its name in timm; empty for a ResNet18
    # resolution of its tiles, microns per pixel; None where the encoder was not trained on tiles of the store
    mpp: float | None
    tile_px: int | None  # edge of its tiles, pixels at that resolution; None in the same case
    features: int  # values per tile
    width: int  # values per slide; 0 for an encoder
    slides: int  # slides it was trained on; 0 where it was not trained in the store
    # recipes of everything it was made from and of itself, by ``tiles``, ``encoder``, ``bank`` (or ``features``,
    # where these stood in for one), ``model``
    recipes: dict[str, dict[str, Any]]
    version: str = CARD_VERSION  # version of the card's format

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the safetensors file."""
        return {KEY: json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, *, origin: str) -> Self:
        """The card in the metadata of a safetensors file.

        Raises:
            Mismatch: There is none, or of a version this giga does not read.
        """
        hint = "use a file of: giga export STORE models/NAME --to model.safetensors"
        text = (metadata or {}).get(KEY)
        try:
            card = json.loads(text) if text is not None else None
        except ValueError:
            card = None
        if not isinstance(card, dict):
            raise Mismatch(f"{origin} does not say what it was made from: its metadata has no card {KEY!r}", hint)
        if card.get("version") != CARD_VERSION:
            raise Mismatch(
                f"{origin} has a card of version {card.get('version')}; this giga reads {CARD_VERSION}",
                "install the giga that wrote it",
            )
        if lacking := sorted({f.name for f in fields(cls)} - card.keys()):
            raise Mismatch(f"{origin}: its card lacks {', '.join(lacking)}", hint)
        return cls(**{f.name: card[f.name] for f in fields(cls)})

    @property
    def elsewhere(self) -> str:
        """What `giga bank --encoder` calls a tile encoder whose weights others publish; "" for another."""
        return elsewhere_as({"timm": self.timm, **self.recipes.get("encoder", {}).get("config", {})})

    @property
    def tiles(self) -> str:
        """Description of the tiles for messages."""
        return "tiles it does not name" if self.mpp is None else f"tiles of {self.tile_px} px at {self.mpp:g} µm per px"

    @property
    def tile_encoder(self) -> str:
        """Description of the tile encoder for messages."""
        return encoder_text(self.encoder, self.encoder_sha256)


def elsewhere_as(config: Mapping[str, Any]) -> str:
    """The same by the recipe of an encoder in a store."""
    return str(config.get("published", "")) or (f"timm:{config['timm']}" if config.get("timm") else "")


def encoder_text(name: str, sha256: str) -> str:
    """Description of a tile encoder for messages: its name and the beginning of its weights' hash."""
    return f"{name!r} (weights {sha256[:12]})" if sha256 else f"{name!r} (weights not known)"
