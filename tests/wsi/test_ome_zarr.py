"""OME-Zarr: pixels as zarr reads them, of every layout; a folder has a content, and moves like a file."""

import json
import shutil

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, Pickle, Zlib, Zstd
from PIL import Image

import gigacli as giga
from gigacli.cohort.content import hash_of_slide
from gigacli.cohort.discovery import find_slides, slide_id_of
from gigacli.errors import SlideError
from gigacli.store.store import Store
from gigacli.wsi.patches import open_slide
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide_files import slide_files, stamp

RNG = np.random.default_rng(0)
SMALL = Image.fromarray(RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8))
PICTURE = np.asarray(SMALL.resize((300, 220), Image.Resampling.BICUBIC))
LEVELS = [PICTURE, np.asarray(Image.fromarray(PICTURE).reduce(2)), np.asarray(Image.fromarray(PICTURE).reduce(4))]


def write(
    folder, levels=LEVELS, *, version="0.5", axes="cyx", chunk=(3, 64, 64), unit="micrometer", more=None, **options
):
    """Write levels as OME-Zarr; `axes` beyond c, y and x have one step."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for k, level in enumerate(levels):
        sizes = {"t": 1, "z": 1, "c": level.shape[-1], "y": level.shape[0], "x": level.shape[1]}
        pixels = (level.transpose(2, 0, 1) if "c" in axes else level).reshape([sizes[axis] for axis in axes])
        chunks = (1,) * (len(axes) - len(chunk)) + chunk
        array = group.create_array(
            str(k), shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, fill_value=7, **options
        )
        array[:] = pixels
        scale = [1.0] * (len(axes) - 2) + [0.25 * 2**k] * 2
        datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": unit} if unit and axis in "zyx" else {})
        for axis in axes
    ]
    said = {"multiscales": [{"axes": described, "datasets": datasets}]} | (more or {})
    group.attrs.update(said if version == "0.4" else {"ome": {"version": version, **said}})
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"version": "0.4"},
        {"version": "0.4", "axes": "tczyx", "chunk": (1, 64, 64)},
        {"version": "0.4", "compressors": Blosc()},
        {"version": "0.4", "compressors": Zlib()},
        {"version": "0.4", "compressors": None},
        {"version": "0.5"},
        {"version": "0.5", "chunk": (1, 50, 70)},
        {"version": "0.5", "axes": "tczyx", "chunk": (32, 32), "shards": (1, 1, 1, 64, 64)},
        {"version": "0.5", "chunk": (3, 512, 512)},
        {"version": "0.5", "more": {"omero": {"channels": [{"color": c} for c in ("ff0000", "00ff00", "0000ff")]}}},
    ],
    ids=str,
)
def test_every_level_is_what_zarr_reads(tmp_path, options):
    path = write(tmp_path / "a.ome.zarr", **options)
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.vendor, slide.size_px) == ("ome-zarr", (300, 220))
        assert (resolve_mpp(slide.properties).mpp, resolve_mpp(slide.properties).source) == (0.25, "ome")
        for k in range(3):
            oracle = zarr.open_array(path / str(k), mode="r")[:].reshape(3, *LEVELS[k].shape[:2]).transpose(1, 2, 0)
            found = slide.read(20, 40, tile_px=40, mpp=0.25 * 2**k)
            np.testing.assert_array_equal(found, oracle[40 >> k :, 20 >> k :][:40, :40])
        assert (slide.read(280, 0, tile_px=64, mpp=0.25)[:, 20:] == 255).all()
        assert slide.thumbnail(1.0).shape == (55, 75, 3)


def test_grey_is_a_slide_too(tmp_path):
    path = write(tmp_path / "a.zarr", [PICTURE[..., 0]], axes="yx", chunk=(64, 64))
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.read(0, 0, tile_px=100, mpp=0.25) == PICTURE[:100, :100, :1]).all()


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", 0.00025), ("millimeter", 250.0), (None, None), ("pixel", None)]
)
def test_units_of_axes(tmp_path, unit, mpp):
    with open_slide(write(tmp_path / "a.zarr", unit=unit)) as slide:
        assert float(slide.properties.get("ome.mpp-x", "nan")) == pytest.approx(mpp or np.nan, nan_ok=True)


@pytest.mark.parametrize("codec", [Zlib(), Zstd(), Blosc()])
def test_a_chunk_that_would_become_larger_than_it_may_is_refused(tmp_path, codec, monkeypatch):
    path = write(tmp_path / "a.zarr", version="0.4", compressors=codec)
    (path / "0" / "0.0.0").write_bytes(codec.encode(bytes(2**26)))
    with open_slide(path, mpp=0.25) as slide:
        monkeypatch.setattr(type(slide._tiles[0]._array), "__getitem__", lambda *_: pytest.fail("it was unpacked"))
        with pytest.raises(SlideError, match="missing or damaged"):
            slide.read(0, 0, tile_px=64, mpp=0.25)


@pytest.mark.parametrize(("codec", "said"), [(Pickle(), "no OME-Zarr image"), (LZ4(), "packed with LZ4")])
def test_chunks_that_are_a_pickle_or_do_not_say_their_size_are_not_unpacked(tmp_path, codec, said):
    path = write(tmp_path / "a.zarr", version="0.4")
    about = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(about | {"compressor": codec.get_config()}))
    with pytest.raises(SlideError, match=said):
        open_slide(path)


def test_a_series_of_bioformats2raw_is_its_first_image(tmp_path):
    root = tmp_path / "a.zarr"
    zarr.open_group(root, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write(root / "0", version="0.4")
    write(root / "1", [PICTURE[:50, :50]], version="0.4")
    with open_slide(root) as slide:
        assert slide.size_px == (300, 220)
    assert find_slides([tmp_path]) == [root]
    assert len(slide_files(root)) > 10


def test_a_chunk_that_is_not_there_has_the_fill_value_and_a_damaged_one_is_said(tmp_path):
    path = write(tmp_path / "a.zarr")
    (path / "0" / "c" / "0" / "0" / "0").unlink()
    (path / "0" / "c" / "0" / "0" / "1").write_bytes(b"no chunk")
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.read(0, 0, tile_px=64, mpp=0.25) == 7).all()
        with pytest.raises(SlideError, match="missing or damaged"):
            slide.read(64, 0, tile_px=64, mpp=0.25)


@pytest.mark.parametrize(
    ("level", "options", "said"),
    [
        (PICTURE.astype(np.uint16), {}, "uint16"),
        (np.concatenate([PICTURE, PICTURE], 2), {}, "6 channels"),
        (
            PICTURE,
            {"more": {"omero": {"channels": [{"color": c} for c in ("0000FF", "00FF00", "FF0000")]}}},
            "coloured 0000FF",
        ),
        (
            PICTURE,
            {"more": {"omero": {"channels": [{"label": c} for c in ("DAPI", "CD3", "CD8")]}}},
            "3 channels: DAPI",
        ),
    ],
)
def test_what_is_no_rgb_of_8_bits_is_refused(tmp_path, level, options, said):
    with pytest.raises(SlideError, match=said) as caught:
        open_slide(write(tmp_path / "a.zarr", [level], **options))
    assert "8 bits" in caught.value.hint


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": []},
        {"multiscales": [{"axes": [], "datasets": [{"path": "0"}]}]},
        {"multiscales": [{"axes": [{"name": a} for a in "cyx"], "datasets": []}]},
        {"multiscales": [{"axes": [{"name": a} for a in "xyc"], "datasets": [{"path": "0"}]}]},
        {"multiscales": [{"axes": [{"name": a} for a in "cyx"], "datasets": [{"path": "nowhere"}]}]},
        {"multiscales": "no"},
    ],
)
def test_metadata_that_lies(tmp_path, attributes):
    path = write(tmp_path / "a.zarr")
    about = json.loads((path / "zarr.json").read_text())
    about["attributes"] = {"ome": attributes}
    (path / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_slide(path)


def test_the_content_of_a_folder(tmp_path):
    path = write(tmp_path / "a.zarr")
    before, size = hash_of_slide(path, whole=False), stamp(path)[0]
    shutil.copytree(path, tmp_path / "copy.zarr")
    assert hash_of_slide(tmp_path / "copy.zarr", whole=False) == before
    assert stamp(tmp_path / "copy.zarr")[0] == size
    last = sorted((path / "0").rglob("*"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\0")
    assert hash_of_slide(path, whole=False) != before
    third = path / "2" / "c" / "0" / "0" / "0"
    before, whole = (hash_of_slide(path, whole=w) for w in (False, True))
    third.write_bytes(third.read_bytes() + b"\0")
    assert hash_of_slide(path, whole=False) == before  # only some chunks of the first level tell
    assert hash_of_slide(path, whole=True) != whole


def test_a_cohort_of_folders(tmp_path):
    """Found, tiled, moved and found again, and seen to have changed."""
    white = np.full((1200, 1600, 3), 240, np.uint8)
    white[200:1000, 200:1400] = (180, 60, 140)
    white[200:1000, 200:1400] += RNG.integers(0, 30, (800, 1200, 3), dtype=np.uint8)
    path = write(tmp_path / "slides" / "s1.ome.zarr", [white, white[::2, ::2]], chunk=(3, 256, 256))
    (tmp_path / "slides" / "other.zarr").mkdir()
    said = []

    class Heard(giga.progress.Silent):
        def say(self, message):
            said.append(message)

    assert find_slides([tmp_path / "slides"], progress=Heard()) == [path]
    assert "1 .zarr that holds no OME-Zarr image" in said[0]
    assert slide_id_of(path) == "s1.ome"
    store = tmp_path / "cohort.zarr"
    assert giga.tile(store, [tmp_path / "slides"], mpp=0.5, tile_px=128).done == 1
    row = Store.open(store).slides[0]
    assert (row.vendor, row.mpp, row.mpp_source, row.file_bytes) == ("ome-zarr", 0.25, "ome", stamp(path)[0])
    path.rename(tmp_path / "s1.ome.zarr")
    assert giga.tile(store, slide_root=tmp_path).failed == 0
    assert Store.open(store).slides[0].path == str(tmp_path / "s1.ome.zarr")
    chunk = tmp_path / "s1.ome.zarr" / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    assert giga.tile(store).failed == 1
