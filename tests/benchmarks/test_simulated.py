"""The simulated cohort of the study: its labels differ in what they are about and in nothing else."""

import numpy as np
import pytest

import gigacli as giga
from benchmarks import simulated
from gigacli.randomness import keyed_rng


def test_arrangement_moves_tiles_and_changes_nothing_else():
    alike = {True: [], False: []}
    for seed in range(12):
        logits = simulated.PATIENT * keyed_rng(seed).standard_normal(simulated.TYPES)
        made = {}
        for apart in (True, False):
            rng = keyed_rng("slide", seed)
            cells, kind = simulated.lay_out(rng, logits, apart=apart, grid=simulated.SMALL.grid)
            made[apart] = (cells, kind, rng.random())
            alike[apart].append(simulated.neighbours_alike(simulated.Slide(cells, kind, np.empty(0))))
        np.testing.assert_array_equal(made[True][0], made[False][0])
        assert made[True][2] == made[False][2]  # whatever is drawn next is the same
        np.testing.assert_array_equal(*(np.bincount(made[a][1], minlength=simulated.TYPES) for a in (True, False)))
        others = ~np.isin(made[True][1], (2, 3))
        np.testing.assert_array_equal(made[True][1][others], made[False][1][others])
    assert min(alike[True]) > max(alike[False])


def test_labels_and_labs_are_balanced_against_each_other():
    people = simulated.plan(64)
    combinations = [(p["mixture"], p["arrangement"], p["lab"]) for p in people]
    assert {combinations.count(c) for c in combinations} == {64 // (4 * simulated.LABS)}
    with pytest.raises(ValueError, match="multiple of 16"):
        simulated.plan(20)


@pytest.mark.slow
def test_a_simulated_store_trains(tmp_path):
    path, labels, drawn = simulated.write(tmp_path, seed=1, size=simulated.Size(24, 16), patients=16)
    store = giga.open(path)
    assert giga.validate(path).problems == []
    assert len(labels.read_text().splitlines()) == 1 + len(drawn) == 1 + len(store.slides)
    bank, tile = (store.bank("simulated").array(name)[:] for name in ("vectors", "tile"))
    difference = bank[3].astype(np.float32) - drawn[3].features[tile[3]]  # (augmentation, draw, feature)
    of_view = difference.mean(axis=1, keepdims=True)
    assert of_view.std() > 1  # an augmentation is shared by the tiles of a view
    assert (difference - of_view).std() == pytest.approx(simulated.NOISE, rel=0.05)
    assert giga.train(path, epochs=1, aggregator="mlp").slides == 32
