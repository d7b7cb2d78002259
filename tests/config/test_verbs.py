"""Configurations: one source of defaults, help, validation and recipe."""

import inspect
import json
import re
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.config import bank, probe, tools, verbs
from gigacli.config.bank import OPERATORS_ONLY, BankConfig
from gigacli.config.base import Config, fingerprint, kinds_of, parse_shard
from gigacli.config.probe import ProbeConfig
from gigacli.config.tools import (
    CopyConfig,
    DemoConfig,
    DoctorConfig,
    EncodersConfig,
    ExportConfig,
    ImportConfig,
    InfoConfig,
    PackConfig,
    PredictConfig,
    ReportConfig,
    SearchConfig,
    TileMapConfig,
    ValidateConfig,
    ViewConfig,
)
from gigacli.config.verbs import OF_SPARSE, EmbedConfig, PretrainTilesConfig, TileConfig, TrainConfig
from gigacli.errors import InvalidInput

CONFIGS = [
    *(TileConfig, PretrainTilesConfig, BankConfig, TrainConfig, EmbedConfig, ProbeConfig),
    *(InfoConfig, ValidateConfig, PackConfig, CopyConfig, ExportConfig, ImportConfig, ReportConfig, TileMapConfig),
    *(SearchConfig, PredictConfig, EncodersConfig, DoctorConfig, DemoConfig, ViewConfig),
]
FIELDS = [(cls, f) for cls in CONFIGS for f in fields(cls)]

# A value of every field that is allowed and is not the default.
ANOTHER = {
    "slide": ("a",),
    "task": "regression",
    "time": "months",
    "event": "died",
    "shots": (10,),
    "wide": True,
    "aggregator": "mean",
    "allow_missing": True,
    "augmentations": 3,
    "bank": "b",
    "blocks": 3,
    "cache_gb": 5.0,
    "labels": Path("labels.csv"),
    "batch_size": 17,
    "c": "auto",
    "cache": Path("scratch"),
    "compile": "yes",
    "csv": Path("slides.csv"),
    "dask": "tcp://127.0.0.1:8786",
    "read_timeout": 5.0,
    "coords": (Path("patches"),),
    "tiling": "tiles",
    "patches": Path("pictures"),
    "device": "cpu",
    "draws": 9,
    "embedding": ("giga",),
    "encoder": "random-resnet18",
    "epochs": 2,
    "features": "f",
    "folds": 3,
    "fraction": (0.25,),
    "group": "none",
    "independent": True,
    "stain": 0.1,
    "held_out": 2,
    "closed_form": False,
    "here": True,
    "init": "weights.pth",
    "weights": Path("weights"),
    "lr": 0.002,
    "mag": 10.0,
    "max_slides": 5,
    "max_tiles": 50,
    "min_tissue": 0.1,
    "model": "m",
    "momentum": 0.9,
    "hash": True,
    "join": False,
    "augmented": 2,
    "robust": True,
    "site": "lab",
    "split_column": "side",
    "harmonise": ("combat",),
    "permutations": 200,
    "mode": "operators",
    "sets": 9,
    "calibration_tiles": 500,
    "rank": 16,
    "residuals": "yes",
    "mpp": 0.5,
    "n_train": (50,),
    "name": "other",
    "overlap": 32,
    "plan": True,
    "qc": Path("pictures"),
    "slide_root": Path("archive"),
    "strict": True,
    "steps": 600,
    "stride": 1,
    "upsample": True,
    "precision": "fp32",
    "queue": 128,
    "redo": True,
    "seed": 1,
    "shard": "2/8",
    "slide_aug": False,
    "slide_mpp": 0.25,
    "splits": Path("splits"),
    "stale": True,
    "target": ("subtype",),
    "method": ("abmil",),
    "level": "patient",
    "baseline": "mean-x",
    "converged": True,
    "out": Path("report"),
    "save": Path("head.safetensors"),
    "test": "other.zarr",
    "test_labels": Path("other.csv"),
    "temperature": 0.3,
    "tile_px": 128,
    "sync": False,
    "tiles": 25,
    "standardise": False,
    "whiten": False,
    "whitening": "augmentations",
    "warmup": 0.1,
    "preset": "paper",
    "exclude": Path("test.csv"),
    "sparse_backend": "torch",
    "log_dir": Path("runs"),
    "tracker": "mlflow",
    "scale": 0.25,
    "seeds": 3,
    "views": 17,
    "workers": 1,
    "format": "csv",
    "positive": "tumour",
    "k": 7,
    "image": Path("alike.png"),
    "quick": True,
    "self_test": False,
    "slides": True,
    "thumbnails": 5,
    "port": 8000,
    "browser": True,
}


