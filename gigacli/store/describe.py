"""Flat description of a store, and its check against the schema: levels 1 and 2 of validation.

Metadata documents are read as they lie in the store, not through zarr's objects: a store with one damaged
document must still be described.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from gigacli.errors import Mismatch
from gigacli.store.bounds import MOST_DOCUMENT_BYTES, excess
from gigacli.store.documents import chunk_shape, codec_names, shard_shape, sharding
from gigacli.store.layout import ARRAYS, FORMAT_VERSION, NAMED_GROUPS, spec_of
from gigacli.store.nodes import children, document, lost
from gigacli.store.store import Store

Description = dict[str, dict[str, Any]]

MOST_SHOWN = 500
"""Characters of a value that a problem repeats."""


@dataclass(frozen=True, order=True)
class Problem:
    """A departure from the specification."""

    rule: str  # id of the rule in ``spec/store-0.2.md``
    path: str  # node of the store, "" for its root
    message: str  # what was found and what was expected


def describe(store: Store) -> Description:
    """Every node of a store by its path ("" is the root): the flat description that the schema is about.

    Values are those of the metadata documents (``zarr.json``), so that a program in any language can make the same.
    A node whose document cannot be read has ``node`` "unreadable" and the reason under ``error``.
    """
    found: Description = {}
    waiting = [""]
    while waiting:
        path = waiting.pop(0)
        found[path] = _described(store.root, path)
        if found[path]["node"] == "group" and _pattern(path):  # what the format does not know may lead in a circle
            waiting += children(store.root, path)
            for gone in (child for child in lost(store.root, path) if _pattern(child)):
                found[gone] = {"node": "unreadable", "error": "its zarr.json is missing"}
    return found


def check_opening(store: Store) -> list[Problem]:
    """Find nodes whose documents zarr refuses for what no flat description tells, such as its names of chunks."""
    problems = []
    for path in describe(store):
        try:
            if path:
                store.root[path]
        except Exception as error:  # of any kind: the document may say anything
            problems.append(Problem("ROOT-3", path, f"zarr cannot open it: {type(error).__name__}: {error}"))
    return problems


def _described(root: Any, path: str) -> dict[str, Any]:
    try:
        text = document(root, path) or b""
        raw = json.loads(text) if len(text) <= MOST_DOCUMENT_BYTES else None
    except Mismatch as error:
        return {"node": "unreadable", "error": error.message}
    except (ValueError, RecursionError) as error:
        return {"node": "unreadable", "error": f"zarr.json is not JSON: {error}"}
    if why := excess(path, raw):
        return {"node": "unreadable", "error": f"zarr.json is beyond the format's bounds: {why}"}
    return _flat(raw)


def _flat(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("zarr_format") != 3 or raw.get("node_type") not in ("group", "array"):
        return {"node": "unreadable", "error": "zarr.json is not a zarr v3 metadata document"}
    attributes = raw.get("attributes", {})
    if raw["node_type"] == "group":
        return {"node": "group", "attributes": attributes}
    found = {
        "node": "array",
        "attributes": attributes,
        "dims": raw.get("dimension_names", [] if raw.get("shape") == [] else None),
        "dtype": raw.get("data_type"),
        "fill": raw.get("fill_value"),
        "shape": raw.get("shape"),
        "chunks": chunk_shape(raw),
        "codecs": codec_names(raw) if isinstance(raw.get("codecs"), list) else None,
    }
    return found if sharding(raw) is None else {**found, "shards": shard_shape(raw)}


@cache
def load_schema() -> dict[str, Any]:
    """The JSON Schema of the flat description: from the source tree, or from the wheel."""
    here = Path(__file__)
    source = here.parents[2] / "spec" / f"store-{FORMAT_VERSION}.schema.json"
    file = source if source.exists() else here.with_name("schema.json")
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def check_hierarchy(description: Description) -> list[Problem]:
    """Levels 1 and 2: attributes, and the nodes one by one."""
    damaged = {path for path, node in description.items() if node.get("node") == "unreadable"}
    problems = [Problem("ROOT-3", path, str(description[path].get("error", "cannot be read"))) for path in damaged]
    readable = {path: node for path, node in description.items() if path not in damaged}
    for error in jsonschema.Draft202012Validator(load_schema()).iter_errors(readable):
        problems += _of_schema(error, readable)
    return sorted({*problems, *_missing(description)})


def _of_schema(error: Any, description: Description) -> Iterator[Problem]:
    where, schema = list(error.absolute_path), load_schema()
    if not where and error.validator == "additionalProperties":
        for path in (p for p in description if _pattern(p) is None):
            yield Problem(schema["rule"], path, "the format knows no node of this name")
        return
    if not where:
        yield Problem(schema["rule"], "", error.message)
        return
    path, key = str(where[0]), ".".join(str(part) for part in where[1:])
    text = error.message if len(error.message) <= MOST_SHOWN else f"{error.message[:MOST_SHOWN]}..."
    if error.validator in ("const", "enum"):
        text = f"found {json.dumps(error.instance)[:MOST_SHOWN]}, expected {json.dumps(error.validator_value)}"
    part = schema["patternProperties"][_pattern(path)]
    rule = part["properties"].get(where[1], {}).get("rule") if len(where) > 1 and "properties" in part else None
    yield Problem(rule or part["rule"], path, f"{key}: {text}" if key else text)


def _pattern(path: str) -> str | None:
    """The pattern of the schema that a path matches; there is at most one."""
    return next((pattern for pattern in load_schema()["patternProperties"] if re.search(pattern, path)), None)


def _missing(description: Description) -> Iterator[Problem]:
    """Arrays that must be there because their group is."""
    named = [path for path in description if path.count("/") == 1 and path.split("/")[0] in NAMED_GROUPS]
    for group in (path for path in ("slides", "tiles", *named) if written(description, path)):
        kind = group.split("/")[0]
        for spec in (s for s in ARRAYS if s.required and s.path.split("/")[0] == kind):
            path = f"{group}/{spec.path.rsplit('/', 1)[1]}"
            if path not in description and spec_of(path) is spec:
                yield Problem(f"{kind.upper()}-1", path, "the array is missing")


def written(description: Description, path: str) -> bool:
    """Whether the group at `path` counts as there: it has a recipe or, for the slide table, registered slides."""
    giga = attributes_of(description, path)
    return registered(description) > 0 if path == "slides" else isinstance(giga.get("recipe"), dict)


def registered(description: Description) -> int:
    """Number of registered slides, 0 where the store does not say."""
    number = attributes_of(description, "slides").get("registered", 0)
    return number if isinstance(number, int) and number > 0 else 0


def attributes_of(description: Description, path: str) -> dict[str, Any]:
    """The attribute ``giga`` of a node, empty where there is none."""
    attributes = description.get(path, {}).get("attributes")
    giga = attributes.get("giga") if isinstance(attributes, dict) else None
    return giga if isinstance(giga, dict) else {}
