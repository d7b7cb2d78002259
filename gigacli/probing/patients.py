"""Patients of slides: what the store, a table of labels and TCGA barcodes say, joined so that no patient is divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gigacli.tables import tcga_patient

_SHOWN = 3


@dataclass(frozen=True)
class Patients:
    """Which patient each slide belongs to.

    Attributes:
        names: The patients, (slides,), or None when nothing is known of any.
        source: Where they come from, to be shown.
        warnings: Where store and labels disagree, and ids that differ in capitals only; one sentence each.
    """

    names: tuple[str, ...] | None
    source: str
    warnings: tuple[str, ...] = ()


def patients_of(
    slide_ids: Sequence[str],
    *,
    from_store: Sequence[str | None] | None,
    from_labels: Sequence[str | None] | None = None,
) -> Patients:
    """Say which patient each slide belongs to.

    Every slide joins its patient of the store with its patient of the labels, so that slides which either of them, or
    both in a chain, give to one patient stay together: a table can make patients coarser than the store has them, not
    finer. Where only one of them says, the other is taken to say the same; where neither does, the TCGA barcode decides
    (its first 12 characters are the patient). A slide without a patient, where others have one, is one of its own.

    A patient is called as in the labels, where these say, so that files of splits may name it.

    Args:
        slide_ids: The slides, (n,).
        from_store: Their patients in the store, (n,); None or empty where not known.
        from_labels: Their patients in the table of labels, (n,); None or empty where not known.
    """
    silent = [""] * len(slide_ids)
    in_store, in_labels = ([name or "" for name in said or silent] for said in (from_store, from_labels))
    pairs = list(zip(in_store, in_labels, strict=True))
    barcodes = ["" if any(pair) else tcga_patient(slide) for slide, pair in zip(slide_ids, pairs, strict=True)]
    sources = {
        "the labels' patient column": in_labels,
        "the store's patients": in_store,
        "TCGA barcodes (the first 12 characters of the slide id)": barcodes,
    }
    source = " and ".join(text for text, names in sources.items() if any(names))
    if not source:
        return Patients(None, "nowhere: each slide counts as a patient of its own")
    unknown = sum(not (any(pair) or barcode) for pair, barcode in zip(pairs, barcodes, strict=True))
    if unknown:
        source += f" ({unknown} slides without a patient count as one each)"
    alone = [barcode or slide for barcode, slide in zip(barcodes, slide_ids, strict=True)]
    filled = [(mine or theirs or own, theirs or mine or own) for (mine, theirs), own in zip(pairs, alone, strict=True)]
    group = connected(filled)
    name_of = {g: theirs for g, theirs in zip(reversed(group), reversed(in_labels), strict=True) if theirs}
    for g, (_, name) in zip(group, filled, strict=True):
        name_of.setdefault(g, name)
    said = [(name, g) for names in sources.values() for name, g in zip(names, group, strict=True) if name]
    return Patients(tuple(name_of[g] for g in group), source, (*_disagreements(pairs), *_alike(said)))


def connected(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Number of the connected component of each pair; the left and the right names are two kinds of nodes."""
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]  # halves the way for the next search
            node = parent[node]
        return node

    for left, right in pairs:
        parent[root((0, left))] = root((1, right))
    number: dict[tuple[int, str], int] = {}
    return [number.setdefault(root((0, left)), len(number)) for left, _ in pairs]


def _disagreements(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings about patients of the store that the labels divide, and others that they join."""
    both = [pair for pair in pairs if all(pair)]
    divided, joined = _several(both), _several((theirs, mine) for mine, theirs in both)
    warnings = []
    if divided:
        first = _first(divided)
        warnings.append(f"the labels divide {len(divided)} of the store's patients, each kept together here: {first}")
    if joined:
        first = _first(joined)
        warnings.append(f"{len(joined)} patients of the labels are several of the store's, each one here: {first}")
    return warnings


def _alike(said: Iterable[tuple[str, int]]) -> list[str]:
    """A warning about different patients (name and number of each) whose ids differ in capitals only."""
    ways: dict[str, dict[str, int]] = {}
    for name, group in said:
        ways.setdefault(name.casefold(), {})[name] = group
    alike = [found for found in ways.values() if len(set(found.values())) > 1]
    if not alike:
        return []
    first = ", ".join(" and ".join(map(repr, found)) for found in alike[:_SHOWN])
    return [f"{len(alike)} patient ids differ in capitals only and count as different patients: {first}"]


def _several(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that are paired with several others, each with these."""
    others: dict[str, dict[str, None]] = {}
    for name, other in pairs:
        others.setdefault(name, {})[other] = None
    return {name: list(found) for name, found in others.items() if len(found) > 1}


def _first(several: dict[str, list[str]]) -> str:
    name, others = next(iter(several.items()))
    more = " and more" * (len(others) > _SHOWN)
    return f"{name!r} is {' and '.join(map(repr, others[:_SHOWN]))}{more}"
