"""giga demo: the six verbs on a drawn cohort."""

from dataclasses import replace

import pytest

import gigacli as giga
from gigacli.config.tools import DemoConfig
from gigacli.demo.run import LEVEL, NOTICE, conclusion, steps


@pytest.mark.parametrize("quick", [False, True])
def test_the_demo_is_the_six_verbs_in_order(cohort, quick):
    verbs = list(dict.fromkeys(step[0] for step in steps(cohort, DemoConfig(quick=quick))))
    assert verbs == ["tile", "pretrain-tiles", "bank", "train", "embed", "probe"]
    assert "smoke test" in NOTICE
    assert "not evidence" in NOTICE


def test_the_last_sentence_says_what_the_table_shows(cohort, chain):
    made = replace(cohort, folder=chain("embed").parent)
    said = conclusion(made, seed=0)
    rows = {row.embedding: row for row in giga.probe(chain("embed"), cohort.labels_csv, c="auto").scores}
    assert f"AUC of {rows['giga'].auc_mean:.3f}" in said
    best = max((rows[name].auc_mean, name) for name in rows if name != "giga")
    assert f"{best[1]} with {best[0]:.3f}" in said
    gap = rows["giga"].auc_mean - best[0]
    assert ("level with" if abs(gap) < LEVEL else "above" if gap > 0 else "below") in said
