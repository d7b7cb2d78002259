"""Heads as files: what is read back is what was written, what a probe would say, and nothing else is taken for one."""

import json
import pickle
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gigacli.errors import GigaError, InvalidInput, Mismatch, NotFound
from gigacli.probing.head import Head, LinearMap
from gigacli.probing.head_card import HeadCard, HeadScore, VectorKind
from gigacli.probing.heads import fit_of
from gigacli.probing.truth import classes_of, levels_of, numbers_of, times_of

VECTORS = VectorKind(
    aggregator="model",
    width=6,
    model="giga",
    learnt="a" * 64,
    start=None,
    blocks={"encoder": (0, 4), "view-whitened": (4, 6)},
    encoder="uni",
    encoder_sha256="b" * 64,
    mpp=1.0,
    tile_px=256,
)
CARD = HeadCard(
    task="classification",
    target="label",
    classes=("normal", "tumour"),
    link="logistic",
    method="logistic regression",
    c=10.0,
    level="slide",
    unit_length=True,
    embedding="giga",
    recipe="c" * 32,
    vectors=VECTORS,
    slide_table="d" * 32,
    slides=40,
    patients=20,
    sites=None,
    score=HeadScore(metric="AUC", mean=0.9, low=0.85, high=0.95, splits=10),
    created_by="giga 1",
)


