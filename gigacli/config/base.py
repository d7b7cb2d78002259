"""What the configurations of all stages share: fields with help, validation, and the recipe of a result."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from gigacli.errors import InvalidInput

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def option(default: Any, help_text: str, *, result: bool = True, flag: str = "") -> Any:
    """A configuration field.

    Args:
        default: Its default value.
        help_text: One sentence, shown by ``--help``.
        result: Whether the value changes what is computed; if so it belongs to the recipe.
        flag: The command-line flag where it is not ``--field-name``.
    """
    return field(default=default, metadata={"help": help_text, "result": result, "flag": flag})


def fingerprint(value: Any) -> str:
    """A short stable hash (32 hex digits of SHA-256) of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all configurations share."""

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; an unknown name is an error that lists the known ones."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InvalidInput(f"unknown option {', '.join(unknown)}", f"options are: {', '.join(known)}")
        return cls(**options)

    def following(self, options: dict[str, Any], earlier: dict[str, Any] | None) -> Self:
        """This configuration, with what the user left out as an earlier run had it.

        So ``giga tile STORE --shard 2/8`` need not repeat what ``giga tile STORE SLIDES --plan`` was told.

        Args:
            options: What the user gave.
            earlier: The configuration in the recipe of the group that is there, if any.
        """
        if earlier is None or options.get("redo"):
            return self
        given = {"mpp"} | set(options) if options.get("mag") is not None else set(options)
        known = {f.name for f in fields(self) if f.metadata["result"]}
        return replace(self, **{k: v for k, v in earlier.items() if k in known - given})

    def recipe(self) -> dict[str, Any]:
        """The values that decide the result, ready for JSON; ``mpp=1`` from Python is the ``--mpp 1.0`` of a shell."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["result"]}
        floats = {f.name for f in fields(self) if isinstance(f.default, float)}
        return {name: float(value) if name in floats else _plain(value) for name, value in values.items()}

    def _path(self, name: str) -> None:
        if getattr(self, name) is not None:
            object.__setattr__(self, name, Path(getattr(self, name)))

    def _repeatable(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidInput(f"{_flag(name)} is {value}; it must be a number greater than 0")

    def _between(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise InvalidInput(f"{_flag(name)} is {value}; it must lie between {low:g} and {high:g}")

    def _choice(self, name: str, *choices: str) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise InvalidInput(f"{_flag(name)} is {value!r}; it must be one of {', '.join(choices)}")

    def _name(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not NAME_PATTERN.fullmatch(value):
                raise InvalidInput(
                    f"{_flag(name)} is {value!r}; a name in the store starts with a letter or digit and holds only "
                    "letters, digits, '.', '_' and '-'"
                )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def one_resolution(options: dict[str, Any]) -> None:
    """Refuse ``--mpp`` and ``--mag`` that contradict each other."""
    mpp, mag = options.get("mpp"), options.get("mag")
    if mpp and mag and not math.isclose(mpp, 10 / mag):
        raise InvalidInput(f"--mag {mag:g} means --mpp {10 / mag:g}, but --mpp is {mpp:g}", "give one of them")


def parse_shard(text: str | None) -> tuple[int, int]:
    """``"2/8"`` -> ``(1, 8)``: the zero-based shard and the number of shards; ``None`` is the only shard."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidInput(f"--shard is {text!r}; it must be I/N with 1 <= I <= N, for example 2/8")
    return int(match[1]) - 1, int(match[2])
