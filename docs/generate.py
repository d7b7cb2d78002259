"""Writes commands.md and api.md from what the program says of itself: its flags and its docstrings.

python docs/generate.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import typer

import gigacli
from gigacli.cli.verbs import app
from gigacli.store.groups import NAMED, SlideGroup, Tiles

HERE = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py (make docs): change the program, not this page. -->"
LINE = 100
"""Columns of a signature; a longer one has a line per parameter."""
SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")


def commands() -> str:
    """The reference of the command line."""
    group: Any = typer.main.get_command(app)
    parts = ["# Commands", NOTE, ", ".join(f"[{name}](#giga-{name})" for name in group.commands)]
    parts.append(
        "Exit codes are 0: done · 1: finished, but something in it failed · 2: bad usage or bad input, nothing was "
        "changed · 130: interrupted, what was finished is kept."
    )
    for name, command in group.commands.items():
        parts.append(f"## giga {name}")
        text, _, example = inspect.cleandoc(command.help).partition("Example: ")
        parts += [text.strip(), f"```\n{example}\n```"]
        rows = [_row(parameter, command) for parameter in command.params]
        parts.append("\n".join(["| | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(parameter: Any, command: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
    else:
        name = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"| `{name}` | {_default(parameter)} | {(parameter.help or '').replace('|', '&#124;')} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required" if parameter.param_type_name == "option" else ""
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def api() -> str:
    """The reference of the Python package: everything that ``gigacli`` exports."""
    parts = ["# Python", NOTE, inspect.cleandoc(_code_blocks(gigacli.__doc__ or ""))]
    for name in gigacli.__all__:
        thing = getattr(gigacli, name)
        if name.startswith("__"):
            continue
        parts.append(f"## giga.{name}")
        if inspect.isclass(thing):
            parts += [_docstring(thing), *_methods(thing, name)]
            for kind in (SlideGroup, Tiles, *NAMED) if name == "Store" else ():
                parts += [f"## {kind.__name__}", _docstring(kind), *_methods(kind, kind.__name__)]
            continue
        parts += [f"```python\ngiga.{name}{_signature(thing)}\n```", _docstring(thing)]
        for result in re.findall(r"\w+", str(inspect.signature(thing).return_annotation)):
            if dataclasses.is_dataclass(found := getattr(inspect.getmodule(thing), result, None)):
                parts += [f"### {result}", _docstring(found), *map(_docstring, found.__mro__[1:-1])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _methods(thing: type, name: str) -> list[str]:
    parts = []
    for method, value in vars(thing).items():
        target = getattr(value, "__func__", value)
        if method.startswith("_") or not (inspect.isfunction(target) or isinstance(value, property)):
            continue
        call = "" if isinstance(value, property) else _signature(target)
        parts += [f"### {name}.{method}", f"```python\n{method}{call}\n```", _docstring(value)]
    return parts


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    text = str(signature.replace(parameters=kept))
    if len(text) > LINE:
        inner, _, result = text.removeprefix("(").rpartition(") -> ")
        text = "(\n    " + ",\n    ".join(re.split(r", (?=\*|\w+: )", inner)) + f",\n) -> {result}"
    return re.sub(r"((?:: |-> ))'([^'\"]*)'", r"\1\2", text)  # annotations are text, defaults may be


def _docstring(thing: Any) -> str:
    """A docstring in Google's style as Markdown: its sections become lists."""
    text = inspect.getdoc(thing) or ""
    lines: list[str] = []
    inside = False
    for line in _code_blocks(text).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            lines += ["", f"**{line.rstrip(':')}**", ""]
            inside = True
        elif inside and (found := re.match(r"    (\*{0,2}\w+): (.*)", line)):
            lines.append(f"- `{found[1]}`: {found[2]}")
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line
            lines.append(line)
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return re.sub(
        r":(?:class|func|meth|attr|mod):`~?([^`]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", joined
    ).replace("``", "`")


def _code_blocks(text: str) -> str:
    """An indented block after ``::`` as a fenced one."""
    return re.sub(
        r"::\n\n((?:    .*\n?|\n)+)",
        lambda m: ":\n\n```fence\n" + inspect.cleandoc(m[1]).strip() + "\n```fence\n",
        text,
    ).replace("```fence", "\N{GRAVE ACCENT}" * 3)


PAGES = {"commands.md": commands, "api.md": api}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