def cohort(n=90, classes=2, width=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    vectors[:, :classes] += 1.5 * np.eye(classes)[y]
    return vectors, np.array([f"class {c}" for c in y]), [f"p{i // 3}" for i in range(n)]


def head_of(learnt, **changes):
    return Head(replace(CARD, vectors=replace(VECTORS, width=len(learnt.mean)), link=learnt.link, **changes), learnt)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("options", [{"C": 10.0}, {"C": "auto"}, {"scale": True}, {"C": "auto", "converged": True}])
def test_a_head_says_what_the_probe_would(classes, options, tmp_path):
    vectors, labels, groups = cohort(classes=classes)
    new, model = cohort(60, classes, seed=1)[0], fit_of("classification", "linear", **options)
    truth = classes_of(labels)
    fitted = model(vectors, truth, np.array(groups))
    head_of(LinearMap.of(fitted, "classification"), classes=truth.classes).save(tmp_path / "head.safetensors")
    read = Head.load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(read.map.predict(new), fitted.predict(new))
    assert list(read.table(new)[0]) == [f"p_class {i}" for i in range(classes)]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("task", ["regression", "ordinal", "survival"])
def test_heads_of_other_tasks_say_what_the_probe_would(task, scale, tmp_path):
    vectors, _, groups = cohort()
    number = vectors[:, 0] + 0.1 * np.random.default_rng(0).normal(size=90)
    levels = [str(i) for i in np.digitize(number, [0, 1])]
    truth = {
        "regression": lambda: numbers_of([str(v) for v in number], column="age"),
        "ordinal": lambda: levels_of(levels, column="grade"),
        "survival": lambda: times_of([str(v) for v in np.exp(number)], ["1", "0", "1"] * 30, time="t", event="e"),
    }[task]()
    fitted = fit_of(task, "linear", scale=scale)(vectors, truth, np.array(groups))
    head_of(LinearMap.of(fitted, task), task=task, classes=truth.classes).save(tmp_path / "head.safetensors")
    new = cohort(seed=1)[0]
    np.testing.assert_allclose(
        Head.load(tmp_path / "head.safetensors").map.predict(new), fitted.predict(new), rtol=1e-10
    )


def test_a_method_that_is_not_linear_is_not_kept():
    vectors, labels, _ = cohort()
    fitted = fit_of("classification", "knn")(vectors, classes_of(labels), None)
    with pytest.raises(InvalidInput, match="only linear heads are kept"):
        LinearMap.of(fitted, "classification")


@pytest.mark.parametrize(("task", "column"), [("survival", "risk"), ("regression", "value")])
def test_a_head_of_numbers_is_the_linear_map(task, column, tmp_path):
    rng = np.random.default_rng(0)
    mean, deviation, weights = rng.normal(size=6), rng.random(6) + 0.1, rng.normal(size=(1, 6))
    learnt = LinearMap(mean, deviation, weights, np.array([0.5]), "identity")
    head_of(learnt, task=task, classes=(), c=None).save(tmp_path / "head.safetensors")
    read = Head.load(tmp_path / "head.safetensors")
    vectors = rng.normal(size=(5, 6))
    expected = ((vectors - mean) / deviation * weights[0]).sum(axis=1) + 0.5
    np.testing.assert_allclose(read.map.predict(vectors)[:, 0], expected)
    assert [row[column] for row in read.table(vectors)] == read.map.predict(vectors)[:, 0].tolist()


def test_a_head_of_levels_cuts_its_numbers(tmp_path):
    weights, cuts = np.array([[1.0, 0.0, 0.5]]), np.array([0.0, 2.0])
    learnt = LinearMap(np.zeros(2), np.ones(2), weights[:, :2], weights[:, 2], "levels", cuts)
    head_of(learnt, task="ordinal", classes=("G1", "G2", "G3"), c=None).save(tmp_path / "head.safetensors")
    read = Head.load(tmp_path / "head.safetensors")
    vectors = np.array([[-3.0, 9.0], [-0.5, 9.0], [1.0, 9.0], [1.5, 9.0]])
    assert read.table(vectors) == [
        {"level": "G1", "value": -2.5},
        {"level": "G2", "value": 0.0},  # a cut belongs to the level above it
        {"level": "G2", "value": 1.5},
        {"level": "G3", "value": 2.0},
    ]
    for wrong, says in (
        (np.array([2.0, 0.0]), "cuts do not ascend"),
        (np.array([2.0]), r"cuts is float64 \(1,\); it must be float64 \(2,\)"),
        (None, "cuts is none"),
    ):
        with pytest.raises(InvalidInput, match=says):
            Head(read.card, replace(learnt, cuts=wrong)).save(tmp_path / "head.safetensors")


@pytest.fixture
def learnt():
    vectors, labels, _ = cohort()
    return LinearMap.of(fit_of("classification", "linear", C=10.0)(vectors, classes_of(labels), None), "classification")


def test_the_same_head_is_the_same_file_and_its_card_comes_back(learnt, tmp_path):
    first = head_of(learnt).save(tmp_path / "a.safetensors")
    assert head_of(learnt).save(tmp_path / "b.safetensors") == first
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert Head.load(tmp_path / "a.safetensors").card == CARD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert load_file(tmp_path / "a.safetensors")["weights"].dtype == np.float32


def test_what_cannot_be_kept_is_refused(learnt, tmp_path):
    with pytest.raises(InvalidInput, match=r"found 'head\.pkl'"):
        head_of(learnt).save(tmp_path / "head.pkl")
    for changes, says in (
        ({"classes": ("a",)}, "classes are a, which do not go with logistic"),
        ({"classes": ("a", "a")}, "classes are a, a"),
        ({"task": "survival"}, "survival is linked by logistic; it must be identity"),
        ({"vectors": VECTORS if len(learnt.mean) != 6 else replace(VECTORS, width=7)}, r"mean is float64 \(6,\)"),
    ):
        with pytest.raises(InvalidInput, match=says):
            Head(replace(head_of(learnt).card, **changes), learnt).save(tmp_path / "head.safetensors")
    with pytest.raises(InvalidInput, match="bias holds values that are not numbers"):
        head_of(replace(learnt, bias=np.array([np.nan], dtype=np.float32))).save(tmp_path / "head.safetensors")
    assert not list(tmp_path.iterdir())


def written(learnt, path, *, card=None, **tensors):
    """A file like a head's, with another card or other tensors (None: without it)."""
    head_of(learnt).save(path)
    found = {**load_file(path), **tensors}
    metadata = head_of(learnt).card.to_metadata() if card is None else card
    save_file({name: value for name, value in found.items() if value is not None}, path, metadata=metadata)
    return path


def test_other_files_are_not_taken_for_a_head(learnt, tmp_path):
    file = tmp_path / "head.safetensors"
    with pytest.raises(NotFound, match="no such file"):
        Head.load(file)
    file.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(Mismatch, match="not a safetensors file"):
        Head.load(file)
    card = {"kind": "head", "version": "0.1", **asdict(head_of(learnt).card)}
    deep = "[" * 100_000
    for metadata, says in (
        (None, "no card 'giga'"),
        ({"giga": "{"}, "no card 'giga'"),
        ({"giga": deep}, "no card 'giga'"),
        ({"giga": "[]"}, "no card 'giga'"),
        ({"giga": json.dumps({**card, "kind": "model"})}, "the file of a slide encoder, not of a head"),
        ({"giga": json.dumps({**card, "kind": [1]})}, "the file of something else"),
        ({"giga": json.dumps({**card, "version": "9"})}, "version 9; this giga reads 0.1"),
        ({"giga": json.dumps({"kind": "head", "version": "0.1"})}, "card lacks c, classes"),
    ):
        with pytest.raises(Mismatch, match=says):
            Head.load(written(learnt, file, card=metadata or {"other": ""}))


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        ("task", "alchemy", "card.task is 'alchemy'"),
        ("slides", "many", "card.slides is 'many'"),
        ("slides", True, "card.slides is 'True'"),
        ("patients", 1.5, "card.patients is '1.5'"),
        ("c", float("nan"), "card.c is 'nan'"),
        ("c", 10**400, "card.c is '1000"),
        ("classes", ["a", 2], r"card.classes\[1\] is '2'"),
        ("classes", "ab", "card.classes is 'ab'"),
        ("unit_length", 1, "card.unit_length is '1'"),
        ("vectors", 3, "card.vectors is no object"),
        ("vectors", {}, "card.vectors lacks aggregator"),
        ("score", {**asdict(CARD.score), "low": "x"}, "card.score.low is 'x'"),
        ("vectors", {**asdict(VECTORS), "blocks": {"a": [1]}}, "card.vectors.blocks.a has 1 values, not 2"),
        ("link", "softmax", "classes are normal, tumour, which do not go with softmax"),
        ("classes", [], "its classes are none"),
    ],
)
def test_a_card_is_checked_member_by_member(learnt, tmp_path, member, value, says):
    card = {"kind": "head", "version": "0.1", **asdict(CARD), member: value}
    with pytest.raises(Mismatch, match=says):
        Head.load(written(learnt, tmp_path / "head.safetensors", card={"giga": json.dumps(card)}))


