"""Card of a fitted head: what it predicts, of which vectors, what it was fitted on and how well it did there."""

from __future__ import annotations

import json
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from gigacli.config.probe import TaskKind
from gigacli.errors import Mismatch

KEY = "giga"
KIND = "head"
CARD_VERSION = "0.1"
HINT = "use a file of: giga probe STORE --labels CSV --save head.safetensors"

Link = Literal["logistic", "softmax", "identity", "levels"]
"""From scores to what is predicted. logistic: one score, the probability of the second of two classes; softmax: one
score per class, a probability each; identity: one score, which is the prediction (a risk, a value); levels: one score,
cut into the levels of an order."""

MOST = 1e300
"""Of a number in a card: neither NaN nor infinite, nor a whole number that no float holds."""

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class VectorKind:
    """What vectors of a slide are: two embeddings that agree in all of it can be read by one head."""

    aggregator: str  # what makes them: model, random-init, mean, another closed form, or import
    width: int  # values per vector
    model: str  # name of the slide encoder, "" where there is none
    # hash of what was learnt: of the weights of the slide encoder, or of the state of a closed form; "" where there
    # is none
    learnt: str
    start: int | None  # seed of the weights of random-init; None of all others
    blocks: dict[str, tuple[int, int]]  # columns of the blocks of a joined vector, in their order; empty for no join
    encoder: str  # name of the tile encoder, "" where it is not known
    encoder_sha256: str  # hash of its weights, "" where it is not known
    mpp: float | None  # resolution of the tiles, microns per pixel; None where it is not known
    tile_px: int | None  # edge of the tiles, pixels at that resolution; None where it is not known


@dataclass(frozen=True, kw_only=True)
class HeadScore:
    """How well a head did in the cross-validation of the slides it was then fitted on."""

    metric: str  # "AUC", ...
    mean: float  # over the splits
    low: float | None  # lower end of the 95 % interval of the mean; None where it is not known
    high: float | None  # upper end
    splits: int  # number of splits


@dataclass(frozen=True, kw_only=True)
class HeadCard:
    """The card of a head."""

    task: TaskKind
    target: str  # column of the labels
    # in the order of what is predicted, levels from low to high; empty for survival and regression
    classes: tuple[str, ...]
    link: Link
    method: str  # what was fitted, in words: "logistic regression"
    c: float | None  # inverse regularisation; None where there is none
    level: Literal["slide", "patient"]  # what a prediction is of; of a patient, the mean of the vectors of the slides
    unit_length: bool  # whether that mean is scaled to length 1
    embedding: str  # name of the embedding, in the store it was fitted in
    recipe: str  # fingerprint of the recipe of that embedding
    vectors: VectorKind
    slide_table: str  # fingerprint of the ids of all slides of that store
    slides: int  # slides it was fitted on
    patients: int | None  # their patients; None where these are not known
    sites: int | None  # their sites; None where these are not known
    score: HeadScore | None  # None where it was not judged
    created_by: str  # the program that wrote the file

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the safetensors file: one entry, :data:`KEY`, a JSON object without a date."""
        card = {"kind": KIND, "version": CARD_VERSION, **asdict(self)}
        return {KEY: json.dumps(card, sort_keys=True, ensure_ascii=False, allow_nan=False)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, *, origin: str) -> Self:
        """The card in the metadata of a safetensors file.

        Raises:
            Mismatch: There is none, it is that of something else or of a version this giga does not read, or a member
                is missing or not what it must be.
        """
        text = (metadata or {}).get(KEY)
        try:
            card = json.loads(text) if text is not None else None
        except (ValueError, RecursionError):
            card = None
        if not isinstance(card, dict):
            raise Mismatch(f"{origin} is not a head: its metadata has no card {KEY!r}", HINT)
        if card.get("kind") != KIND:
            raise Mismatch(f"{origin} is the file of {_article(card.get('kind'))}, not of a head", HINT)
        if card.get("version") != CARD_VERSION:
            raise Mismatch(
                f"{origin} has a card of version {str(card.get('version'))[:20]}; this giga reads {CARD_VERSION}",
                "install the giga that wrote it",
            )
        try:
            return _read(cls, card, "card")
        except _Wrong as wrong:
            raise Mismatch(f"{origin}: its card is damaged: {wrong}", HINT) from None


class _Wrong(Exception):  # noqa: N818 - it says what is
    """A member of a card is missing or not what it must be."""


def _article(kind: object) -> str:
    return {"model": "a slide encoder", "encoder": "a tile encoder"}.get(str(kind), "something else")


def _read(cls: type[C], value: Any, where: str) -> C:
    """A dataclass from what JSON holds of it; members that it does not know are left out."""
    if not isinstance(value, dict):
        raise _Wrong(f"{where} is no object")
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type] # a dataclass
    if lacking := sorted(set(names) - value.keys()):
        raise _Wrong(f"{where} lacks {', '.join(lacking)}")
    return cls(**{name: _converted(hints[name], value[name], f"{where}.{name}") for name in names})


def _converted(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _converted(arguments[0], value, where)
    if origin is Literal:
        fits = value in arguments
    elif origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[1] is ... else arguments
        if len(kinds) != len(value):
            raise _Wrong(f"{where} has {len(value)} values, not {len(kinds)}")
        return tuple(_converted(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif origin is dict and isinstance(value, dict):
        return {name: _converted(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    elif isinstance(kind, type) and is_dataclass(kind):
        return _read(kind, value, where)
    elif kind is float:
        fits = type(value) in (int, float) and abs(value) <= MOST
    else:
        fits = type(value) is kind
    if not fits:
        raise _Wrong(f"{where} is {str(value)[:40]!r}")
    return float(value) if kind is float else value
