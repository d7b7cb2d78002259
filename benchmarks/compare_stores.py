"""Whether two local stores are the same, byte for byte: ``python benchmarks/compare_stores.py ONE OTHER``.

Chunk files must be equal in every byte. Metadata documents (``zarr.json``) must say the same apart from every key
``created_by``, which names the version of the software. What a killed process left (``.partial``) does not count.
Names each file that differs or is on one side only; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DOCUMENT, LEFT_BY_A_KILL = "zarr.json", ".partial"


def files(store: Path) -> dict[str, Path]:
    """Every file that counts, by its path in the store."""
    found = (p for p in sorted(store.rglob("*")) if p.is_file() and not p.name.endswith(LEFT_BY_A_KILL))
    return {p.relative_to(store).as_posix(): p for p in found}


def content(file: Path) -> bytes:
    """What must be equal of a file: its bytes, or of a document the canonical JSON without ``created_by``."""
    data = file.read_bytes()
    return json.dumps(_anonymous(json.loads(data)), sort_keys=True).encode() if file.name == DOCUMENT else data


def _anonymous(value: Any) -> Any:
    """A JSON value without the name of the software that wrote it."""
    if isinstance(value, dict):
        return {key: _anonymous(inner) for key, inner in value.items() if key != "created_by"}
    return [_anonymous(inner) for inner in value] if isinstance(value, list) else value


def differences(one: Path, other: Path) -> list[str]:
    """One line per file that differs or is on one side only."""
    left, right = files(one), files(other)
    lines = []
    for name in sorted(left.keys() | right.keys()):
        if name not in right or name not in left:
            lines.append(f"only in {one if name in left else other}: {name}")
        elif content(left[name]) != content(right[name]):
            lines.append(f"differs: {name}")
    return lines


def main() -> None:
    """Compare; exit with 1 if the stores differ, with 2 if there is no store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args()
    for store in (given.one, given.other):
        if not (store / DOCUMENT).is_file():
            parser.error(f"no store: {store}")
    found = differences(given.one, given.other)
    print("\n".join(found) or f"the same: {len(files(given.one))} files")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
