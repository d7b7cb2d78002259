"""Whether two local stores are the same, byte for byte: ``python benchmarks/compare_stores.py ONE OTHER``.

Chunk files must be equal in every byte, metadata documents (``zarr.json``) apart from every key ``created_by``, which
names the version of the software. What a kill left (``.partial``) does not count, nor what a clock measured: the values
of ``history/per_second`` and ``history/waiting``, in a checkpoint too. Each file that differs or is on one side only is
named; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DOCUMENT, LEFT_BY_A_KILL = "zarr.json", ".partial"
TIMED = ("history/per_second/c/", "history/waiting/c/")
TIMED_IN_CHECKPOINT = ("history.per_second", "history.waiting", "sums.seconds", "sums.waited")
CHECKSUM_BYTES = 4  # at the end of every chunk


def files(store: Path) -> dict[str, Path]:
    """Every file that counts, by its path in the store."""
    found = (p for p in sorted(store.rglob("*")) if p.is_file() and not p.name.endswith(LEFT_BY_A_KILL))
    return {p.relative_to(store).as_posix(): p for p in found}


def content(name: str, file: Path) -> bytes:
    """What must be equal of a file: of a chunk its bytes, of a document the canonical JSON without ``created_by``."""
    data = file.read_bytes()
    if file.name == DOCUMENT:
        return json.dumps(_anonymous(json.loads(data)), sort_keys=True).encode()
    if any(part in name for part in TIMED):
        return b""
    return _without_times(data) if "/checkpoint/c/" in name else data


def _without_times(chunk: bytes) -> bytes:
    """A checkpoint, which is a safetensors file, with zeros for what a clock measured."""
    start = 8 + int.from_bytes(chunk[:8], "little")
    tensors, blank = json.loads(chunk[8:start]), bytearray(chunk[:-CHECKSUM_BYTES])
    for name in tensors.keys() & set(TIMED_IN_CHECKPOINT):
        first, last = tensors[name]["data_offsets"]
        blank[start + first : start + last] = bytes(last - first)
    return bytes(blank)


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
        elif content(name, left[name]) != content(name, right[name]):
            lines.append(f"differs: {name}")
    return lines


def main() -> None:
    """Compare; exit with 1 if the stores differ, with 2 where there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args()
    if absent := [store for store in (given.one, given.other) if not (store / DOCUMENT).is_file()]:
        parser.error(f"no store: {absent[0]}")
    found = differences(given.one, given.other)
    print("\n".join(found) or f"the same: {len(files(given.one))} files")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
