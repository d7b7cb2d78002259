"""Base of all configurations: fields with help, checks by type, and the recipe of a result.

:func:`options_of` makes a public function of one that takes a configuration: its options become keyword arguments.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Self, TypeVar, cast, get_args, get_origin

from gigacli.errors import InvalidInput
from gigacli.progress import audible

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
DOC_WIDTH = (
    108  # columns of a generated docstring, without the indent that Python keeps in some versions and not in others
)


Limits = tuple[float, float]
"""The least and the largest number that an option takes, both included."""

SEEDS: Limits = (0, 2**32 - 1)
"""What every library takes for a seed."""

WORKERS: Limits = (1, 1024)
SHARES: Limits = (1e-6, 1)


def option(default: Any, help_text: str, limits: Limits | None = None, *, result: bool = True, flag: str = "") -> Any:
    """Make a field of a configuration.

    Args:
        default: Its default value.
        help_text: One sentence, shown by ``--help`` and in the docstring; another option is written `` `name` ``.
        limits: Of every option that is a number.
        result: Whether the value changes what is computed; if so it belongs to the recipe.
        flag: The command-line flag where it is not ``--field-name``.
    """
    return field(default=default, metadata={"help": help_text, "limits": limits, "result": result, "flag": flag})


def fingerprint(value: Any) -> str:
    """Hash a value that JSON can hold: 32 hex digits of SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of a command.

    Values are converted and checked by the annotations: text becomes a ``Path``, one value of a repeatable option a
    tuple, and a value that is none of a ``Literal``, no number or outside of its limits is refused.

    Attributes:
        given: Names of the options that were given, which need not differ from their defaults.
    """

    given: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments, and remember which were given.

        Raises:
            InvalidInput: A name is unknown, and the hint lists the known ones; or a value cannot be.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InvalidInput(f"unknown option {', '.join(unknown)}", f"options are: {', '.join(known)}")
        return cls(**options)._with_given(frozenset(options))

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None or f.default is not None:
                object.__setattr__(self, f.name, _converted(f.name, kinds[f.name], value, f.metadata["limits"]))
        self._check()

    def _check(self) -> None:
        """Refuse what the annotations allow and makes no sense; values that follow from others are set here."""

    def following(self, earlier: dict[str, Any] | None) -> Self:
        """Return this configuration with what the user left out as an earlier run had it, by its recipe.

        So ``giga tile STORE --shard 2/8`` need not repeat what ``giga tile STORE SLIDES --plan`` was told.
        """
        if earlier is None:
            return self
        known = {f.name for f in fields(self) if f.metadata["result"]}
        return self.but(**{k: v for k, v in earlier.items() if k in known - self.given})

    def but(self, **values: Any) -> Self:
        """Return this configuration with other values; what was given stays remembered."""
        return replace(self, **values)._with_given(self.given)

    def _with_given(self, given: frozenset[str]) -> Self:
        object.__setattr__(self, "given", given)
        return self

    def recipe(self) -> dict[str, Any]:
        """Return the values that decide the result, ready for JSON; whole numbers of a float option become floats."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["result"]}
        floats = {f.name for f in fields(self) if isinstance(f.default, float)}
        return {name: float(value) if name in floats else _plain(value) for name, value in values.items()}

    def _shards(self, shard: str | None, dask: str | None) -> None:
        parse_shard(shard)
        if dask is not None and shard is not None:
            raise InvalidInput("`dask` makes shards of its own", "leave out `shard`")

    def _name(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not NAME_PATTERN.fullmatch(value):
                raise InvalidInput(
                    f"`{name}` is {value!r}; a name in the store starts with a letter or digit and holds only "
                    "letters, digits, '.', '_' and '-'"
                )


def kinds_of(cls: type[Config]) -> dict[str, Any]:
    """Return the type of every option, without ``None``: ``Path``, ``tuple[float, ...]``, a ``Literal``."""
    hints = typing.get_type_hints(cls)
    unions = {name for name, hint in hints.items() if get_origin(hint) in (typing.Union, types.UnionType)}
    return {f.name: get_args(hints[f.name])[0] if f.name in unions else hints[f.name] for f in fields(cls)}


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the values that an option of this type may have, () where they cannot be listed."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return get_args(inner) if get_origin(inner) is Literal else ()


def help_of(cls: type[Config]) -> dict[str, str]:
    """Return the help of every option, its choices at the end."""
    choices = {name: ", ".join(choices_of(kind)) for name, kind in kinds_of(cls).items()}
    return {f.name: f.metadata["help"] + (choices[f.name] and f" Choices: {choices[f.name]}.") for f in fields(cls)}


def _converted(name: str, kind: Any, value: Any, limits: Limits | None) -> Any:
    if get_origin(kind) is tuple:
        values = (value,) if isinstance(value, str | Real | Path) else value
        return tuple(_converted(name, get_args(kind)[0], one, limits) for one in values)
    if (choices := choices_of(kind)) and value not in choices:
        raise InvalidInput(f"`{name}` is {value!r}; it must be one of {', '.join(choices)}")
    if kind in (int, float):
        return _number(name, kind, value, limits or (-math.inf, math.inf))
    return Path(value) if kind is Path else value


def _number(name: str, kind: type[int | float], value: Any, limits: Limits) -> int | float:
    """Return a number as Python's own: numpy's are no JSON."""
    numbers: Any = Integral if kind is int else Real
    if isinstance(value, bool) or not isinstance(value, numbers):
        raise InvalidInput(f"`{name}` is {value!r}; it must be a {'whole ' if kind is int else ''}number")
    low, high = limits
    if not low <= value <= high:  # also refuses NaN
        raise InvalidInput(f"`{name}` is {value}; it must lie between {low:.12g} and {high:.12g}")
    return int(value) if isinstance(value, Integral) else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def one_resolution(options: dict[str, Any]) -> dict[str, Any]:
    """Add the `mpp` that `mag` stands for to options.

    Raises:
        InvalidInput: Both are given, and contradict each other.
    """
    mpp, mag = options.get("mpp"), options.get("mag")
    if not isinstance(mag, int | float) or not isinstance(mpp, int | float | None):
        return options  # what is no number is refused as such
    if mpp and mag and not math.isclose(mpp, 10 / mag):
        raise InvalidInput(f"`mag` {mag:g} means `mpp` {10 / mag:g}, but `mpp` is {mpp:g}", "give one of them")
    return {**options, "mpp": 10 / mag} if mag else options


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return the zero-based shard and the number of shards: ``(1, 8)`` of ``"2/8"``, ``(0, 1)`` of None."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidInput(f"`shard` is {text!r}; it must be I/N with 1 <= I <= N, for example 2/8")
    return int(match[1]) - 1, int(match[2])


C = TypeVar("C", bound=Config)
P = ParamSpec("P")
R = TypeVar("R")


def options_of(cls: type[C]) -> Callable[[Callable[Concatenate[C, P], R]], Callable[P, R]]:
    """Decorate a function of a configuration as one that takes the configuration's options.

    The decorated function takes the configuration first, then its own arguments, then every option by name, with its
    type and default: for editors, type checkers and :func:`inspect.signature`. Its body reads the configuration, never
    those. Callers leave out the configuration, which is built of the options they give (:meth:`Config.of`); what they
    leave out may then follow an earlier run. Without `progress`, whoever listens hears of the call
    (:func:`gigacli.progress.listen`). The options are listed in the docstring, before `progress`.
    """

    def decorate(function: Callable[Concatenate[C, P], R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        configuration, *parameters = signature.parameters.values()
        own = {p.name for p in parameters} - {f.name for f in fields(cls)}
        work = audible(function) if "progress" in own else function

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            config = cls.of({k: v for k, v in kwargs.items() if k not in own})
            rest = {k: v for k, v in kwargs.items() if k in own}
            return cast(Any, work)(config, *args, **rest)

        call.__doc__ = _documented(inspect.cleandoc(function.__doc__ or ""), help_of(cls))
        call.__annotations__ = {k: v for k, v in function.__annotations__.items() if k != configuration.name}
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _documented(text: str, options: dict[str, str]) -> str:
    """A docstring in Google's style whose arguments hold the options too: before `progress`, else at the end."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() == "Args:"), None)
    if start is None:  # python -OO
        return text
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    at = next((i for i in range(start, end) if lines[i].strip().startswith("progress:")), end)
    indent = re.match(r" *", lines[start + 1])[0]  # type: ignore[index] # spaces may be none, which match
    each = [
        textwrap.wrap(f"{name}: {text}", DOC_WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ")
        for name, text in options.items()
    ]
    return "\n".join([*lines[:at], *(line for option in each for line in option), *lines[at:]])
