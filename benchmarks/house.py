"""The house in figures, of any checkout: ``python benchmarks/house.py [FOLDER]``; ``--where`` lists what is counted.

Sizes, rooms and layers of imports, how often code outside ``gigacli/store`` knows what a store looks like inside, and
how much of the public interface is annotated and documented.
"""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = "slides|tiles|encoders|features|banks|models|embeddings|failures"
PATHS, VECTORS, CALLS, ROOT = (
    "strings that spell a group's path",
    "strings with /vectors",
    "calls of .array(",
    "store.root",
)
NAMES = ("NOT_DONE", "read_column")
LONG = 50
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file of the package."""

    path: Path
    name: str
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    def functions(self) -> list[Function]:
        """Every function and method, inner ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def literals(self) -> Iterator[tuple[int, str]]:
        """Line and text of every string that is code, ``{}`` for what an f-string puts in."""
        skipped: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(id(node.value))  # a docstring, or one of an attribute
            elif isinstance(node, ast.JoinedStr) and id(node) not in skipped:
                skipped.update(map(id, ast.walk(node)))
                parts = (str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
                yield node.lineno, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield node.lineno, node.value


def read(folder: Path) -> list[Module]:
    """The modules of the package of a checkout."""
    package = folder / "gigacli"
    return [Module(p, p.relative_to(package).as_posix()) for p in sorted(package.rglob("*.py"))]


def spellings(module: Module) -> Iterator[tuple[str, int]]:
    """Kind and line of everything that only the store should know."""
    for line, text in module.literals():
        if re.fullmatch(rf"/?({GROUPS})/\S*", text):
            yield PATHS, line
        if "/vectors" in text:
            yield VECTORS, line
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "array":
            yield CALLS, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr == "root" and ast.unparse(node.value).endswith("store"):
            yield ROOT, node.lineno
        elif isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in NAMES:
                yield name, node.lineno


def annotated(function: Function) -> bool:
    """Whether the result and every parameter but ``self`` have a type."""
    a = function.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return function.returns is not None and all(p.annotation or p.arg in ("self", "cls") for p in given)


def layers(folder: Path) -> list[list[str]]:
    """Modules of each layer that imports may not climb."""
    tool = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contract = next(c for c in tool["importlinter"]["contracts"] if c["type"] == "layers")
    return [re.split(r"\s*[|:]\s*", layer) for layer in contract["layers"]]


def figures(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and value of every row of the table."""
    package, modules = folder / "gigacli", read(folder)
    lengths = {m.name: len(m.text.splitlines()) for m in modules}
    stacked, longest = layers(folder), max(lengths, key=lambda name: lengths[name])
    every = [function for module in modules for function in module.functions()]
    public = [function for function in every if not function.name.startswith("_")]
    yield "lines", f"{sum(lengths.values()):,}"
    yield "files", str(len(modules))
    yield "modules beside packages", str(len(list(package.glob("*.py"))))
    yield "layers of imports", f"{len(stacked)}, {sum(len(layer) == 1 for layer in stacked)} of one module"
    yield "longest file", f"{lengths[longest]} lines, {longest}"
    yield "functions", f"{len(every):,}, {sum(f.end_lineno - f.lineno >= LONG for f in every)} above {LONG} lines"
    yield "functions without underscore", f"{len(public):,}"
    yield "  annotated", f"{sum(map(annotated, public)) / len(public):.0%}"
    yield "  documented", f"{sum(ast.get_docstring(f) is not None for f in public) / len(public):.0%}"
    yield "lines outside gigacli/store:", ""
    for kind, places in outside_store(modules).items():
        yield f"  {kind}", str(len(places))


def outside_store(modules: list[Module]) -> dict[str, list[str]]:
    """Places of every kind of spelling, as ``file:line``; no line twice for one kind."""
    found: dict[str, dict[str, None]] = {kind: {} for kind in (PATHS, VECTORS, CALLS, *NAMES, ROOT)}
    for module in modules:
        if not module.name.startswith("store/"):
            for kind, line in spellings(module):
                found[kind][f"{module.name}:{line}"] = None
    return {kind: list(places) for kind, places in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--where", action="store_true", help="list the places that spell what only the store knows")
    given = parser.parse_args()
    for name, value in figures(given.folder):
        print(f"{name:<40}{value}".rstrip())
    if given.where:
        for kind, places in outside_store(read(given.folder)).items():
            print("", f"{kind}:", *places, sep="\n  ")


if __name__ == "__main__":
    main()
