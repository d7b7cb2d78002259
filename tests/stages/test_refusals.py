"""Every stage refuses a store of the wrong kind or version, and one without its inputs, and names what to do."""

import pytest
import zarr

import gigacli as giga
from gigacli.errors import GigaError, Mismatch, NotFound
from gigacli.store.store import Store

CALLS = {
    "tile": lambda path, labels: giga.tile(path),
    "pretrain-tiles": lambda path, labels: giga.pretrain_tiles(path),
    "bank": lambda path, labels: giga.bank(path, encoder="random-resnet18"),
    "train": lambda path, labels: giga.train(path),
    "embed": lambda path, labels: giga.embed(path),
    "probe": lambda path, labels: giga.probe(path, labels),
}
NEEDS = {
    "tile": "giga tile",
    "pretrain-tiles": "giga tile",
    "bank": "giga tile",
    "train": "giga bank",
    "embed": "giga train",
    "probe": "giga embed",
}


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,label\na,x\nb,y\n")
    return path


@pytest.mark.parametrize("verb", CALLS)
def test_another_kind_of_zarr(verb, tmp_path, labels):
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("x", shape=(3,), dtype="int32")
    with pytest.raises(Mismatch, match="not a cohort store"):
        CALLS[verb](tmp_path / "other.zarr", labels)


@pytest.mark.parametrize("verb", CALLS)
def test_another_version(verb, tmp_path, labels):
    store = Store.create(tmp_path / "future.zarr")
    store.root.attrs["giga"] = {**store.root.attrs["giga"], "version": "9.0"}
    with pytest.raises(Mismatch, match=r"version 9\.0.*reads 0\.2"):
        CALLS[verb](tmp_path / "future.zarr", labels)


@pytest.mark.parametrize("verb", CALLS)
def test_missing_inputs_name_the_command(verb, tmp_path, labels):
    Store.create(tmp_path / "empty.zarr")
    with pytest.raises(NotFound) as raised:
        CALLS[verb](tmp_path / "empty.zarr", labels)
    assert NEEDS[verb] in raised.value.hint


@pytest.mark.parametrize("verb", CALLS)
def test_no_store(verb, tmp_path, labels):
    with pytest.raises(NotFound, match="no store"):
        CALLS[verb](tmp_path / "none.zarr", labels)
    assert not (tmp_path / "none.zarr").exists()


@pytest.mark.parametrize("verb", CALLS)
def test_unknown_options(verb, tmp_path, labels):
    call = {
        "tile": lambda: giga.tile(tmp_path / "a.zarr", colour=1),
        "pretrain-tiles": lambda: giga.pretrain_tiles(tmp_path / "a.zarr", colour=1),
        "bank": lambda: giga.bank(tmp_path / "a.zarr", colour=1),
        "train": lambda: giga.train(tmp_path / "a.zarr", colour=1),
        "embed": lambda: giga.embed(tmp_path / "a.zarr", colour=1),
        "probe": lambda: giga.probe(tmp_path / "a.zarr", labels, colour=1),
    }[verb]
    with pytest.raises(GigaError, match="colour"):
        call()
