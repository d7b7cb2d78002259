"""Sizes that a store states are looked at before memory is taken for them."""

import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from gigacli.errors import GigaError, Mismatch, without_secrets
from gigacli.store.bounds import MOST, check_chunk, chunk_bounds, excess, zstd_bytes
from gigacli.store.folder import Folder
from gigacli.store.info import info
from gigacli.store.layout import FORMAT_VERSION
from gigacli.store.store import Store
from gigacli.store.validate import validate
from tests.faults.hostile import checked, deflated, zstd_frame

SPEC = Path(__file__).parents[2] / "spec" / f"store-{FORMAT_VERSION}.md"


def change(store, node, how):
    file = store / node / "zarr.json"
    document = json.loads(file.read_text())
    how(document)
    file.write_text(json.dumps(document))


def refused(store):
    """What info says, and the rules that validate names."""
    with pytest.raises(GigaError) as error:
        info(store)
    try:
        return error.value.message, {(p.rule, p.path) for p in validate(store).problems}
    except GigaError:
        return error.value.message, set()


def test_the_specification_states_the_same_bounds():
    section = SPEC.read_text().split("## Bounds")[1].split("## Writing")[0]
    stated = {
        name: int(size)
        for names, size in re.findall(r"^\| dimensions? (`.*) \| (\d+) \|$", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
        if name != "registered"
    }
    assert stated == {name: size for name, size in MOST.items() if name != "xy"}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65791, 65792, 10**6])
def test_zstd_states_what_it_becomes(size):
    frame = memoryview(bytes(Zstd().encode(bytes(size))))
    assert zstd_bytes(frame, 0) == size
    assert zstd_bytes(memoryview(zstd_frame(size)), 0) == size
    several = zstd_frame(16) + b"\x5a\x2a\x4d\x18\x03\x00\x00\x00xyz" + bytes(frame)
    assert zstd_bytes(memoryview(several), 0) == size + 16
    assert len(Zstd().decode(several)) == size + 16
    for damaged in (zstd_frame(size, stated=False), zstd_frame(16) + zstd_frame(size, stated=False), bytes(frame[:-1])):
        assert zstd_bytes(memoryview(damaged), 0) is None


def test_zstd_with_checksums_and_many_blocks():
    data = np.random.default_rng(0).integers(0, 9, 10**6).astype(np.uint8)
    frame = bytes(Zstd(level=3, checksum=True).encode(data))
    assert zstd_bytes(memoryview(frame + frame), 0) == 2 * 10**6


def test_room_is_made_for_what_is_stated_and_no_more():
    """What check_chunk relies on."""
    frame = bytearray(zstd_frame(2**24))
    frame[5:13] = struct.pack("<Q", 16)
    with pytest.raises(RuntimeError):
        Zstd().decode(bytes(frame))


@pytest.mark.parametrize("node", ["slides/id", "slides/mpp", "tiles/coords", "embeddings/giga/vectors"])
@pytest.mark.parametrize("stated", [True, False])
def test_a_chunk_that_grows_is_not_unpacked(node, stated, tiny):
    """A chunk of 98 KB took 3.1 GB."""
    chunk = next(p for p in (tiny / node / "c").rglob("*") if p.is_file())
    chunk.write_bytes(checked(zstd_frame(2**24, stated=stated)))
    [problem] = [p for p in validate(tiny).problems if p.path == node and "Mismatch" in p.message]
    assert problem.rule == "ROOT-3"
    assert ("holds 16777216 bytes" if stated else "does not state how large it is") in problem.message


@pytest.mark.parametrize("codec", [GzipCodec(), BloscCodec(), ZstdCodec(), None])
def test_what_other_programs_compress_is_read(codec, tmp_path):
    root = zarr.open_group(tmp_path, mode="w")
    codecs = [*([codec] if codec else []), Crc32cCodec()]
    values = np.arange(12, dtype=np.float64)
    root.create_array("slides/mpp", shape=(12,), chunks=(5,), dtype="f8", compressors=codecs)[:] = values
    opened = zarr.open_group(Folder(tmp_path), mode="r")
    np.testing.assert_array_equal(opened["slides/mpp"][:], values)


def bounds_of(*codecs, dtype="f8"):
    root = zarr.create_group({})
    array = root.create_array("x", shape=(8,), chunks=(8,), dtype=dtype, compressors=codecs, serializer=BytesCodec())
    return chunk_bounds("x", json.dumps(array.metadata.to_dict(), default=str).encode())


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (GzipCodec(), lambda: deflated(2, wbits=31)),
        (GzipCodec(), lambda: zlib.compress(bytes(10), wbits=31) + deflated(2, wbits=31)),
        (BloscCodec(), lambda: bytes(Blosc("zstd").encode(bytes(2**20)))),
        (None, lambda: bytes(4000)),
    ],
)
def test_other_compressions_do_not_grow(codec, data):
    bounds = bounds_of(*([codec] if codec else []))
    assert bounds.values_bytes == 64
    with pytest.raises(Mismatch, match="expected at most"):
        check_chunk("x/c/0", memoryview(data()), bounds)