def another(cls, name):
    own = {
        (TrainConfig, "aggregator"): "mlp",
        (ValidateConfig, "level"): "hierarchy",
        (EmbedConfig, "join"): ("a", "b"),
        (EmbedConfig, "precision"): "bf16",
    }
    return own.get((cls, name), ANOTHER[name])


def test_every_configuration_is_listed_here():
    members = [cls for module in (bank, probe, verbs, tools) for _, cls in inspect.getmembers(module, inspect.isclass)]
    assert {cls for cls in members if issubclass(cls, Config) and cls is not Config} == set(CONFIGS)


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{c.__name__}.{f.name}" for c, f in FIELDS])
def test_every_field_has_a_default_a_help_and_a_place(cls, field):
    assert field.default is not MISSING
    assert re.fullmatch(r"\S.{8,}[.:]", field.metadata["help"])
    assert isinstance(field.metadata["result"], bool)
    assert re.fullmatch(r"(-[A-Za-z]|--[a-z-]+)?", field.metadata["flag"])


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{c.__name__}.{f.name}" for c, f in FIELDS])
def test_the_recipe_holds_what_decides_the_result_and_nothing_else(cls, field):
    of_mode = {"mode": "operators"} if cls is BankConfig and field.name in OPERATORS_ONLY else {}
    of_mode |= {"name": "ab"} if cls is EmbedConfig and field.name == "join" else {}
    of_mode |= {"coords": ("files",)} if cls is TileConfig and field.name == "tiling" else {}
    of_mode |= {"aggregator": "sparse-resnet"} if cls is TrainConfig and field.name in OF_SPARSE else {}
    changed, default = cls(**of_mode, **{field.name: another(cls, field.name)}), cls(**of_mode)
    assert getattr(changed, field.name) == another(cls, field.name) != field.default
    assert (field.name in changed.recipe()) is field.metadata["result"]
    assert (changed.recipe() != default.recipe()) is field.metadata["result"]
    assert (fingerprint(changed.recipe()) != fingerprint(default.recipe())) is field.metadata["result"]


@pytest.mark.parametrize("name", ["workers", "shard", "device", "redo", "plan", "csv"])
def test_how_the_work_is_split_is_never_in_a_recipe(name):
    assert not any(f.metadata["result"] for _, f in FIELDS if f.name == name)


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_configuration_is_made_once(cls):
    with pytest.raises(FrozenInstanceError):
        cls().seed = 3


@pytest.mark.parametrize("cls", CONFIGS)
def test_an_unknown_option_is_answered_with_the_known_ones(cls):
    with pytest.raises(InvalidInput, match="unknown option colour, tile_pixels") as caught:
        cls.of({"tile_pixels": 256, "colour": 1})
    for field in fields(cls):
        assert field.name in caught.value.hint
    assert cls.of({}) == cls()


