"""Slide vectors of other tools: one per file, or all in one array as the authors publish theirs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gigacli.errors import InvalidInput, reason_of
from gigacli.importing.arrays import read_pair
from gigacli.importing.discover import plain_name
from gigacli.importing.request import ImportSummary
from gigacli.importing.slides import Said, merged, patient_of, refuse_new
from gigacli.importing.writing import Target, recipe_for, write_vectors
from gigacli.store.store import Recipe
from gigacli.store.table import SlideRow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.importing.discover import Discovery
    from gigacli.importing.found import Found
    from gigacli.importing.request import Request


def import_arrays(request: Request, arrays: list[Path]) -> ImportSummary:
    """The authors' layout: one embedding, and the slides it is of."""
    pair = read_pair(arrays)
    name = request.config.name or plain_name(pair.path.resolve().parent.name)
    vectors = {slide: pair.vectors[i] for i, slide in enumerate(pair.ids)}
    return _import(request, name, vectors, {}, encoder=name, tool="numpy", width=pair.vectors.shape[1])


def import_vectors(request: Request, chosen: list[Found], discovery: Discovery, name: str) -> ImportSummary:
    """One vector per file."""
    first = chosen[0]
    other = next((one for one in chosen if one.width != first.width), None)
    if other is not None:
        raise InvalidInput(
            f"the files do not belong together: {first.path} has {first.width} values, {other.path} has {other.width}",
            "import the vectors of one encoder at a time",
        )
    vectors: dict[str, NDArray[Any]] = {}
    failures = dict(discovery.broken)
    for one in chosen:
        try:
            with one.read() as content:
                vectors[one.id] = content.vectors(0, 1)[0]
        except Exception as error:  # a damaged file raises anything
            failures[one.id] = reason_of(error)
    if not vectors:
        raise InvalidInput(f"none of {len(failures)} files can be used; {next(iter(failures.values()))}")
    encoder = plain_name(first.encoder or name)
    return _import(request, name, vectors, failures, encoder=encoder, tool=first.tool, width=first.width)


def _import(
    request: Request,
    name: str,
    vectors: dict[str, NDArray[Any]],
    failures: dict[str, str],
    *,
    encoder: str,
    tool: str,
    width: int,
) -> ImportSummary:
    path, known, redo = f"embeddings/{name}", request.known, request.config.redo
    recipe = Recipe("import", {"aggregator": "import", "encoder": encoder, "tool": tool}, {})
    target = Target(known, path, recipe_for(known, path, recipe, redo=redo))
    target.check(redo=redo)
    slides = sorted({*vectors, *failures})
    if known is not None:
        refuse_new(known, slides)
    store = request.opened()
    said = request.said
    rows = [SlideRow(id=slide, path="", patient=patient_of(slide, said.get(slide, Said()))) for slide in slides]
    store.write_slides(merged(store.slides, rows))
    done, unfit = write_vectors(store, target, vectors, width=width, redo=redo)
    failures |= unfit
    index, earlier = store.slides.index, store.failures("import")
    changed = {index[slide]: failures.get(slide, "") for slide in slides}
    store.fail("import", {row: why for row, why in changed.items() if why != earlier[row]})
    return ImportSummary(
        name=name,
        kind="embeddings",
        tool=tool,
        slides=len(slides),
        done=done,
        skipped=len(slides) - done - len(failures),
        failed=len(failures),
        tiles=0,
        width=width,
        mpp=float("nan"),
        mpp_source="",
        seconds=time.monotonic() - request.started,
        failures=failures,
    )
