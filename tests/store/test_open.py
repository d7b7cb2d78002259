"""Stores: open, create, refuse, find."""

from pathlib import Path

import pytest
import zarr

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.address import find_store
from gigacli.store.layout import FORMAT, FORMAT_VERSION
from gigacli.store.store import Store, open_store


def test_what_is_created_can_be_opened(tmp_path):
    created = Store.create(tmp_path / "new.zarr")
    assert created.registered == 0
    assert len(created.slides) == 0
    assert open_store(tmp_path / "new.zarr").root.attrs["giga"]["format"] == FORMAT
    assert repr(created) == f"<giga store {tmp_path}/new.zarr: 0 slides>"


def test_a_store_that_is_open_is_opened_anew(store, table_of):
    assert store.registered == 3
    again = Store.open(store, write=True)
    assert again is not store
    assert (again.url, again.slides.ids) == (store.url, ["a", "b", "c"])
    assert again.tiles is not store.tiles
    again.write_slides(table_of("a", "b", "c", "d"))
    assert store.slides.ids == ["a", "b", "c", "d"]  # what a verb that was given the store wrote shows in it


def test_create_opens_what_is_there(tmp_path, table_of):
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(table_of("a", "b", "c"))
    assert Store.create(store.url).slides.ids == ["a", "b", "c"]


def test_create_takes_an_empty_folder_and_what_a_kill_left(tmp_path):
    (tmp_path / "zarr.0123.partial").write_text("half a document")
    assert Store.create(tmp_path).registered == 0


def test_a_store_in_memory(table_of):
    created = Store.create("memory://cohort.zarr")
    created.write_slides(table_of("a"))
    assert Store.open("memory://cohort.zarr").slides.ids == ["a"]
    with pytest.raises(NotFound, match="no store at"):
        Store.open("memory://elsewhere.zarr")


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound, match="there is no store at") as caught:
        Store.open(tmp_path / "none.zarr")
    assert "giga tile" in caught.value.hint


def refused(tmp_path, name):
    """A path that is no store of this version."""
    path = tmp_path / name
    if name == "file.zarr":
        path.write_text("text")
    elif name in ("folder.zarr", "foreign.zarr", "damaged.zarr"):
        path.mkdir()
        (path / {"damaged.zarr": "zarr.json"}.get(name, "notes.txt")).write_text("{not json")
    elif name == "array.zarr":
        zarr.create_array(path, shape=(3,), dtype="int32")
    elif name == "v2.zarr":
        zarr.open_group(path, mode="w", zarr_format=2)
    else:
        giga = {"format": FORMAT, "version": "9.9"} if name == "newer.zarr" else {"format": "anndata"}
        zarr.open_group(path, mode="w", zarr_format=3, attributes={"giga": giga} if name != "plain.zarr" else {})
    return path


NO_STORES = {
    "file.zarr": "is a file",
    "folder.zarr": "holds no zarr group",
    "damaged.zarr": "cannot be opened as a zarr group",
    "array.zarr": "cannot be opened as a zarr group",
    "v2.zarr": "holds no zarr group",
    "plain.zarr": "not a cohort store",
    "other.zarr": "not a cohort store",
    "newer.zarr": f"has format version 9.9; this giga reads {FORMAT_VERSION}",
}


@pytest.mark.parametrize("name", NO_STORES)
def test_what_is_no_store_is_refused_and_left_alone(tmp_path, name):
    path = refused(tmp_path, name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for opening in (Store.open, Store.create):
        with pytest.raises((Mismatch, InvalidInput), match=NO_STORES[name]) as caught:
            opening(path)
        assert caught.value.hint
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_url_that_leads_nowhere():
    with pytest.raises(Mismatch, match="cannot be opened"):
        Store.open("gibberish://cohort.zarr")


# ---------------------------------------------------------------------- which store


def test_find_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GIGA_STORE", raising=False)
    with pytest.raises(InvalidInput, match="there is none in this folder"):
        find_store()
    Path("b.zarr").mkdir()
    assert find_store() == "b.zarr"
    Path("a.zarr").mkdir()
    with pytest.raises(InvalidInput, match=r"several: a\.zarr, b\.zarr"):
        find_store()
    Path("cohort.zarr").mkdir()
    assert find_store() == "cohort.zarr"
    monkeypatch.setenv("GIGA_STORE", "s3://bucket/x.zarr")
    assert find_store() == "s3://bucket/x.zarr"
