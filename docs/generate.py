"""Writes commands.md, api.md and the pages below commands/ and api/ from what the program says: flags and docstrings.

python docs/generate.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
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
FOLDERS = ("commands", "api")
CLASSES = ("Store", "GigaError")
EXIT_CODES = """Exit codes:

| | |
|---|---|
| 0 | done |
| 1 | finished, but something in it failed |
| 2 | bad usage or bad input, nothing was changed |
| 130 | interrupted, what was finished is kept |

`giga COMMAND --help` says the same as these pages. `giga --install-completion` completes commands and flags in your
shell."""
STORE = """A store is opened with [giga.open](open.md). It speaks in groups: `store.tiles`, `store.features(NAME)`,
`store.bank(NAME)`, `store.model(NAME)`, `store.embedding(NAME)`."""
SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")


def commands() -> dict[str, str]:
    """The reference of the command line: a page that lists the commands, and a page for each."""
    group: Any = typer.main.get_command(app)
    found = {}
    rows = []
    for name, command in group.commands.items():
        text, _, example = inspect.cleandoc(command.help).partition("Example: ")
        options = "\n".join(["| | default | |", "|---|---|---|", *(_row(option, command) for option in command.params)])
        found[f"commands/{name}.md"] = _page(f"# giga {name}", text.strip(), f"```\n{example}\n```", options)
        rows.append(f"| [giga {name}](commands/{name}.md) | {text.strip().splitlines()[0]} |")
    table = "\n".join(["| | |", "|---|---|", *rows])
    return {"commands.md": _page("# Commands", table, EXIT_CODES), **found}


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([title, NOTE, *(part for part in parts if part)]) + "\n"


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


def api() -> dict[str, str]:
    """The reference of the Python package: everything that ``gigacli`` exports, a page for each but the classes."""
    names = [name for name in gigacli.__all__ if not name.startswith("__")]
    functions = {name: getattr(gigacli, name) for name in names if not inspect.isclass(getattr(gigacli, name))}
    found = {f"api/{name}.md": _function(name, thing) for name, thing in functions.items()}
    rows = [f"| [giga.{name}](api/{name}.md) | {_first_line(thing)} |" for name, thing in functions.items()]
    rows += [
        f"| [giga.{name}](api/store.md#{name.lower()}) | {_first_line(getattr(gigacli, name))} |" for name in CLASSES
    ]
    table = "\n".join(["| | |", "|---|---|", *rows])
    parts = []
    for kind in (gigacli.Store, SlideGroup, Tiles, *NAMED, gigacli.GigaError):
        parts += [f"## {kind.__name__}", _docstring(kind), *_methods(kind, kind.__name__)]
    return {
        "api.md": _page("# Python", inspect.cleandoc(_code_blocks(gigacli.__doc__ or "")), table),
        "api/store.md": _page("# The store and its groups", STORE, *parts),
        **found,
    }


def _function(name: str, thing: Any) -> str:
    parts = [f"```python\ngiga.{name}{_signature(thing)}\n```", _docstring(thing)]
    for result in re.findall(r"\w+", str(inspect.signature(thing).return_annotation)):
        if dataclasses.is_dataclass(found := getattr(inspect.getmodule(thing), result, None)):
            parts += [f"## {result}", _docstring(found), *map(_docstring, found.__mro__[1:-1])]
    return _page(f"# giga.{name}", *parts)


def _first_line(thing: Any) -> str:
    return _docstring(thing).splitlines()[0]


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


def pages() -> dict[str, str]:
    """Every page that is made here, by its path below ``docs/``."""
    return {**commands(), **api()}


if __name__ == "__main__":
    for folder in FOLDERS:
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for page, text in pages().items():
        (HERE / page).write_text(text, encoding="utf-8")
