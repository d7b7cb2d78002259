"""Vectors of one kind are told from others, by the recipes of what they were made from."""

from dataclasses import replace

import numpy as np
import pytest

import gigacli as giga
from gigacli.probing.head_card import VectorKind
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.weights.vector_kind import kind_of, same_kind

KIND = VectorKind(
    aggregator="model",
    width=512,
    model="giga",
    learnt="a" * 64,
    start=None,
    blocks={"encoder": (0, 256), "view-whitened": (256, 512)},
    encoder="uni",
    encoder_sha256="b" * 64,
    mpp=1.0,
    tile_px=256,
)
WEIGHTS = "(weights bbbbbbbbbbbb)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"model": "mine", "encoder": "our-uni", "mpp": 1.009}, []),
        ({"mpp": 0.5}, ["tiles: found 256 px at 0.5 µm per px, expected 256 px at 1 µm per px"]),
        ({"tile_px": 224}, ["tiles: found 224 px at 1 µm per px, expected 256 px at 1 µm per px"]),
        ({"mpp": None, "tile_px": None}, ["tiles: found not known, expected 256 px at 1 µm per px"]),
        ({"encoder_sha256": "c" * 64}, [f"tile encoder: found 'uni' (weights cccccccccccc), expected 'uni' {WEIGHTS}"]),
        ({"encoder_sha256": ""}, [f"tile encoder: found 'uni' (weights not known), expected 'uni' {WEIGHTS}"]),
        ({"encoder": "", "encoder_sha256": ""}, [f"tile encoder: found not known, expected 'uni' {WEIGHTS}"]),
        (
            {"learnt": "c" * 64},
            ["vectors: found model 'giga' (weights cccccccccccc), expected model 'giga' (weights aaaaaaaaaaaa)"],
        ),
        (
            {"start": 3},
            ["vectors: found model 'giga' (weights aaaaaaaaaaaa, started at random from seed 3), expected"],
        ),
        ({"blocks": {}}, ["join: found none, expected encoder 0:256, view-whitened 256:512"]),
        ({"width": 8}, ["values of a vector: found 8, expected 512"]),
    ],
)
def test_every_difference_is_said(changes, said):
    found = same_kind(replace(KIND, **changes), KIND)
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def test_other_forms_differ_in_all_that_they_are():
    mean = replace(KIND, aggregator="mean", model="", learnt="", blocks={}, width=256)
    assert same_kind(mean, KIND) == ["vectors: found mean, expected model 'giga' (weights aaaaaaaaaaaa)"]
    form = replace(mean, aggregator="whitened-mean", learnt="d" * 64)
    [line] = same_kind(replace(form, learnt="e" * 64), form)
    assert line == (
        "vectors: found whitened-mean fitted on slides of its own (eeeeeeeeeeee), expected whitened-mean fitted on "
        "slides of its own (dddddddddddd)"
    )
    unhashed = replace(mean, encoder_sha256="")
    assert same_kind(unhashed, unhashed) == []
    assert len(same_kind(replace(unhashed, encoder="conch"), unhashed)) == 1


def test_the_kind_of_what_a_store_holds(chain):
    store = giga.open(chain("embed"))
    kinds = {one: kind_of(store.embedding(one)) for one in ("giga", "mean-random-resnet18")}
    ours = kinds["giga"]
    encoder = store.bank("random-resnet18").recipe.inputs["encoder"]
    assert (ours.aggregator, ours.model, ours.learnt) == ("model", "giga", store.model("giga").sha256)
    assert (ours.encoder, ours.encoder_sha256, ours.mpp, ours.tile_px) == ("random-resnet18", encoder, 1.0, 64)
    assert (ours.width, ours.blocks, ours.start) == (256, {}, None)
    mean = kinds["mean-random-resnet18"]
    assert mean == replace(ours, aggregator="mean", width=256, model="", learnt="")
    assert len({one.learnt for one in (ours, mean, kind_of(store.embedding("whitened-mean-random-resnet18")))}) == 3


def test_vectors_of_another_tool_are_known_by_their_encoder(tmp_path):
    def imported(name, encoder):
        store = Store.create(tmp_path / f"{name}.zarr")
        recipe = Recipe("import", {"aggregator": "import", "encoder": encoder, "tool": "trident"}, {})
        store.embedding(name).begin(recipe, 4, redo=False)
        return store.embedding(name)

    titan, other = imported("titan", "titan"), imported("other", "titan")
    assert kind_of(titan).encoder == "titan"
    assert same_kind(titan, other) == []
    assert same_kind(imported("prism", "prism"), titan) == [
        "tile encoder: found 'prism' (weights not known), expected 'titan' (weights not known)"
    ]
    assert np.isnan(titan.read()).all()
