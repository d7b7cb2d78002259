"""The cache of tiles: what is read is what was written, within its limit, whoever is killed."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gigacli.errors import GigaError, InvalidInput, Mismatch
from gigacli.wsi.reader import SlideTiles, TileReader
from gigacli.wsi.slide import Slide
from gigacli.wsi.tile_cache import TileCache, decode, encode
from gigacli.wsi.tile_pixels import TilePixels, TileSpec, cache_tiles, key_of

SPEC = TileSpec(tile_px=48, mpp=1.0, upsample=False)


def tiles_of(seed, n=5, px=32):
    rng = np.random.default_rng(seed)
    return rng.integers(100, 156, (n, px // 8, px // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def slides(cohort):
    """Three drawn slides, with seven tiles each; the last one is of white glass, too."""
    rng = np.random.default_rng(0)
    paths = sorted(cohort.slides.glob("*.tif"))[:3]
    return [SlideTiles(i, str(p), 0.5, rng.integers(0, 900, (7, 2), dtype=np.int32)) for i, p in enumerate(paths)]


def keep(slides, cache, pool, *, again=False):
    said = []
    with TileReader(tile_px=SPEC.tile_px, mpp=SPEC.mpp, upsample=False, workers=2) as reader:
        done = lambda slide, why: said.append((slide.key, why))  # noqa: E731
        packs = cache_tiles(slides, cache, reader, pool, spec=SPEC, again=again, done=done)
    return packs, dict(said)


def test_what_was_written_is_read(tmp_path, pool):
    cache, tiles = TileCache(tmp_path / "c", limit_bytes=1e6), tiles_of(0)
    writer = cache.write("k")
    assert cache.open("k", tiles=5) is None  # not before it is whole
    writer.add(tiles[:2], pool)
    writer.add(tiles[2:], pool)
    for pack in (
        writer.finish(),
        cache.open("k", tiles=5),
        TileCache(tmp_path / "c", limit_bytes=0).open("k", tiles=5),
    ):
        assert [pack.read(i) for i in range(5)] == [encode(tile) for tile in tiles]
    assert cache.open("k", tiles=4) is None
    assert cache.open("other", tiles=5) is None


def test_a_tile_is_nearly_what_it_was():
    tile = tiles_of(1)[0]
    difference = decode(encode(tile)).astype(float) - tile
    assert np.sqrt((difference**2).mean()) < 3
    assert decode(encode(tile)).shape == tile.shape


@pytest.mark.parametrize("damage", ["short", "footer", "index", "empty"])
def test_a_file_that_is_not_whole_is_not_there(tmp_path, pool, damage):
    cache = TileCache(tmp_path, limit_bytes=1e6)
    writer = cache.write("k")
    writer.add(tiles_of(0), pool)
    writer.finish()
    data = bytearray(cache.path("k").read_bytes())
    if damage == "short":
        data = data[:-7]
    elif damage == "empty":
        data = data[:3]
    else:
        data[-1 if damage == "footer" else -30] ^= 1
    cache.path("k").write_bytes(data)
    assert cache.open("k", tiles=5) is None


def test_a_damaged_tile_is_noticed(tmp_path, pool):
    cache = TileCache(tmp_path, limit_bytes=1e6)
    writer = cache.write("k")
    writer.add(tiles_of(0), pool)
    pack = writer.finish()
    data = bytearray(pack.path.read_bytes())
    data[100] ^= 1
    pack.path.write_bytes(data)
    with pytest.raises(Mismatch, match="damaged") as caught:
        pack.read(0)
    assert "delete it" in caught.value.hint
    pack.path.unlink()
    with pytest.raises(Mismatch, match="lost"):
        pack.read(0)


def test_never_more_than_the_limit(tmp_path, pool):
    cache = TileCache(tmp_path, limit_bytes=6000)
    kept = []
    for name in "abcdef":
        writer = cache.write(name)
        writer.add(tiles_of(0), pool)
        kept.append(writer.finish())
        assert cache.bytes <= 6000
    assert kept[0] is not None
    assert kept[-1] is None
    assert cache.full
    assert len(list(tmp_path.iterdir())) == sum(pack is not None for pack in kept)  # and nothing unfinished


def test_what_a_kill_left_is_removed_when_it_is_old(tmp_path):
    old, new, other = tmp_path / "a.x.partial", tmp_path / "b.y.partial", tmp_path / "notes.txt"
    for path in (old, new, other):
        path.write_bytes(b"half")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    os.utime(other, (hours_ago, hours_ago))
    TileCache(tmp_path, limit_bytes=1e6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.y.partial", "notes.txt"]


@pytest.mark.parametrize("limit", [1e9, 0, 25_000])
def test_pixels_do_not_depend_on_the_cache(slides, tmp_path, pool, limit):
    """With room for all, for none, and for some."""
    packs, said = keep(slides, TileCache(tmp_path, limit_bytes=limit) if limit else None, pool)
    assert said == {0: "", 1: "", 2: ""}
    assert {1e9: 0, 0: 3}.get(limit, packs.count(None)) == packs.count(None)
    if limit == 25_000:
        assert 0 < packs.count(None) < 3
    kept = TilePixels(slides, packs, SPEC)
    assert len(kept) == 21
    for slide in slides:
        with Slide(slide.path, mpp=slide.mpp) as opened:
            for i, (x, y) in enumerate(slide.coords.tolist()):
                expected = decode(encode(opened.read(x, y, tile_px=48, mpp=1.0)))
                np.testing.assert_array_equal(kept(7 * slide.key + i), expected)


def test_the_second_time_no_slide_is_opened(slides, tmp_path, pool, monkeypatch):
    cache = TileCache(tmp_path, limit_bytes=1e9)
    first, _ = keep(slides, cache, pool)

    def closed(*_args, **_kwargs):
        raise AssertionError("a slide was opened")

    monkeypatch.setattr("gigacli.wsi.reader.open_slide", closed)
    second, said = keep(slides, cache, pool)
    assert said == {0: "", 1: "", 2: ""}
    assert [pack.path for pack in second] == [pack.path for pack in first]
    again, _ = keep(slides, None, pool, again=True)  # no room at all, but read by an earlier run
    assert again == [None] * 3


def test_another_file_or_other_tiles_are_other_packs(slides, tmp_path):
    slide = slides[0]
    names = {key_of(slide, SPEC), key_of(slide, SPEC._replace(tile_px=64)), key_of(slide, SPEC._replace(mpp=2.0))}
    names.add(key_of(SlideTiles(0, slide.path, 0.25, slide.coords), SPEC))
    names.add(key_of(SlideTiles(0, slide.path, 0.5, slide.coords[:5]), SPEC))
    names.add(key_of(SlideTiles(0, str(tmp_path / "none.tif"), 0.5, slide.coords), SPEC))
    assert len(names) == 6


def test_a_slide_that_cannot_be_read_leaves_no_pack(slides, tmp_path, pool):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no slide at all")
    slides = [slides[0], SlideTiles(9, str(broken), 0.5, slides[1].coords), slides[2]]
    packs, said = keep(slides, TileCache(tmp_path / "c", limit_bytes=1e9), pool)
    assert [pack is None for pack in packs] == [False, True, False]
    assert "broken.tif" in said[9]
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_folder_that_cannot_be_written_says_what_to_do(slides, tmp_path, pool, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache = TileCache(tmp_path, limit_bytes=1e9)
    monkeypatch.setattr("gigacli.wsi.tile_cache.TilePackWriter.finish", full)
    with pytest.raises(GigaError, match="No space left") as caught:
        keep(slides, cache, pool)
    assert "`cache`" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match="cannot be made") as caught:
        TileCache(tmp_path / "file", limit_bytes=1)
    assert "`cache`" in caught.value.hint
