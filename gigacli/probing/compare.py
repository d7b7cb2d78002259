"""Rows of the table from what was judged: each compared with its baseline, split by split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gigacli.errors import InvalidInput
from gigacli.probing.results import ProbeRow
from gigacli.probing.scores import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gigacli.probing.results import Judged


def compared(judged: Sequence[Judged], baseline: str | None) -> list[ProbeRow]:
    """Rows of one target and budget, each beside its baseline.

    Args:
        judged: All on the same splits.
        baseline: An embedding, or abmil. Default: the mean of tiles, that of the same features where there are several,
            at its best C; without one, the first embedding.

    Raises:
        InvalidInput: The baseline is not among them.
    """
    rows = []
    for one in judged:
        base = _baseline(one, judged, baseline)
        gap = difference(one.score, base.score) if base is not None and base is not one else None
        figures = {k: v for k, v in vars(one.score).items() if k in ProbeRow.__dataclass_fields__} | {
            "difference": gap and gap.mean,
            "difference_low": gap and gap.low,
            "difference_high": gap and gap.high,
        }
        per_class = one.units.per_class()
        rows.append(
            ProbeRow(
                embedding=one.embedding,
                target=one.target,
                method=one.method,
                c=one.c,
                scaled=one.scaled,
                budget=one.budget,
                baseline=base.name if base is not None and gap is not None else "",
                patients=per_class.get("patients"),
                aucs=tuple(fold.auc for fold in one.score.folds),
                **{**figures, "classes": per_class["classes"]},
            )
        )
    return rows


def _baseline(one: Judged, judged: Sequence[Judged], named: str | None) -> Judged | None:
    if named is not None:
        known = [j for j in judged if named in (j.embedding, j.method)]
        if not known:
            raise InvalidInput(
                f"--baseline is {named!r}, which is not among what is probed: "
                f"{', '.join(dict.fromkeys(j.embedding for j in judged))}",
                "Name an embedding, or abmil together with --method abmil.",
            )
        abmil = [j for j in known if j.method == "abmil" and named == "abmil"]
        known = abmil or [j for j in known if j.method == "linear"] or known
    else:
        known = [j for j in judged if j.scaled and j.method == "linear"]
    best = [j for j in known if j.c == "auto"] or known
    mine = [j for j in best if j.features and j.features == one.features]
    return next(iter(mine or best), judged[0] if len(judged) > 1 and named is None else None)
