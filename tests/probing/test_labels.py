from __future__ import annotations

import numpy as np
import pytest

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.labels import Labels, join, match, read_labels
from gigacli.probing.patients import patients_of


def labels_of(pairs, patients=None):
    slides, names = zip(*pairs, strict=True)
    return Labels(slide_id=slides, label=names, patient_id=patients, target="label", missing=0, notes=())


def test_a_plain_table(csv):
    read = read_labels(csv("slide_id,label,patient_id\n01,x,p\n02,y,\n03,,p\n04,NA,p\n05,none,q\n"))
    assert read.slide_id == ("01", "02", "05")
    assert read.label == ("x", "y", "none")
    assert read.patient_id == ("p", None, "q")
    assert (read.target, read.missing, read.notes) == ("label", 2, ())


def test_without_patients(csv):
    assert read_labels(csv("slide_id,label\na,x\n")).patient_id is None


def test_target_names_the_column(csv):
    table = csv("slide_id,label,Subtype\na,x,1\n")
    read = read_labels(table, target="subtype")
    assert (read.label, read.target, read.notes) == (("1",), "Subtype", ())
    with pytest.raises(InvalidInput, match="no column 'grade': found 'slide_id', 'label', 'Subtype'"):
        read_labels(table, target="grade")


def test_the_only_other_column_is_taken_and_said(csv):
    read = read_labels(csv("ID,case_id,subtype\na,p,x\n"))
    assert read.label == ("x",)
    assert read.notes == ("No column 'label': the labels are those of 'subtype'.",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2\n", "no column 'slide_id': found 'a', 'b'"),
        ("slide_id,grade,stage\na,1,2\n", "no column 'label': found 'slide_id', 'grade', 'stage'"),
        ("slide_id,patient\na,1\n", "no column 'label'"),
        ("slide_id,label\na,\nb,nan\n", "every cell of the column 'label' is empty"),
        ("slide_id,label\na,x\nb,x\na,y\n", "1 slides have more than one label: a .*'x' and 'y'"),
        ("slide_id,label,case_id\na,x,p\na,x,q\n", "more than one patient: a .*'p' and 'q'"),
        ("", "is empty"),
    ],
)
def test_unusable_labels_say_why(csv, text, complaint):
    with pytest.raises(InvalidInput, match=complaint) as error:
        read_labels(csv(text))
    assert "labels.csv" in error.value.message
    assert error.value.hint


def test_missing_file(tmp_path):
    with pytest.raises(NotFound):
        read_labels(tmp_path / "gone.csv")


def test_the_same_row_twice_counts_once(csv):
    assert read_labels(csv("slide_id,label\na,x\na,x\nb,y\n")).slide_id == ("a", "b")


def test_labels_without_a_slide_are_counted(csv):
    read = read_labels(csv("slide_id,label\na,x\n,y\n"))
    assert read.slide_id == ("a",)
    assert read.notes == ("1 labels without a slide id are left out.",)


def test_match_prefers_the_exact_name_then_the_bare_one():
    ids = ["s1", "s2.svs", "deep/s3.ndpi", "s4.svs", "s4.tif", "s1.x"]
    assert match(["s1", "s1.svs", "s2", "s2.SVS", "s3.tiff", "s1.x", "s9"], ids).tolist() == [0, 0, 1, 1, 2, 5, -1]
    assert match(["s4", "s4.tif"], ids).tolist() == [-1, 4]  # two slides share the bare name
    assert match([], ids).shape == (0,)


