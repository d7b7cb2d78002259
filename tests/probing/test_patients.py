from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigacli.probing.patients import patients_of

BARCODES = ["TCGA-A1-A0SP-01Z-00-DX1.20D6", "TCGA-A1-A0SP-01Z-00-DX2", "TCGA-A2-A04N-01Z-00-DX1"]
LABELS, STORE = "the labels' patient column", "the store's patients"


@pytest.mark.parametrize(
    ("from_labels", "from_store", "patients", "source"),
    [
        (["a", "a", "b"], None, ["a", "a", "b"], LABELS),
        (["a", "a", "b"], ["c", "c", "e"], ["a", "a", "b"], f"{LABELS} and {STORE}"),  # other names for the same
        (["a", "a", "b"], ["c", "d", "e"], ["a", "a", "b"], f"{LABELS} and {STORE}"),  # coarser
        (["a", "b", "b"], ["c", "c", "e"], ["a", "a", "a"], f"{LABELS} and {STORE}"),  # in a chain
        (["a", None, "b"], ["c", "c", "e"], ["a", "a", "b"], f"{LABELS} and {STORE}"),  # a gap
        (["a", None, "b"], ["", "a", ""], ["a", "a", "b"], f"{LABELS} and {STORE}"),  # each says of others
        (["1", "2", "2"], ["2", "1", "1"], ["1", "2", "2"], f"{LABELS} and {STORE}"),  # the same words, not patients
        (None, ["c", "d", "e"], ["c", "d", "e"], STORE),
        ([None, None, None], ["c", "", "c"], ["c", "TCGA-A1-A0SP", "c"], f"{STORE} and TCGA barcodes"),
        (None, ["", "", ""], ["TCGA-A1-A0SP", "TCGA-A1-A0SP", "TCGA-A2-A04N"], "TCGA barcodes"),
        (None, None, ["TCGA-A1-A0SP", "TCGA-A1-A0SP", "TCGA-A2-A04N"], "TCGA barcodes"),
    ],
)
def test_where_patients_come_from(from_labels, from_store, patients, source):
    found = patients_of(BARCODES, from_store=from_store, from_labels=from_labels)
    assert found.names == tuple(patients)
    assert found.source.startswith(source)


def test_a_slide_without_a_patient_is_one_of_its_own():
    found = patients_of(["x", "y", "z"], from_store=["p", "", "p"])
    assert found.names == ("p", "y", "p")
    assert found.source == "the store's patients (1 slides without a patient count as one each)"


def test_no_patients_known():
    found = patients_of(["x", "y"], from_store=["", ""], from_labels=[None, None])
    assert found.names is None
    assert "each slide" in found.source


def test_disagreements_are_counted_and_the_first_is_named():
    slides, store = ["u", "v", "w", "x", "y"], ["p", "p", "q", "r", "s"]
    assert patients_of(slides, from_store=store, from_labels=["p", "", "q", "r", "s"]).warnings == ()
    assert patients_of(slides, from_store=store, from_labels=["a", "b", "c", "d", "d"]).warnings == (
        "the labels divide 1 of the store's patients, each kept together here: 'p' is 'a' and 'b'",
        "1 patients of the labels are several of the store's, each one here: 'd' is 'r' and 's'",
    )


def test_ids_that_differ_in_capitals_only_are_named_where_they_count_as_two():
    slides = ["u", "v", "w"]
    (warning,) = patients_of(slides, from_store=None, from_labels=["P1", "p1", "q"]).warnings
    assert warning == "1 patient ids differ in capitals only and count as different patients: 'P1' and 'p1'"
    assert patients_of(slides, from_store=["P1", "P1", "Q"], from_labels=["p1", "p1", "q"]).warnings == ()
    one = patients_of(slides, from_store=["P1", "P1", "q"], from_labels=["P1", "p1", "q"])
    assert (one.names, len(one.warnings)) == (("P1", "P1", "q"), 1)  # divided, and kept together


NAMES = st.sampled_from(["", "a", "b", "c", "A"])


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=9))
def test_labels_never_divide_what_the_store_keeps_together(said):
    slides = [f"s{i}" for i in range(len(said))]
    store, labels = ([pair[side] for pair in said] for side in (0, 1))
    names = patients_of(slides, from_store=store, from_labels=labels).names or slides
    for known in (store, labels):
        for i, one in enumerate(known):
            assert all(names[i] == names[j] for j, other in enumerate(known) if one and one == other)