# (configuration, options, what the message must hold)
REFUSED = [
    (TileConfig, {"mpp": 0}, ["`mpp` is 0", "0.08 and 64"]),
    (TileConfig, {"mpp": 0.01}, ["`mpp` is 0.01", "0.08 and 64"]),
    (TileConfig, {"mpp": 100}, ["`mpp` is 100", "0.08 and 64"]),
    (TileConfig, {"mpp": float("nan")}, ["`mpp` is nan"]),
    (TileConfig, {"mag": 0}, ["`mag` is 0", "0.15625 and 125"]),
    (TileConfig, {"mag": 400}, ["`mpp` is 0.025"]),
    (TileConfig, {"tile_px": 15}, ["`tile_px` is 15", "16 and 8192"]),
    (TileConfig, {"tile_px": 8193}, ["`tile_px` is 8193"]),
    (TileConfig, {"overlap": -1}, ["`overlap` is -1", "0 and 8191"]),
    (TileConfig, {"overlap": 64, "tile_px": 64}, ["`overlap` is 64", "less than 64"]),
    (TileConfig, {"min_tissue": 1.01}, ["`min_tissue` is 1.01", "0 and 1"]),
    (TileConfig, {"workers": 0}, ["`workers` is 0"]),
    (TileConfig, {"shard": "9/8"}, ["`shard` is '9/8'", "2/8"]),
    (PretrainTilesConfig, {"epochs": 0}, ["`epochs` is 0"]),
    (PretrainTilesConfig, {"max_slides": 0}, ["`max_slides` is 0"]),
    (PretrainTilesConfig, {"lr": 0.0}, ["`lr` is 0.0"]),
    (PretrainTilesConfig, {"lr": float("inf")}, ["`lr` is inf"]),
    (PretrainTilesConfig, {"queue": 0}, ["`queue` is 0"]),
    (PretrainTilesConfig, {"temperature": 0}, ["`temperature` is 0"]),
    (PretrainTilesConfig, {"momentum": 1.5}, ["`momentum` is 1.5", "0 and 1"]),
    (PretrainTilesConfig, {"precision": "fp8"}, ["`precision` is 'fp8'"]),
    (PretrainTilesConfig, {"batch_size": 2}, ["`batch_size` is 2", "3 and 65536"]),
    (PretrainTilesConfig, {"cache_gb": -1}, ["`cache_gb` is -1"]),
    (PretrainTilesConfig, {"name": "my encoder"}, ["`name` is 'my encoder'", "letters"]),
    (BankConfig, {"augmentations": 0}, ["`augmentations` is 0"]),
    (BankConfig, {"draws": 0}, ["`draws` is 0"]),
    (BankConfig, {"batch_size": 0}, ["`batch_size` is 0"]),
    (BankConfig, {"precision": "fp16"}, ["`precision` is 'fp16'", "auto, bf16, fp32"]),
    (BankConfig, {"name": "../bank"}, ["`name` is '../bank'"]),
    (BankConfig, {"shard": "0/4"}, ["`shard` is '0/4'"]),
    (TrainConfig, {"tiles": 0}, ["`tiles` is 0"]),
    (TrainConfig, {"epochs": -3}, ["`epochs` is -3"]),
    (TrainConfig, {"lr": float("nan")}, ["`lr` is nan"]),
    (TrainConfig, {"temperature": -0.1}, ["`temperature` is -0.1"]),
    (TrainConfig, {"batch_size": 1}, ["`batch_size` is 1"]),
    (TrainConfig, {"name": ""}, ["`name` is ''"]),
    (TrainConfig, {"blocks": 0}, ["`blocks` is 0", "1 and 16"]),
    (TrainConfig, {"stride": 3}, ["`stride` is 3", "between 1 and 2"]),
    (TrainConfig, {"stride": 1, "aggregator": "mlp"}, ["`aggregator` mlp", "for `stride` 1"]),
    (TrainConfig, {"sparse_backend": "torch", "aggregator": "mlp"}, ["`aggregator` mlp", "`sparse_backend` torch"]),
    (TrainConfig, {"blocks": 3, "aggregator": "attention"}, ["`aggregator` attention", "for `blocks` 3"]),
    (EmbedConfig, {"views": 0}, ["`views` is 0"]),
    (EmbedConfig, {"aggregator": "max"}, ["`aggregator` is 'max'", "model, mean, random-init"]),
    (EmbedConfig, {"name": ".hidden"}, ["`name` is '.hidden'"]),
    (ProbeConfig, {"folds": 1}, ["`folds` is 1", "2 and 1000"]),
    (ProbeConfig, {"group": "slide"}, ["`group` is 'slide'", "patient, site, none"]),
    (ProbeConfig, {"level": "tile"}, ["`level` is 'tile'", "slide, patient"]),
    (ProbeConfig, {"method": ("linear", "svm")}, ["`method` is 'svm'", "linear, coxnet, abmil, mlp, knn, simpleshot"]),
    (ProbeConfig, {"fraction": (0.5, 0.0)}, ["`fraction` is 0.0"]),
    (ProbeConfig, {"fraction": (25,)}, ["`fraction` is 25"]),
    (ProbeConfig, {"n_train": (50, 1)}, ["`n_train` is 1", "2 and 1000000000"]),
    (ProbeConfig, {"c": "much"}, ["`c` is 'much'", "auto"]),
    (ProbeConfig, {"c": "0"}, ["`c` is '0'"]),
    (ProbeConfig, {"c": "nan"}, ["`c` is 'nan'"]),
    (ProbeConfig, {"method": ()}, ["`method` names none"]),
    (BankConfig, {"compile": None}, ["`compile` is None", "auto, yes, no"]),
    (ExportConfig, {"format": "xlsx"}, ["`format` is 'xlsx'", "npy, csv, parquet"]),
    (ImportConfig, {"mpp": 0}, ["`mpp` is 0"]),
    (ReportConfig, {"fraction": [0.5, 2.0]}, ["`fraction` is 2.0"]),
    (ReportConfig, {"thumbnails": -1}, ["`thumbnails` is -1"]),
]