def test_join_counts_both_sides():
    labels = labels_of([("c", "x"), ("a.svs", "y"), ("gone", "x"), ("d", "x")], patients=("p", None, "q", "r"))
    joined = join(labels, ["a", "b", "c", "d"], [True, True, True, False])
    assert joined.index.tolist() == [0, 2]
    assert joined.index.dtype == np.int64
    assert joined.label.tolist() == ["y", "x"]
    assert joined.patients == ("", "", "p", "r")
    assert joined.counts == {
        "labels": 4,
        "vectors": 3,
        "matched": 2,
        "unmatched": 1,
        "unmatched_first": ["gone"],
        "without_vector": 1,
        "without_vector_first": ["d"],
        "unlabelled": 1,
        "unlabelled_first": ["b"],
        "missing": 0,
        "classes": {"x": 1, "y": 1},
    }


def test_join_shows_five_unmatched():
    labels = labels_of([("a", "x"), ("b", "y"), *((f"n{i}", "x") for i in range(9))])
    counts = join(labels, ["a", "b"], [True, True]).counts
    assert counts["unmatched"] == 9
    assert counts["unmatched_first"] == ["n0", "n1", "n2", "n3", "n4"]


def test_join_without_a_match_shows_examples_of_both():
    labels = labels_of([(f"L{i}", "x") for i in range(9)])
    with pytest.raises(InvalidInput, match=r"none of 9 .* among the 4 .*L0, L1, L2; the store has S0, S1, S2") as error:
        join(labels, ["S0", "S1", "S2", "S3"], np.ones(4, bool))
    assert "L3" not in error.value.message


def test_join_without_vectors():
    with pytest.raises(InvalidInput, match="2 slides have a label, but none has a vector"):
        join(labels_of([("a", "x"), ("b", "y"), ("c", "y")]), ["a", "b"], [False, False])


def test_join_names_what_differs_in_capitals_only():
    labels = labels_of([("A.svs", "x"), ("b", "x"), ("c", "y"), ("gone", "y")])
    joined = join(labels, ["a", "b", "c"], [True] * 3)
    assert joined.warnings == ("of 2 labels that name no slide here, 1 differ in capitals only: 'A.svs' is 'a' there",)
    with pytest.raises(InvalidInput, match=r"the store has a, c; 2 differ in capitals only: 'A.svs' is 'a' there, 'C'"):
        join(labels_of([("A.svs", "x"), ("C", "y")]), ["a", "c"], [True, True])


def test_join_needs_two_classes():
    labels = labels_of([("a", "x"), ("b", "x"), ("c", "y")])
    with pytest.raises(InvalidInput, match=r"all 2 slides .* the same 'label': x"):
        join(labels, ["a", "b"], [True, True])


def test_join_refuses_two_labels_of_one_slide():
    with pytest.raises(InvalidInput, match=r"'a' and 'a.svs' have different labels"):
        join(labels_of([("a", "x"), ("a.svs", "y")]), ["a"], [True])
    with pytest.raises(InvalidInput, match=r"'a' and 'a.svs' have different patients"):
        join(labels_of([("a", "x"), ("a.svs", "x")], patients=("p", "q")), ["a"], [True])
    assert join(labels_of([("a", "x"), ("a.svs", "x"), ("b", "y")]), ["a", "b"], [True, True]).counts["matched"] == 2


@pytest.mark.parametrize(
    ("name", "classes"),  # paper, table 1
    [
        ("brca", [210, 831]),
        ("kidney", [120, 294, 510]),
        ("lung", [505, 528]),
        ("tnbc", [129, 466]),
        ("mhrd", [447, 465]),
        ("thrd", [316, 318]),
    ],
)
def test_the_published_tables_read_as_in_the_paper(tcga, name, classes):
    labels = read_labels(tcga / "tables" / f"{name}.csv")
    joined = join(labels, [f"{slide}.svs" for slide in labels.slide_id], np.ones(len(labels.slide_id), bool))
    assert sorted(joined.counts["classes"].values()) == classes
    patients = patients_of(labels.slide_id, from_store=None, from_labels=labels.patient_id)
    barcodes = patients_of(labels.slide_id, from_store=None)
    assert patients.names == barcodes.names
    assert barcodes.source.startswith("TCGA barcodes")
