"""The local copy of a remote bank: whole, checked, and gone with the process."""

import gc
import signal
import subprocess
import sys
import uuid
from collections import namedtuple
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.progress import SILENT
from gigacli.store import local_copy
from gigacli.store.local_copy import cache_folder, stage
from gigacli.store.shards import Chunks
from gigacli.store.store import Store


@pytest.fixture
def array():
    """40 chunks of 6 float16 in memory, three of them never written."""
    made = zarr.create_array(
        f"memory://{uuid.uuid4()}.zarr", shape=(40, 2, 3), chunks=(1, 2, 3), dtype="float16", compressors=None
    )
    made[:37] = np.arange(37 * 6).reshape(37, 2, 3)
    return made


def staged(array, rows, folder):
    return stage(places(array, rows), size=12, checked=0, folder=folder, progress=SILENT).view(np.float16)


def places(array, rows):
    return [Chunks(array).place((row, 0, 0)) for row in rows]


@pytest.mark.parametrize("rows", [[], [5], list(range(37)), [36, 0, 3]])
def test_the_copy_is_what_was_there(array, tmp_path, rows):
    copy = staged(array, rows, tmp_path)
    np.testing.assert_array_equal(copy, array[:][rows].reshape(len(rows), 6))
    assert list(tmp_path.iterdir()) == []


def test_it_is_read_only_and_frees_its_space(array, tmp_path):
    copy = staged(array, range(37), tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        copy[0, 0] = 1
    row = copy[36]
    del copy
    gc.collect()
    assert row[0] == 36 * 6
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path) in maps.read_text()
        del row
        gc.collect()
        assert str(tmp_path) not in maps.read_text()


def test_a_process_that_is_killed_leaves_nothing(tmp_path):
    code = (
        "import sys, zarr, time; from gigacli.store.local_copy import stage; from gigacli.progress import SILENT\n"
        "from pathlib import Path; from gigacli.store.shards import Chunks\n"
        "a = zarr.create_array('memory://k.zarr', shape=(9, 4), chunks=(1, 4), dtype='uint8', compressors=None)\n"
        "a[:] = 1\n"
        "places = [Chunks(a).place((i, 0)) for i in range(9)]\n"
        "copy = stage(places, size=4, checked=0, folder=Path(sys.argv[1]), progress=SILENT)\n"
        "print(copy.sum(), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"36"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_chunk_is_named(array, tmp_path):
    with pytest.raises(Mismatch, match="c/38/0/0 is missing"):
        staged(array, [1, 38], tmp_path)
    with pytest.raises(Mismatch, match="has 12 bytes, expected 13"):
        stage(places(array, [1]), size=13, checked=0, folder=tmp_path, progress=SILENT)


def test_no_room_is_noticed_before_anything_is_copied(array, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda _: usage(2**40, 2**40, local_copy.SPARE_BYTES + 100))
    assert len(staged(array, [1, 2], tmp_path)) == 2
    monkeypatch.setattr(local_copy, "sync", lambda _: pytest.fail("something was copied"))
    with pytest.raises(
        InvalidInput, match=r"has no room for a copy of the bank, 0\.0 GiB: 0\.3 GiB are free"
    ) as caught:
        staged(array, range(9), tmp_path)
    assert "`cache`" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_disk_that_fills_up_says_so(array, tmp_path, monkeypatch):
    monkeypatch.setattr(local_copy.tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(InvalidInput, match=r"has no room .* No space left"):
        staged(array, range(3), tmp_path)


def test_where_copies_go(tmp_path, monkeypatch):
    monkeypatch.delenv("GIGA_CACHE", raising=False)
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None).is_dir()
    monkeypatch.setenv("GIGA_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path
    with pytest.raises(NotFound, match=r"the cache .*none is not a folder"):
        cache_folder(tmp_path / "none")


def test_a_remote_bank_is_copied_when_it_is_first_used(maker, tmp_path, monkeypatch):
    store = Store.create(f"memory://{uuid.uuid4()}.zarr")
    maker.fill(store)
    monkeypatch.setenv("GIGA_CACHE", str(tmp_path / "none"))
    mapped = store.bank("moco").mapped()  # nothing is copied yet
    with pytest.raises(NotFound):
        mapped.load()
    mapped.load(cache=tmp_path)
    np.testing.assert_array_equal(mapped.vectors.reshape(2, 2, 3, 8), store.bank("moco").array("vectors")[:2])
    first = mapped.vectors
    mapped.load()
    assert mapped.vectors is first


def test_a_flipped_bit_of_a_remote_bank_is_refused(maker, tmp_path):
    name = f"{uuid.uuid4()}.zarr"
    store = Store.create(f"memory://{name}")
    maker.fill(store)
    files, chunk = fsspec.filesystem("memory"), f"/{name}/banks/moco/vectors/c/1/0/0/0"
    data = files.cat_file(chunk)
    files.pipe_file(chunk, bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Mismatch, match="c/1/0/0/0 is not what its checksum says"):
        store.bank("moco").mapped().load(cache=tmp_path)


def test_a_compressed_bank_is_refused(maker):
    store = Store.create(f"memory://{uuid.uuid4()}.zarr")
    maker.fill(store)
    del store.root["banks/moco/vectors"]
    store.root.create_array("banks/moco/vectors", shape=(4, 2, 3, 8), chunks=(1, 2, 3, 8), dtype="float16")
    with pytest.raises(Mismatch, match="banks/moco/vectors is compressed"):
        Store.open(store).bank("moco").mapped()
