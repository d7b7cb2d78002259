"""Writes that are waited for: which folders, in which threads, and what happens when the disk fails."""

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import gigacli as giga
from gigacli.store import durable
from gigacli.store.durable import DurableStore
from gigacli.store.store import Store


@pytest.fixture
def waits(monkeypatch):
    """Paths that were waited for, in order: folders, and files under their temporary names."""
    paths = []
    monkeypatch.setattr(durable, "to_disk", lambda fd: paths.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    return paths


@pytest.fixture
def store(tmp_path):
    """A store in a folder that is there."""
    (tmp_path / "store").mkdir()
    return DurableStore(tmp_path / "store")


def put(store, key):
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(b"bytes")))


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds out paths as Linux tells them")


@linux
def test_a_file_is_waited_for_then_every_folder_that_leads_to_it(store, waits, tmp_path):
    put(store, "group/array/c/0")
    [file] = waits
    assert file.startswith(f"{tmp_path}/store/group/array/c/0.")
    assert file.endswith(".partial")
    store.settle()
    names = ("", "/store", "/store/group", "/store/group/array", "/store/group/array/c")
    assert sorted(waits[1:]) == [f"{tmp_path}{name}" for name in names]
    store.settle()
    assert len(waits) == 6  # nothing has changed since
    put(store, "group/array/c/1")
    store.settle()
    assert waits[7:] == [f"{tmp_path}/store/group/array/c"]


@linux
@pytest.mark.parametrize("key", ["group/array/c/0", "group/array/c/1"])
def test_a_removal_is_waited_for_even_of_what_is_not_there(key, store, waits, tmp_path):
    put(store, "group/array/c/0")
    store.settle()
    waits.clear()
    sync(store.delete(key))
    store.settle()
    assert waits == [f"{tmp_path}/store/group/array/c"]


@linux
def test_a_folder_that_was_removed_is_another_when_it_is_made_again(store, waits, tmp_path):
    put(store, "group/array/c/0")
    store.settle()
    sync(store.delete_dir("group"))
    put(store, "group/array/c/0")
    waits.clear()
    store.settle()
    assert f"{tmp_path}/store" in waits
    assert f"{tmp_path}/store/group/array" in waits


@linux
def test_the_first_wait_is_for_what_an_earlier_process_left(store, waits, tmp_path):
    for key in ("banks/c/zarr.json", "banks/c/vectors/zarr.json", "banks/c/vectors/c/0/0"):
        put(store, key)
    waits.clear()
    later = DurableStore(tmp_path / "store")
    later.settle()
    below = ("", "/banks", "/banks/c", "/banks/c/vectors", "/banks/c/vectors/c")
    assert sorted(waits) == [f"{tmp_path}/store{name}" for name in below]


def test_what_the_disk_refused_is_waited_for_again(store, monkeypatch):
    put(store, "array/c/0")
    calls = []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(5, "the disk is broken")

    monkeypatch.setattr(durable, "to_disk", failing)
    with pytest.raises(OSError, match="broken"):
        store.settle()
    calls.clear()
    monkeypatch.setattr(durable, "to_disk", calls.append)
    store.settle()
    assert len(calls) == 4  # the folder of the store, the store, the array, its chunks


def test_a_thread_waits_for_folders_that_another_one_is_waiting_for(store, monkeypatch):
    put(store, "array/c/0")
    begun, go_on, order = threading.Event(), threading.Event(), []

    def slow(_):
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(durable, "to_disk", slow)
    first = threading.Thread(target=lambda: (store.settle(), order.append("first")))
    second = threading.Thread(target=lambda: (store.settle(), order.append("second")))
    first.start()
    begun.wait(10)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(10)
    assert order == ["first", "second"]


def test_a_file_system_that_cannot_wait_for_folders_is_none_to_stop_at(store, monkeypatch):
    put(store, "array/c/0")

    def refusing(descriptor):
        raise OSError(22, "of a folder")

    monkeypatch.setattr(durable, "to_disk", refusing)
    store.settle()


@linux
def test_a_mark_comes_after_all_else_is_on_the_disk(store_at, waits):
    """Of a slide of a bank: its vectors, its numbers of tiles, then their folders, then the mark."""
    path = store_at("bank")
    bank = Store.open(path, write=True).bank("random-resnet18")
    bank.store.settle()
    waits.clear()
    vectors, tiles = bank.array("vectors")[1], bank.array("tile")[1]
    bank.write(1, vectors, tiles, made=np.ones(tiles.shape, dtype=bool))
    seen = [wait.removeprefix(str(bank.store.root.store.root / bank.path)) for wait in waits]
    mark = next(i for i, wait in enumerate(seen) if wait.startswith("/done/c/1."))
    assert mark == len(seen) - 1
    assert {"/vectors/c/1/0/0", "/tile/c/1/0"} <= set(seen[:mark])


def test_a_store_can_be_sent_to_another_process(store):
    store.unsettled.waits = False
    other = pickle.loads(pickle.dumps(store))
    assert (other.root, other.unsettled.waits) == (store.root, False)
    put(other, "array/c/0")
    assert sync(store.exists("array/c/0"))


def test_those_who_do_not_care_wait_for_nothing(cohort, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(durable, "to_disk", waits.append)
    slides = sorted(cohort.slides.glob("*.tif"))[:1]
    giga.tile(tmp_path / "fast.zarr", slides, tile_px=64, sync=False)
    assert waits == []
    giga.tile(tmp_path / "safe.zarr", slides, tile_px=64)
    assert waits
