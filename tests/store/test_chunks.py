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
from zarr.codecs import Crc32cCodec

from gigacli.store.chunks import map_files, read_column
from gigacli.store.store import Store


def test_more_slides_than_files_may_be_open(tmp_path):
    """What a mapping holds is not a file descriptor."""
    files = []
    for i in range(120):
        files.append(tmp_path / str(i))
        files[-1].write_bytes(bytes([i]) * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        mapped = map_files(files, size=100)
        assert (mapped == np.arange(120, dtype=np.uint8)[:, None]).all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for file in files:
        file.unlink()  # what is mapped stays
    assert mapped[119, 99] == 119
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1


def test_a_mapping_goes_with_its_last_array(tmp_path):
    file = tmp_path / "chunk"
    file.write_bytes(b"7" * 10_000)
    row = map_files([file], size=10_000)[0]
    gc.collect()
    assert row[9_999] == ord("7")  # a view keeps it
    pages = Path("/proc/self/maps")
    if pages.exists():
        assert str(file) in pages.read_text()
        del row
        gc.collect()
        assert str(file) not in pages.read_text()


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
