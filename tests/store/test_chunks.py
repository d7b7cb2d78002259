"""Short cuts for folders of files: what is mapped or listed is what zarr reads."""

import gc
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec

from gigacli.store.chunk_rows import ChunkRows
from gigacli.store.chunks import write_only_chunk
from gigacli.store.shards import Chunks
from gigacli.store.store import Store
from gigacli.store.unpacked import read_column


def test_more_slides_than_files_may_be_open(tmp_path):
    array = zarr.create_array(tmp_path, shape=(120, 50, 2), chunks=(1, 50, 2), dtype="uint8", compressors=None)
    array[:] = np.arange(1, 121)[:, None, None]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * len(list(Path("/dev/fd").iterdir())) + 20, hard))
    try:
        rows = ChunkRows([Chunks(array).place((i, 0, 0)) for i in range(120)], (50, 2), array.dtype, checked=0)
        np.testing.assert_array_equal(rows[:], array[:])
        chunk, row = np.random.default_rng(0).integers(0, [[120], [50]], (2, 1000))
        np.testing.assert_array_equal(rows[chunk, row], array[:][chunk, row])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pages = Path("/proc/self/maps")
    if pages.exists():
        assert str(tmp_path) in pages.read_text()
        del rows
        gc.collect()
        assert str(tmp_path) not in pages.read_text()


@given(
    st.dictionaries(st.integers(0, 19), st.integers(-5, 5)), st.integers(1, 20), st.sampled_from([None, Crc32cCodec()])
)
@settings(max_examples=30)
def test_columns_are_what_zarr_reads(written, size, checksum):
    with TemporaryDirectory() as folder:
        array = zarr.create_array(folder, shape=(20,), chunks=(1,), dtype="int32", fill_value=-1, compressors=checksum)
        for i, value in written.items():
            array[i] = value
        array.resize((size,))
        Path(folder, "c").mkdir(exist_ok=True)
        Path(folder, "c", "3.abc.partial").write_bytes(b"left by a killed writer")
        column = read_column(array)
        assert column.dtype == np.int32
        np.testing.assert_array_equal(column, array[:])


def test_other_columns_are_read_by_zarr(tiny):
    store = Store.open(tiny)
    columns = [store.bank("moco").array("done"), store.tiles.array("count"), store.embedding("giga").array("done")]
    for array in (*columns, store.root["slides/mpp"]):
        np.testing.assert_array_equal(read_column(array), array[:])
    damaged = tiny / "banks/moco/done/c/0"
    sound = damaged.read_bytes()
    flipped = bytes([sound[0] ^ 1]) + sound[1:]
    for data in (b"1", flipped, sound[:-1] + bytes([sound[-1] ^ 1]), sound + b"1"):
        damaged.write_bytes(data)
        with pytest.raises(ValueError, match=r"checksum|expected at most"):
            read_column(columns[0])


@pytest.mark.parametrize("codecs", [[Crc32cCodec()], [], [ZstdCodec(), Crc32cCodec()]])
@pytest.mark.parametrize("data", [b"weights" * 1000, bytes(7)])
def test_a_file_is_stored_as_zarr_stores_it(tmp_path, codecs, data):
    def array(name):
        return zarr.create_array(
            tmp_path / name, shape=(len(data),), chunks=(len(data),), dtype="uint8", compressors=codecs, fill_value=0
        ).with_config({"write_empty_chunks": True})

    array("zarr")[:] = np.frombuffer(data, dtype=np.uint8)
    write_only_chunk(array("giga"), data)
    assert (tmp_path / "giga/c/0").read_bytes() == (tmp_path / "zarr/c/0").read_bytes()
    assert bytes(array_at(tmp_path / "giga")[:]) == data


def array_at(path):
    return zarr.open_array(path, mode="r")
