"""The bank as training reads it: mapped files and zarr's own reading give the same."""

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

from gigacli.errors import Mismatch, NotFound
from gigacli.store.bank import BankReader, FeatureReader, tile_grid_of
from gigacli.store.chunks import map_files, read_column
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Store
from gigacli.store.validate import validate


def test_only_slides_that_are_done_and_have_tiles(tiny):
    store = Store.open(tiny, write=True)
    reader = BankReader(store, "moco")
    assert reader.rows.tolist() == [0, 1]
    assert (reader.augmentations, reader.draws, reader.width) == (2, 3, 8)
    store.array("banks/moco/done")[0] = NOT_DONE
    assert BankReader(store, "moco").rows.tolist() == [1]


@pytest.mark.parametrize("where", ["files", "memory"])
def test_rows_are_those_of_the_arrays(tiny, maker, where):
    store = Store.open(tiny)
    if where == "memory":
        store = Store.create("memory://bank.zarr")
        maker.fill(store)
    reader = BankReader(store, "moco")
    vectors, drawn = store.array("banks/moco/vectors")[:2], store.array("banks/moco/tile")[:2]
    assert (reader.vectors.shape, reader.vectors.dtype) == ((2, 1, 1, 2, 3, 8), np.float16)
    assert not reader.vectors.flags.writeable
    np.testing.assert_array_equal(reader.vectors[:, 0, 0], vectors)
    np.testing.assert_array_equal(reader.tile, drawn)
    np.testing.assert_array_equal(np.stack(list(reader.slides())), vectors)
    for row, n in ((0, 4), (1, 2), (1, 1)):
        expected = store.array("features/moco/vectors")[row, :n]
        np.testing.assert_array_equal(FeatureReader(store, "moco")(row, n), expected)


def test_slides_can_be_left_out(tiny):
    store = Store.open(tiny)
    assert BankReader(store, "moco", leave_out=np.array([True, False, False, False])).rows.tolist() == [1]
    assert BankReader(store, "moco", leave_out=np.ones(4, dtype=bool)).vectors.shape == (0, 1, 1, 2, 3, 8)


def wider(store, shape):
    """The bank with more augmentations and draws than it was begun with: its chunks keep their shape."""
    rng = np.random.default_rng(1)
    for name, full in (("vectors", (4, *shape, 8)), ("tile", (4, *shape))):
        array = store.array(f"banks/moco/{name}")
        array.resize(full)
        array[:2] = rng.integers(0, 2, (2, *full[1:]))
    store.array("banks/moco/done")[:2] = shape[0]


@pytest.mark.parametrize("shape", [(5, 3), (2, 4), (7, 8), (4, 6)])
def test_a_bank_that_has_grown_has_several_chunks_a_slide(tiny, shape):
    store = Store.open(tiny, write=True)
    wider(store, shape)
    reader = BankReader(Store.open(tiny), "moco")
    expected = store.array("banks/moco/vectors")[:2]
    assert reader.vectors.shape == (2, -(-shape[0] // 2), -(-shape[1] // 3), 2, 3, 8)
    np.testing.assert_array_equal(np.stack(list(reader.slides())), expected)
    a, d = np.arange(shape[0])[:, None], np.arange(shape[1])
    for slide in range(2):
        at = (slide, a // 2, d // 3, a % 2, d % 3)
        np.testing.assert_array_equal(reader.vectors[at], expected[slide])


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_damaged_chunks_are_refused_before_they_are_mapped(tiny, damage):
    chunk = tiny / "banks/moco/vectors/c/1/0/0/0"
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-2] if damage == "short" else chunk.read_bytes() + b"  ")
    with pytest.raises(Mismatch, match="is missing" if damage == "missing" else "bytes, expected 100"):
        BankReader(Store.open(tiny), "moco")


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
    for path in ("banks/moco/done", "tiles/count", "slides/mpp", "embeddings/giga/done"):
        np.testing.assert_array_equal(read_column(store.array(path)), store.array(path)[:])
    damaged = tiny / "banks/moco/done/c/0"
    sound = damaged.read_bytes()
    for data in (b"1", flipped(sound), sound[:-1] + bytes([sound[-1] ^ 1]), sound + b"1"):
        damaged.write_bytes(data)
        with pytest.raises(ValueError, match="checksum"):
            read_column(store.array("banks/moco/done"))


def flipped(data):
    """The first bit is another."""
    return bytes([data[0] ^ 1]) + data[1:]


def test_damaged_features_are_refused(tiny):
    chunk = tiny / "features/moco/vectors/c/0/0/0"
    sound, read = chunk.read_bytes(), FeatureReader(Store.open(tiny), "moco")
    for data, wrong in (
        (flipped(sound), "is not what its checksum says"),
        (sound[:-1], "bytes, expected"),
        (sound + b"1", "bytes, expected"),
    ):
        chunk.write_bytes(data)
        with pytest.raises(Mismatch, match=wrong):
            read(0, 4)


@pytest.mark.parametrize("group", ["banks", "features"])
def test_chunks_without_checksums_are_read_too(tiny, group):
    """Other programs need not write them."""
    store = Store.open(tiny, write=True)
    old = store.array(f"{group}/moco/vectors")
    values, shape = old[:], old.shape
    del store.root[f"{group}/moco/vectors"]
    new = store.root.create_array(
        f"{group}/moco/vectors",
        shape=shape,
        dtype="float16",
        chunks=old.chunks,
        fill_value=float("nan"),
        dimension_names=old.metadata.dimension_names,
        compressors=None,
    )
    new[:] = values
    assert validate(tiny).problems == []
    if group == "banks":
        np.testing.assert_array_equal(np.stack(list(BankReader(store, "moco").slides())), values[:2])
    np.testing.assert_array_equal(FeatureReader(store, "moco")(0, 4), store.array("features/moco/vectors")[0, :4])


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2500])
def test_features_lie_in_several_chunks(tmp_path, n):
    store = Store.create(tmp_path / "large.zarr")
    array = store.ensure_array("features/moco/vectors", (2, 2500, 3))
    assert array.chunks == (1, 1024, 3)
    array[1, :n] = np.random.default_rng(0).standard_normal((n, 3))
    np.testing.assert_array_equal(FeatureReader(store, "moco")(1, n), array[1, :n])
    with pytest.raises(NotFound, match="is missing"):
        FeatureReader(store, "moco")(0, n)


def test_grids_are_in_level_0_pixels(tiny):
    store = Store.open(tiny)
    for (coords, edge_px), count in zip(BankReader(store, "moco").grids(), (4, 2), strict=True):
        assert coords.shape == (count, 2)
        assert edge_px == 512.0  # 256 px at 1 micron per pixel, of a slide at 0.5
    coords, _ = tile_grid_of(store, 3)  # not done
    assert coords.shape == (0, 2)