NUMBERS = [(cls, f) for cls, f in FIELDS if kinds_of(cls)[f.name] in (int, float, tuple[int, ...], tuple[float, ...])]
NO_NUMBERS = ["1", True, float("nan"), float("inf"), -float("inf"), 10**40, -(10**40), -1, [None], 1e-300]


@pytest.mark.parametrize(("cls", "field"), NUMBERS, ids=[f"{c.__name__}.{f.name}" for c, f in NUMBERS])
def test_every_number_has_limits_and_what_is_none_is_refused(cls, field):
    low, high = field.metadata["limits"]
    assert -1 < low < high < 1e13
    for value in NO_NUMBERS if low > 0 else NO_NUMBERS[:-1]:
        with pytest.raises(InvalidInput, match=f"`{field.name}` is |`mpp` is "):
            cls.of({field.name: value})
    number = np.int64(low) if isinstance(low, int) else np.float64(low)
    if (cls, field.name) != (TileConfig, "mag"):
        json.dumps(cls.of({field.name: number}).recipe())


@pytest.mark.parametrize(
    ("cls", "options", "expected"), REFUSED, ids=[f"{c.__name__}-{next(iter(o.items()))}" for c, o, _ in REFUSED]
)
def test_what_cannot_be_is_refused_with_its_value(cls, options, expected):
    with pytest.raises(InvalidInput) as caught:
        cls.of(options)
    for text in expected:
        assert text in caught.value.message


ALLOWED = [
    (TileConfig, {"mpp": 0.08, "min_tissue": 0, "tile_px": 16, "overlap": 15, "workers": 1}),
    (TileConfig, {"mpp": 64, "min_tissue": 1, "tile_px": 8192}),
    (PretrainTilesConfig, {"momentum": 0, "batch_size": 3, "queue": 1, "name": "A-1_b.c"}),
    (PretrainTilesConfig, {"momentum": 1, "batch_size": 65536, "name": "a" * 80}),
    (ProbeConfig, {"fraction": (1,), "n_train": (2,), "folds": 2, "c": "1e-3"}),
]


@pytest.mark.parametrize(("cls", "options"), ALLOWED)
def test_what_lies_on_the_edge_is_allowed(cls, options):
    made = cls.of(options)
    assert {name: getattr(made, name) for name in options} == options


# Magnification.


@pytest.mark.parametrize(("mag", "mpp"), [(10, 1.0), (20, 0.5), (40, 0.25), (5, 2.0), (30, 1 / 3)])
def test_a_magnification_is_a_resolution(mag, mpp):
    made = TileConfig(mag=mag)
    assert made.mpp == pytest.approx(mpp)
    assert made.recipe() == TileConfig(mpp=10 / mag).recipe()
    assert TileConfig(mag=mag, mpp=10 / mag) == made


@pytest.mark.parametrize("mpp", [0.25, 1.0])
def test_a_magnification_that_contradicts_the_resolution_is_refused(mpp):
    with pytest.raises(InvalidInput, match=rf"`mag` 20 means `mpp` 0\.5, but `mpp` is {mpp:g}"):
        TileConfig.of({"mag": 20.0, "mpp": mpp})


# Following an earlier run.


EARLIER = TileConfig(mpp=0.5, tile_px=64, overlap=8).recipe()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"mpp": 0.5, "tile_px": 64, "overlap": 8}),
        ({"shard": "2/8"}, {"mpp": 0.5, "tile_px": 64, "shard": "2/8"}),
        ({"tile_px": 256}, {"mpp": 0.5, "tile_px": 256, "overlap": 8}),  # the default, but asked for
        ({"mag": 5}, {"mpp": 2.0, "mag": 5, "tile_px": 64}),
        ({"mag": None}, {"mpp": 0.5, "tile_px": 64}),
        ({"redo": True}, {"mpp": 0.5, "tile_px": 64, "overlap": 8}),
    ],
    ids=str,
)
def test_what_is_left_out_is_as_the_earlier_run_had_it(options, expected):
    followed = TileConfig.of(options).following(EARLIER)
    assert {name: getattr(followed, name) for name in expected} == expected