@pytest.mark.parametrize(
    ("node", "axis", "size", "says"),
    [
        ("tiles/coords", 1, 10**12, "dimension tile has size 1000000000000; at most 4194304"),
        ("embeddings/giga/vectors", 1, 10**6, "dimension feature"),
        ("models/giga/weights", 0, 2**50, "dimension byte"),
        ("banks/moco/vectors", 1, 10**5, "dimension augmentation"),
    ],
)
def test_a_dimension_beyond_the_bounds(node, axis, size, says, tiny):
    change(tiny, node, lambda d: d["shape"].__setitem__(axis, size))
    problems = [p for p in validate(tiny).problems if p.path == node]
    assert [p.rule for p in problems] == ["ROOT-3"]
    assert says in problems[0].message
    with pytest.raises(Mismatch, match=says):
        Store.open(tiny).root[node]


def test_an_array_in_a_million_chunks(tiny):
    def cut(document):
        document["shape"] = [4, 10**6, 2]
        document["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1, 1]

    change(tiny, "tiles/coords", cut)
    [problem] = [p for p in validate(tiny).problems if p.path == "tiles/coords"]
    assert "2000000 chunks a slide; at most 4096" in problem.message


def test_more_slides_than_there_are_ids(tiny):
    """29 TiB were asked for."""
    for n in (10**6, 10**12):
        change(tiny, "slides", lambda d, n=n: d["attributes"]["giga"].update(registered=n))
        for file in tiny.rglob("zarr.json"):
            document = json.loads(file.read_text())
            if (document.get("dimension_names") or [""])[0] == "slide":
                document["shape"][0] = n
                file.write_text(json.dumps(document))
        message, _ = refused(tiny)
        assert (
            "1000000 slides are registered, but 4 of them have an id" if n == 10**6 else "at most 1048576"
        ) in message


def test_texts_are_as_many_as_their_chunk_says(tiny):
    chunk = tiny / "slides" / "id" / "c" / "0"
    for data, says in (
        (struct.pack("<I", 2**32 - 1), "holds 4294967295 texts; expected 4096"),
        (struct.pack("<I", 4096) + bytes(2**26), "expected at most"),
    ):
        chunk.write_bytes(checked(bytes(Zstd().encode(data))))
        message, rules = refused(tiny)
        assert says in message
        assert ("ROOT-3", "slides/id") in rules


@pytest.mark.parametrize("kind", ["deep", "long", "pipe", "endless"])
@pytest.mark.parametrize("node", ["tiles/count", "banks/moco"])
def test_documents_that_are_none(kind, node, tiny):
    file = tiny / node / "zarr.json"
    file.unlink()
    if kind == "deep":
        file.write_text("[" * 10**5)
    elif kind == "long":
        file.write_bytes(b" " * (2**22 + 1))
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert node in {p.path for p in validate(tiny).problems if p.rule == "ROOT-3"}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("node", ["tiles/count", "features/moco/vectors"])
def test_pipes_and_devices_in_the_place_of_chunks(node, make, tiny):
    chunk = next(p for p in (tiny / node / "c").rglob("*") if p.is_file())
    chunk.unlink()
    make(chunk)
    assert node in {p.path for p in validate(tiny).problems if p.rule == "ROOT-3"}


def test_documents_inside_of_the_roots_are_not_read(tiny):
    inner = json.loads((tiny / "tiles/count/zarr.json").read_text()) | {"shape": [10**12]}
    held = {"kind": "inline", "must_understand": False, "metadata": {"tiles/count": inner}}
    change(tiny, "", lambda d: d.update(consolidated_metadata=held))
    assert info(tiny).slides == 4


def test_a_writer_does_not_state_more_than_readers_read(tiny):
    store = Store.open(tiny, write=True)
    with pytest.raises(Mismatch, match="dimension feature has size 1000000; at most 262144"):
        store.ensure_array("embeddings/wide/vectors", (4, 1000000))


def test_documents_of_no_sense_have_no_excess():
    for document in (None, 3, [], {"attributes": 3}, {"node_type": "array", "shape": "x"}):
        assert excess("slides", document) == excess("tiles/count", document) == ""


def test_long_messages_are_cut_before_secrets_are_looked_for():
    assert without_secrets("x" * 10**6) == " ..."
    text = "a word " * 2000 + "s3://user:secret@host"
    assert len(without_secrets(text)) < 10_010
    assert "secret" not in without_secrets("x" * 9985 + " s3://user:secret@host/" + "y" * 100)
