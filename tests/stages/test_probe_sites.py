"""giga probe: sites, harmonisation, permuted labels, and the tables that people bring."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput
from gigacli.probing.permutations import holm
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from tests.helpers import run_giga
from tests.stages.test_probe import made_up_store, read

N, PER_SITE = 96, 24
PATIENT, SITE = np.arange(N) // 2, np.arange(N) // PER_SITE
IDS = [f"s{i:03d}" for i in range(N)]
STAIN = np.random.default_rng(7).normal(size=(N // PER_SITE, 12))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def classes(share, *, seed=0):
    """The class of every slide, one per patient: the share of the second class in each site."""
    per = PER_SITE // 2
    y = np.concatenate([np.arange(per) < round(s * per) for s in share]).astype(int)
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(part) for part in y.reshape(-1, per)]).repeat(2)


def vectors(y, *, disease, seed=1):
    """Vectors that know the site well and the class by so much."""
    x = np.random.default_rng(seed).normal(size=(N, 12)) + 1.5 * STAIN[SITE]
    x[:, 0] += disease * y
    return unit(x)


@pytest.fixture
def make(tmp_path):
    """A store of one embedding and its table of labels."""

    def cohort(x, y, name="cohort", **columns):
        config = {"aggregator": "model", "model": "giga"}
        store = made_up_store(tmp_path / f"{name}.zarr", {"giga": (config, x)}, patients=[f"p{i}" for i in PATIENT])
        table = pd.DataFrame(
            {"slide_id": IDS, "label": np.where(y, "tumour", "normal"), "lab": [f"lab{i}" for i in SITE]}
        )
        return store, table.assign(**columns)

    return cohort


LOPSIDED, EVEN = (0.1, 0.9, 0.15, 0.85), (0.5, 0.5, 0.5, 0.5)


def test_a_score_that_is_the_site_is_a_warning(make, tmp_path):
    y = classes(LOPSIDED)
    result = giga.probe(*make(vectors(y, disease=0), y), site="lab", folds=4, out=tmp_path / "out")
    [row], [found] = result.scores, result.sites
    assert row.auc_mean == found.auc > 0.75
    assert found.within < 0.65
    assert found.alone > 0.75
    assert found.alone_p < 0.05
    assert (found.read, found.read_sites) == (pytest.approx(1, abs=0.1), 4)
    assert found.explained
    [said] = [text for text in result.warnings if "site" in text]
    assert said.startswith("label, giga: the site explains the label: the site alone predicts the label")
    assert "sites: 4 sites, from the column of the labels" in result.notes
    lines = read(tmp_path / "out" / "sites.csv")
    assert len(lines) == 4 * 2
    assert {line["site"] for line in lines} == {"lab0", "lab1", "lab2", "lab3"}
    assert float(lines[0]["observed"]) == pytest.approx(np.mean(y[SITE == 0] == 0))
    assert json.loads(json.dumps(result.to_json()))["sites"][0]["sites"][0]["site"] == "lab0"


def test_a_score_within_sites_is_a_note(make):
    y = classes(EVEN)
    result = giga.probe(*make(vectors(y, disease=6), y), site="lab", folds=4)
    [found] = result.sites
    assert not found.explained
    assert found.within > 0.8
    assert found.left_out > 0.7
    assert found.left_out_sites == 4
    assert all(one.left_out is not None for one in found.sites)
    assert found.left_out == pytest.approx(np.mean([one.left_out for one in found.sites]))
    assert not any("site" in text for text in result.warnings)
    assert any("the site does not explain the label" in text for text in result.notes)


def test_sites_stay_on_one_side(make, tmp_path):
    y = classes(LOPSIDED)
    store, table = make(vectors(y, disease=0), y)
    usual = giga.probe(store, table, folds=2, site="lab")
    kept = giga.probe(store, table, folds=2, site="lab", group="site", out=tmp_path / "out")
    assert kept.scores[0].auc_mean < usual.scores[0].auc_mean
    sides = {}
    for line in read(tmp_path / "out" / "predictions.csv"):
        sides.setdefault(line["split"], set()).add(SITE[int(line["slide"][1:])])
    assert len(sides) == 2
    assert not set.intersection(*sides.values())
    with pytest.raises(InvalidInput, match="`split_column` gives the splits, and so does `group`"):
        giga.probe(store, table, group="site", split_column="lab")


def test_sites_of_tcga_are_announced(make, tmp_path):
    y = classes(EVEN)
    ids = [f"TCGA-{'ABCD'[SITE[i]]}X-{PATIENT[i]:04d}-01Z-{i}" for i in range(N)]
    store = Store.create(tmp_path / "tcga.zarr")
    store.write_slides(SlideTable(tuple(SlideRow(id=name, path="-") for name in ids)))
    embedding, x = store.embedding("giga"), vectors(y, disease=6)
    embedding.begin(Recipe("embed", {"aggregator": "model"}, {"features": "f"}), x.shape[1], redo=False)
    embedding.write(np.arange(N), x, empty=np.array([], dtype=np.int64))
    table = pd.DataFrame({"slide_id": ids, "label": y})
    for options in ({"site": "tcga"}, {"group": "site"}, {"harmonise": "erase"}):
        result = giga.probe(store, table, folds=2, **options)
        assert "sites: 4 sites, from TCGA's tissue source site, in the slide ids" in result.notes
        assert {one.site for one in result.sites[0].sites} == {"AX", "BX", "CX", "DX"}
    store, table = make(x, y)
    with pytest.raises(InvalidInput, match="it is not known where slides come from"):
        giga.probe(store, table, site="tcga")


@pytest.mark.parametrize("method", ["combat", "center", "erase"])
def test_harmonisation_stands_beside_and_never_sees_the_test_side(make, tmp_path, method):
    """One split. Other slides of the test side are replaced: what is predicted of the rest must not move."""
    y = classes(LOPSIDED)
    side = np.where(PATIENT % 3 == 0, "test", "train")
    x = vectors(y, disease=3)
    stay = (side == "test") & (PATIENT % 2 == 0)
    other = x.copy()
    other[(side == "test") & ~stay] = unit(np.random.default_rng(5).normal(size=(N, 12)) - 9)[(side == "test") & ~stay]
    options = {"harmonise": method, "site": "lab", "split_column": "side"}
    found = []
    for name, vs in (("one", x), ("other", other)):
        store, table = make(vs, y, name, side=side)
        result = giga.probe(store, table, out=tmp_path / name, **options)
        assert [row.harmonised for row in result.scores] == ["", method]
        assert [row.setting for row in result.scores] == ["C=10", f"C=10, {method}"]
        lines = [line for line in read(tmp_path / name / "predictions.csv") if stay[int(line["slide"][1:])]]
        found.append({(line["slide"], line["harmonised"]): line["p_tumour"] for line in lines})
    assert len(found[0]) == 2 * stay.sum()
    assert found[0] == found[1]
    assert any(found[0][slide, ""] != found[0][slide, method] for slide, _ in found[0])  # and it does something
    reads = [row.read for row in result.sites] if method != "combat" else [1, 0]
    assert reads[1] < reads[0]


def test_harmonisation_needs_two_sites_in_training(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=3), y, side=np.where(SITE == 0, "train", "test"))
    with pytest.raises(InvalidInput, match="training slides are of the site 'lab0'"):
        giga.probe(store, table, harmonise="center", site="lab", split_column="side")


def test_permuted_labels_say_what_chance_does(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y, noise=np.random.default_rng(3).integers(0, 2, N // 2).repeat(2))
    result = giga.probe(
        store, table, target=["label", "noise"], harmonise="center", site="lab", folds=3, permutations=39
    )
    real, _, noise, _ = result.scores
    assert real.p_value == 1 / 40
    assert real.p_holm == real.p_value  # there is one line to compare, and one that is harmonised
    assert noise.p_value > 0.1
    assert noise.p_holm >= noise.p_value
    assert abs(real.null_mean - 0.5) < 0.1
    assert real.null_mean < real.null_high < real.auc_mean
    assert any(text.startswith("p: how often one of 39 permutations") for text in result.notes)
    again = giga.probe(store, table, folds=3, permutations=39)
    assert (again.scores[0].p_value, again.scores[0].null_mean) == (real.p_value, real.null_mean)
    assert again.scores[0].p_holm == real.p_value
    assert giga.probe(store, table, folds=3).scores[0].p_value is None


def test_p_values_are_corrected_for_what_is_compared(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y)
    options = {"folds": 2, "harmonise": "center", "site": "lab", "method": ("linear", "knn", "simpleshot")}
    result = giga.probe(store, table, **options, permutations=19)
    for harmonised in ("", "center"):
        rows = [row for row in result.scores if row.harmonised == harmonised]
        assert [row.p_holm for row in rows] == pytest.approx(holm([row.p_value for row in rows]))
    assert "19 permutations cannot give 3 lines a p of 0.05: that takes 60" in result.notes


@pytest.mark.parametrize("task", ["regression", "ordinal", "survival", "knn"])
def test_permutations_of_other_tasks_and_methods(make, task):
    rng = np.random.default_rng(2)
    y, signal = classes(EVEN), rng.normal(size=N // 2).repeat(2)
    x = vectors(y, disease=0)
    x[:, 1] += 2 * signal
    store, table = make(unit(x), y if task != "knn" else signal > 0)
    options = {"folds": 2, "permutations": 9}
    if task == "survival":
        table = table.drop(columns="label").assign(time=np.exp(-signal), event=rng.integers(0, 2, N // 2).repeat(2))
        options["site"] = "lab"
    elif task == "knn":
        options["method"] = ("linear", "knn")
    else:
        table["label"] = signal if task == "regression" else np.digitize(signal, [-0.5, 0.5])
        options["task"] = task
    result = giga.probe(store, table, **options)
    assert all(row.p_value == 0.1 for row in result.scores)
    assert all(row.null_high < row.score_mean for row in result.scores)
    if task == "survival":
        assert result.sites == []
        assert any("scores within sites are for classes; this is a task of survival" in note for note in result.notes)


def test_patients_have_the_site_of_their_first_slide(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y)
    table.loc[1::2, "lab"] = ""  # an empty cell keeps the slide
    table.loc[3, "lab"] = "lab3"  # the second slide of a patient
    result = giga.probe(store, table, level="patient", site="lab", folds=3)
    assert result.scores[0].n_train + result.scores[0].n_test == N // 2
    assert sum(one.slides for one in result.sites[0].sites) == N // 2
    assert "sites: 4 sites, from the column of the labels" in result.notes
    slides = giga.probe(store, table, site="lab", folds=3)
    assert slides.joins["label"]["matched"] == N
    assert any("47 slides without one count as one each" in note for note in slides.notes)
    of_patients = pd.DataFrame({"patient_id": [f"p{i}" for i in range(N // 2)], "label": y[::2], "lab": SITE[::2]})
    assert len(giga.probe(store, of_patients, level="patient", site="lab", folds=3).sites[0].sites) == 4


def test_a_slide_of_two_sites_is_refused(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y)
    twice = pd.concat([table, table.iloc[:1].assign(lab="lab3")])
    with pytest.raises(InvalidInput, match="the DataFrame: 1 slides have more than one 'lab': s000"):
        giga.probe(store, twice, site="lab")
    with pytest.raises(InvalidInput, match="the DataFrame has no column 'centre': found 'slide_id', 'label', 'lab'"):
        giga.probe(store, table, site="centre")


def test_tables_are_read_as_they_are(make, tmp_path):
    """A workbook, Parquet, and a table of Patho-Bench, whose folds are no labels."""
    pytest.importorskip("openpyxl")
    pytest.importorskip("pyarrow")
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y)
    expected = giga.probe(store, table, folds=3).scores
    table.to_excel(tmp_path / "labels.xlsx", index=False)
    table.to_parquet(tmp_path / "labels.parquet", index=False)
    for name in ("labels.xlsx", "labels.parquet"):
        assert giga.probe(store, tmp_path / name, folds=3).scores == expected
    bench = pd.DataFrame({"case_id": [f"p{i}" for i in PATIENT], "slide_id": IDS, "MSI": y})
    for k in range(2):
        bench[f"fold_{k}"] = np.where(k == PATIENT % 2, "test", "train")
    bench.to_csv(tmp_path / "k=all.tsv", sep="\t", index=False)
    given = giga.probe(store, tmp_path / "k=all.tsv", splits=tmp_path / "k=all.tsv")
    assert (given.scores[0].target, given.scores[0].splits) == ("MSI", 2)
    assert any(note.startswith("splits: 2 of ") for note in given.notes)
    one = giga.probe(store, bench, split_column="fold_1")
    assert one.scores[0].scores == given.scores[0].scores[1:]
    assert "splits: the column 'fold_1' of the DataFrame" in one.notes


def test_options_that_contradict(make):
    y = classes(EVEN)
    store, table = make(vectors(y, disease=6), y)
    with pytest.raises(InvalidInput, match="`splits` gives the splits, and so does `split_column`"):
        giga.probe(store, table, splits="x", split_column="y")
    with pytest.raises(InvalidInput, match="`harmonise` changes vectors, and `method` abmil judges tiles"):
        giga.probe(store, table, harmonise="center", method=("linear", "abmil"))


def test_a_probe_without_sites_does_not_load_what_they_need():
    loaded = "import sys, gigacli.cli.verbs, gigacli.cli.console, gigacli.stages.probe; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    ours = {"sites", "site_scores", "site_table", "harmonise", "permutations", "chance"}
    assert not {f"gigacli.probing.{name}" for name in ours} & set(names)


@pytest.mark.slow
def test_the_tables_fit_80_columns(make, tmp_path):
    y = classes(LOPSIDED)
    store, table = make(vectors(y, disease=2), y)
    table.to_csv(tmp_path / "labels.csv", index=False)
    command = ["probe", store.url, "--labels", tmp_path / "labels.csv", "--site", "lab", "--harmonise", "combat"]
    shown = run_giga(*command, "--folds", "3", "--permutations", "9", check=True).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for title in ("label within sites: AUC of the site alone", "label at each site: giga, C=10"):
        assert title in shown