def test_tensors_are_checked(learnt, tmp_path):
    file = tmp_path / "head.safetensors"
    for tensors, says in (
        ({"mean": None}, "holds bias, deviation, weights; a head holds mean"),
        ({"more": np.ones(1)}, "holds bias, deviation, mean, more"),
        ({"mean": np.zeros(7)}, r"mean is float64 \(7,\)"),
        ({"weights": np.zeros((2, 6), np.float32)}, "weights is float32"),
        ({"weights": np.zeros((1, 6), np.int32)}, "weights is int32"),
        ({"weights": np.zeros((1, 6))}, "weights are float64, bias is float32"),
        ({"deviation": np.zeros(6)}, "not positive"),
        ({"mean": np.full(6, np.inf)}, "mean holds values that are not numbers"),
    ):
        with pytest.raises(Mismatch, match=says):
            Head.load(written(learnt, file, **tensors))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_harmless(tmp_path_factory, at, by):
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    vectors = cohort(12)[0]
    head = head_of(LinearMap(np.zeros(6), np.ones(6), np.ones((1, 6)), np.zeros(1), "logistic"))
    head.save(file)
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= by
    file.write_bytes(data)
    try:
        read = Head.load(file)
    except GigaError:
        return
    assert read.map.predict(vectors).shape == (12, 2)


def test_numbers_of_a_kind_that_numpy_has_not_got(learnt, tmp_path):
    file = tmp_path / "head.safetensors"
    head_of(learnt).save(file)
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["weights"] = {**header["weights"], "dtype": "BF16", "shape": [1, 12]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(Mismatch, match="damaged"):
        Head.load(file)
