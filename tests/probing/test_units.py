from __future__ import annotations

import numpy as np
import pytest

from gigacli.errors import InvalidInput
from gigacli.probing.labels import join, read_labels
from gigacli.probing.patients import patients_of
from gigacli.probing.splits import read_splits
from gigacli.probing.units import units_of

IDS = ("s0", "s1", "s2", "s3", "s4", "s5")
PATIENTS = ["p", "q", "p", "r", "", "q"]


def joined(csv, text, **options):
    labels = read_labels(csv(text), level="patient")
    return join(labels, IDS, [True, True, True, True, True, False], patients=PATIENTS)


def units(found, *, level, patients=PATIENTS):
    known = patients_of(IDS, from_store=patients, from_labels=found.patients)
    return units_of(found, IDS, patients=known, level=level)


def test_a_patients_vector_is_the_mean_of_the_slides_at_unit_length(csv):
    found = joined(csv, "slide_id,label\ns0,x\ns2,x\ns1,y\ns3,y\n")
    made = units(found, level="patient")
    assert (made.ids, made.label.tolist(), made.patient) == (("p", "q", "r"), ["x", "y", "y"], ("p", "q", "r"))
    assert [rows.tolist() for rows in made.slides] == [[0, 2], [1], [3]]
    vectors = np.array([[3, 0], [0, 2], [0, 3], [1, 1], [9, 9], [9, 9]], dtype=np.float32)
    np.testing.assert_allclose(made.vectors(vectors, unit_length=False), [[1.5, 1.5], [0, 2], [1, 1]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(made.vectors(vectors, unit_length=True), [[half, half], [0, 1], [half, half]], rtol=1e-6)
    assert made.per_class(made.label.tolist()) == {"classes": {"x": 2, "y": 2}, "patients": {"x": 1, "y": 2}}


def test_a_table_of_patients_labels_all_their_slides(csv):
    found = joined(csv, "patient_id,label\nq,x\np,y\nz,y\n")
    assert found.index.tolist() == [0, 1, 2]
    assert found.label.tolist() == ["y", "x", "y"]
    counts = {k: found.counts[k] for k in ("labels", "matched", "unmatched", "unmatched_first", "without_vector")}
    assert counts == {"labels": 3, "matched": 3, "unmatched": 1, "unmatched_first": ["z"], "without_vector": 0}
    made = units(found, level="patient")
    assert made.ids == ("p", "q")


def test_a_table_of_patients_needs_to_meet_some(csv):
    with pytest.raises(InvalidInput, match=r"none of 2 labelled patients is among the 3 of the store.*p, q, r"):
        joined(csv, "patient_id,label\na,x\nb,y\n")


def test_a_table_of_patients_is_refused_for_slides(csv):
    with pytest.raises(InvalidInput, match="no column 'slide_id'"):
        read_labels(csv("patient_id,label\nq,x\np,y\n"))


def test_a_patient_of_two_classes_is_named(csv):
    found = joined(csv, "slide_id,label\ns0,x\ns2,y\ns1,y\n")
    with pytest.raises(InvalidInput, match=r"1 patients have slides of more than one class: p \(the first: x and y\)"):
        units(found, level="patient")
    made = units(found, level="slide")
    assert made.ids == ("s0", "s1", "s2")


def test_patients_must_be_known(csv):
    found = joined(csv, "slide_id,label\ns0,x\ns1,y\n")
    with pytest.raises(InvalidInput, match="not known which slides belong"):
        units(found, level="patient", patients=[""] * 6)
    made = units(found, level="slide", patients=[""] * 6)
    assert made.patient is None
    assert made.per_class(made.label.tolist()) == {"classes": {"x": 1, "y": 1}}


def test_splits_of_slides_or_patients_become_splits_of_patients(csv):
    slides, owners = ["a1", "a2", "b1", "c1"], ["a", "a", "b", "c"]
    folder = csv("train,test\na1.svs,b1\na2,\n", "split_0.csv").parent
    csv("train,test\nc,a\nb,\n", "split_1.csv")
    splits, notes = read_splits(folder, slides, patients=owners)
    assert [(s.train.tolist(), s.test.tolist()) for s in splits] == [([0], [1]), ([2, 1], [0])]
    assert notes == []
    csv("train,test\na1,a2\nb,\n", "split_2.csv")
    with pytest.raises(InvalidInput, match=r"split_2.csv has 1 patients in both train and test: a"):
        read_splits(folder, slides, patients=owners)