def test_without_an_earlier_run_there_is_nothing_to_follow():
    assert TileConfig(overlap=3).following(None) == TileConfig(overlap=3)


def test_only_what_decides_the_result_is_followed():
    earlier = {**BankConfig(draws=9).recipe(), "encoder": "another", "workers": 64, "of_a_later_release": 1}
    followed = BankConfig().following(earlier)
    assert followed == BankConfig(draws=9, mode="tiles", held_out=0)


def test_what_is_followed_is_checked_like_anything_else():
    with pytest.raises(InvalidInput, match="`overlap` is 100"):
        TileConfig.of({"overlap": 100}).following(EARLIER)


# What comes from Python instead of a shell.


@pytest.mark.parametrize("value", [1, 1.0, np.float64(1), np.float32(1)])
def test_whole_numbers_are_the_floats_they_stand_for(value):
    assert fingerprint(TileConfig(mpp=value).recipe()) == fingerprint(TileConfig(mpp=1.0).recipe())


def test_paths_may_be_text():
    assert TileConfig(csv="slides.csv").csv == Path("slides.csv")
    assert ProbeConfig(splits="splits").splits == Path("splits")


def test_repeatable_options_may_be_one_value_or_a_list():
    made = ProbeConfig(embedding="giga", fraction=0.25, n_train=[50, 100])
    assert (made.embedding, made.fraction, made.n_train) == (("giga",), (0.25,), (50, 100))
    assert hash(made) == hash(ProbeConfig(embedding=("giga",), fraction=(0.25,), n_train=(50, 100)))


@pytest.mark.parametrize(("c", "expected"), [("10", 10.0), ("1e-3", 0.001), ("auto", "auto"), (2, 2.0)])
def test_c_is_a_number_or_auto(c, expected):
    assert ProbeConfig(c=c).c_value == expected


def test_recipes_are_json():
    recipe = ProbeConfig(splits="splits", fraction=(0.1, 0.5)).recipe()
    assert recipe["splits"] == "splits"
    assert recipe["fraction"] == [0.1, 0.5]


# Shards.


@pytest.mark.parametrize(
    ("text", "expected"), [(None, (0, 1)), ("1/1", (0, 1)), ("1/8", (0, 8)), ("8/8", (7, 8)), ("03/10", (2, 10))]
)
def test_a_shard_is_a_part_of_a_whole(text, expected):
    assert parse_shard(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0/8", "9/8", "1/0", "0/0", "-1/8", "1/-8", "1.5/8", "1", "1/", "/8", "a/b", " 1/8", "1/8 ", "1/8\n"]
)
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        parse_shard(text)
    assert repr(text) in caught.value.message


@given(st.integers(1, 10_000), st.data())
@settings(max_examples=50, deadline=None)
def test_shards_of_n_are_the_numbers_below_n(n, data):
    i = data.draw(st.integers(1, n))
    assert parse_shard(f"{i}/{n}") == (i - 1, n)


# Fingerprints.

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8"))
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters(codec="utf-8")), inner)),
    max_leaves=8,
)


def test_the_fingerprint_of_one_value_is_fixed():
    """Written down once: stores hold fingerprints made by other releases."""
    assert (
        fingerprint({"mpp": 1.0, "tile_px": 256, "name": "µm", "list": [1, None, True]})
        == "c7618c2e724b5ca31a456176be3d5eba"
    )


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_order_of_keys_does_not_matter(value):
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)
    assert re.fullmatch("[0-9a-f]{32}", fingerprint(value))


def test_other_values_have_other_fingerprints():
    values = [
        {},
        [],
        None,
        "",
        0,
        False,
        1,
        1.5,
        "1",
        [1],
        {"a": 1},
        {"a": [1]},
        {"a": "1"},
        {"b": 1},
        {"a": 1, "b": 1},
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_a_column_of_labels_needs_a_table_of_labels():
    with pytest.raises(InvalidInput, match="`target` is 'lab' without `labels`"):
        PretrainTilesConfig.of({"target": "lab"})
    assert PretrainTilesConfig.of({"target": "lab", "labels": "labels.csv"}).labels == Path("labels.csv")
