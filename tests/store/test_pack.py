"""Packed stores: what was there reads as before, what comes later lies beside it, and a kill leaves no trace."""

import multiprocessing
import uuid

import fsspec
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.progress import SILENT
from gigacli.store import lock, packing
from gigacli.store.info import info
from gigacli.store.pack import count_files, pack, pack_groups, remove_what_is_packed
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import validate
from tests.store.test_kills import Killed, opened, problems, work

WIDTH, ROOM = 2, 5
BANK = (2, 3)


def values(root, path=""):
    """{path: values} of every array but those beside shards, as a library reads them that knows nothing of giga."""
    found = {}
    for name, node in (root[path] if path else root).members():
        at = f"{path}/{name}".lstrip("/")
        if isinstance(node, zarr.Array):
            found[at] = node[...]
        elif name != "unpacked":
            found |= values(root, at)
    return found


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for path in theirs:
        np.testing.assert_array_equal(mine[path], theirs[path], err_msg=path)


class Cohort:
    """A store of so many slides, of which any may be made, as the verbs do it, any number of times."""

    def __init__(self, path, slides):
        self.store = Store.create(path, sync=False)
        self.register(slides)
        self.begin()

    def register(self, slides):
        rows = [
            SlideRow(id=f"s{i}", path=f"/s{i}", size_px=(20000, 2000), mpp=0.5, mpp_source="csv") for i in range(slides)
        ]
        self.store.write_slides(SlideTable(tuple(rows)))

    def begin(self, *, redo=False):
        tiles, features, bank = self.store.tiles, self.store.features("f"), self.store.bank("f")
        tiles.begin(Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {}), ROOM, redo=redo)
        inputs = {"tiles": tiles.fingerprint, "encoder": "0" * 64}
        features.begin(Recipe("bank", {"encoder": "f"}, inputs), WIDTH, redo=redo)
        sizes = {"encoder": "f", "augmentations": BANK[0], "draws": BANK[1]}
        bank.begin(Recipe("bank", sizes, inputs), WIDTH, redo=redo)

    def write(self, row, n, seed=0):
        """A slide of n tiles."""
        rng = np.random.default_rng((row, n, seed))
        coords = np.stack([512 * np.arange(n), np.full(n, seed)], axis=1).astype(np.int32)
        self.store.tiles.write(row, coords, np.ones(n, dtype=np.float32))
        self.store.refresh()  # what is made from it is another verb's
        self.store.features("f").write(row, rng.normal(size=(n, WIDTH)).astype(np.float16) if n else None)
        if n:
            vectors, tile = rng.normal(size=(*BANK, WIDTH)).astype(np.float16), rng.integers(0, n, BANK)
            self.store.bank("f").write(row, vectors, tile.astype(np.int32), made=np.ones(BANK, dtype=bool))
        else:
            self.store.bank("f").write_empty(row)

    def read(self):
        """What the groups say of each slide that is done."""
        store = Store.open(self.store)
        done = {group.path: group.done().values for group in (store.tiles, store.features("f"), store.bank("f"))}
        found = {}
        for row in np.flatnonzero(done["banks/f"] != -1).tolist():
            tiles, bank = store.tiles, store.bank("f")
            found[row] = [tiles.coords(row), tiles.tissue(row), tiles.identity(row), store.features("f").read(row)]
            found[row] += [bank.read(row, 1), bank.drawn(row, 0)] if tiles.count(row) else []
        return done, found


def agree(mine, theirs):
    for path, done in theirs[0].items():
        np.testing.assert_array_equal(mine[0][path], done, err_msg=path)
    assert mine[1].keys() == theirs[1].keys()
    for row, arrays in theirs[1].items():
        for one, other in zip(mine[1][row], arrays, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_was_packed_reads_as_before(tiny):
    before = values(zarr.open_group(tiny, mode="r"))
    files = count_files(tiny)
    made = pack(tiny)
    assert [(g.path, g.packed) for g in made.groups] == [
        ("tiles", 3),
        ("features/moco", 3),
        ("banks/moco", 3),
        ("failures/tile", 1),
    ]
    assert (made.files_before, made.packed) == (files, 3)
    same(values(zarr.open_group(tiny, mode="r")), before)
    assert not list(tiny.glob("tiles/*/c/*"))
    assert validate(tiny).problems == []
    with xarray.open_zarr(tiny, group="banks/moco", consolidated=False) as dataset:
        np.testing.assert_array_equal(dataset["vectors"].values, before["banks/moco/vectors"])
    store = Store.open(tiny)
    assert store.failures("tile")[3] == "there is no resolution in the slide"
    mapped = store.bank("moco").mapped()
    np.testing.assert_array_equal(np.stack(list(mapped.slides())), before["banks/moco/vectors"][:2])
    documents = {file: file.read_bytes() for file in tiny.rglob("*") if file.is_file()}
    assert pack(tiny).packed == 0
    assert {file: file.read_bytes() for file in tiny.rglob("*") if file.is_file()} == documents


@pytest.mark.parametrize("slides", [1, 70])
def test_files_grow_by_less_than_one_for_64_slides_and_array(tmp_path, slides):
    """So 100,000 slides with features and a bank are 5 x 1,563 files of shards, 6 x 25 of tables, and 60 more."""
    cohort = Cohort(tmp_path / "a.zarr", slides)
    for row in range(slides):
        cohort.write(row, 1 + row % ROOM)
    pack(tmp_path / "a.zarr")
    chunks = [f for f in (tmp_path / "a.zarr").rglob("*") if f.is_file() and f.name != "zarr.json"]
    of_slides = [f for f in chunks if f.relative_to(tmp_path / "a.zarr").parts[0] != "slides"]
    shards, tables = 5 * -(-slides // 64), 4 * -(-slides // 4096)
    assert len(of_slides) == shards + tables
    assert count_files(tmp_path / "a.zarr") <= shards + tables + 60


def test_slides_that_come_later_lie_beside_until_the_next_pack(tmp_path):
    """A store that is packed in between, and one that never is, say the same at all times."""
    one, other = (Cohort(tmp_path / name, 3) for name in ("a.zarr", "b.zarr"))
    for cohort in (one, other):
        cohort.write(0, 4)
        cohort.write(1, 0)
    pack(one.store.url)
    seen = values(zarr.open_group(one.store.url, mode="r"))
    for cohort in (one, other):
        cohort.store.refresh()
        cohort.register(5)
        cohort.begin()
        cohort.write(4, 2)
        cohort.write(0, 2, seed=1)  # had more
        cohort.store.fail("tile", {2: "damaged", 3: "gone"})
    assert not list((tmp_path / "a.zarr").glob("tiles/*/c/*"))
    groups = {g.path: (g.done, g.unpacked) for g in info(one.store.url).groups}
    assert groups == {"tiles": (3, 2), "features/f": (3, 2), "banks/f": (3, 2)}
    agree(one.read(), other.read())
    assert validate(one.store.url).problems == []
    now = values(zarr.open_group(one.store.url, mode="r"))  # to others, it is as it was
    for path, array in seen.items():
        if path.partition("/")[0] not in ("slides", "failures"):
            np.testing.assert_array_equal(now[path][:3], array)
    assert pack(one.store.url).packed == 2
    other.store.fail("tile", {2: ""})
    one.store.refresh()
    one.store.fail("tile", {2: ""})
    assert one.store.failures("tile") == other.store.failures("tile") == ["", "", "", "gone", ""]
    agree(one.read(), other.read())
    mine, theirs = (values(zarr.open_group(c.store.url, mode="r")) for c in (one, other))
    del mine["failures/tile"], theirs["failures/tile"]
    same(mine, theirs)
    assert {g.unpacked for g in info(one.store.url).groups} == {0}
    assert validate(one.store.url).problems == []


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, ROOM), st.integers(0, 3)), max_size=8))
@settings(max_examples=3, deadline=None)
def test_any_order_of_writing_packing_and_taking_back(tmp_path_factory, steps):
    """Rows 0 to 6 are written; 7 packs, 8 takes the tiles of a slide back."""
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_SLIDES", 3)
        one, other = (Cohort(folder / name, 7) for name in ("a.zarr", "b.zarr"))
        for row, n, seed in [*steps, (7, 0, 0)]:
            if row == 7:
                pack(one.store.url, sync=False)
                one.store.refresh()
            for cohort in (one, other) if row != 7 else ():
                if row == 8:
                    cohort.store.tiles.take_back([n])
                else:
                    cohort.write(row, n, seed)
        agree(one.read(), other.read())
    assert validate(one.store.url).problems == []
    np.testing.assert_array_equal(one.store.bank("f").mapped().tile, other.store.bank("f").mapped().tile)


def test_a_slide_of_many_chunks_lies_in_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BLOCKS", 2)
    monkeypatch.setattr(packing, "SHARD_SLIDES", 2)
    store = Store.create(tmp_path / "a.zarr")
    store.write_slides(SlideTable(tuple(SlideRow(id=f"s{i}", path="", mpp=0.5) for i in range(3))))
    config = {"mpp": 1.0, "tile_px": 256, "overlap": 0, "tool": "x"}
    store.tiles.begin(Recipe("import", config, {}), 5000, redo=False)
    features, rng = store.features("f"), np.random.default_rng(0)
    features.begin(Recipe("import", {"encoder": "f", "tool": "x"}, {"tiles": store.tiles.fingerprint}), 2, redo=False)
    held = []
    for row, n in enumerate((5000, 1, 3000)):
        held.append(rng.normal(size=(n, 2)).astype(np.float16))
        store.tiles.write(row, np.full((n, 2), row, dtype=np.int32), None)
        features.write(row, held[-1])
    pack(tmp_path / "a.zarr")
    files = sorted(file.name for file in (tmp_path / "a.zarr/features/f/vectors").glob("c*"))
    assert files == ["c.0.0.0", "c.0.1.0", "c.0.2.0", "c.1.0.0", "c.1.1.0"]
    store.refresh()
    for row in range(3):
        np.testing.assert_array_equal(features.read(row), held[row])
    features.write(0, held[0])
    store.tiles.write(0, np.zeros((1, 2), dtype=np.int32), None)
    store.refresh()
    features.write(0, held[0][:1])
    pack(tmp_path / "a.zarr")
    assert [f for f in files if (tmp_path / "a.zarr/features/f/vectors" / f).exists()] == ["c.0.0.0", *files[3:]]
    store.refresh()
    np.testing.assert_array_equal(features.read(0), held[0][:1])
    assert validate(tmp_path / "a.zarr").problems == []


def test_a_packed_group_is_removed_and_made_anew(tmp_path):
    cohort = Cohort(tmp_path / "a.zarr", 3)
    cohort.write(0, 2)
    pack(tmp_path / "a.zarr")
    cohort.store.refresh()
    cohort.write(1, 3)
    cohort.begin(redo=True)
    assert cohort.store.progress() == {"tiles": 0, "features/f": 0, "banks/f": 0}
    groups = [tmp_path / "a.zarr" / group for group in ("tiles", "features", "banks")]
    assert [file for group in groups for keys in ("c/*", "c.*") for file in group.rglob(keys)] == []
    cohort.write(2, 1)
    assert validate(tmp_path / "a.zarr").problems == []
    assert cohort.read()[0]["tiles"].tolist() == [-1, -1, 1]
    assert pack(tmp_path / "a.zarr").packed == 1


def test_a_packed_bank_does_not_grow(tmp_path):
    cohort = Cohort(tmp_path / "a.zarr", 1)
    cohort.write(0, 2)
    pack(tmp_path / "a.zarr")
    cohort.store.refresh()
    bank = cohort.store.bank("f")
    more = Recipe("bank", {**bank.config, "draws": 9}, bank.recipe.inputs)
    with pytest.raises(Mismatch, match="banks/f is packed"):
        bank.begin(more, WIDTH, redo=False)


def test_a_bank_that_is_growing_is_left_alone(tmp_path):
    cohort = Cohort(tmp_path / "a.zarr", 2)
    cohort.write(0, 2)
    bank = cohort.store.bank("f")
    bank.begin(Recipe("bank", {**bank.config, "draws": 9}, bank.recipe.inputs), WIDTH, redo=False)
    left = {group.path: group.left for group in pack(tmp_path / "a.zarr").groups}
    assert left["banks/f"] == "it is being extended: run giga bank first"
    cohort.store.refresh()
    assert not bank.missing(0)[:, :3].any()
    bank.write(0, np.zeros((2, 9, WIDTH), np.float16), np.zeros((2, 9), np.int32), made=bank.missing(0))
    before = bank.array("vectors")[0]
    assert pack(tmp_path / "a.zarr").packed == 1
    cohort.store.refresh()
    np.testing.assert_array_equal(bank.array("vectors")[0], before)
    np.testing.assert_array_equal(next(bank.mapped().slides()), before)


# ---------------------------------------------------------------------- kills


def packed(store):
    pack_groups(store, SILENT)
    remove_what_is_packed(store)


@pytest.fixture(scope="module")
def plain():
    """A store in memory with everything, and one like it that had a slide made anew after it was packed."""
    keys = {}
    work(opened(keys)[1])
    store = opened(keys)[1]
    later = dict(keys)
    again = opened(later)[1]
    packed(again)
    rewrite(again)
    return {"first": keys, "again": later}, {"first": states(store), "again": states(again)}


def rewrite(store):
    """Features are none in that store: a slide gets other tiles and another bank, another none."""
    store.tiles.write(0, np.array([[512, 0]], dtype=np.int32), np.ones(1, dtype=np.float32))
    _, a, d, width = store.bank("x").shape
    every = np.ones((a, d), dtype=bool)
    store.bank("x").write(0, np.full((a, d, width), 9, dtype=np.float16), np.zeros((a, d), np.int32), made=every)
    store.tiles.write(2, np.empty((0, 2), dtype=np.int32), np.empty(0, dtype=np.float32))
    store.bank("x").write_empty(2)


def states(store):
    tiles, bank = store.tiles, store.bank("x")
    rows = range(store.registered)
    vectors = [bank.read(row, 1).tolist() if tiles.count(row) else None for row in rows]
    done = tiles.done().values.tolist(), bank.done().values.tolist()
    return [*done, [tiles.coords(row).tolist() for row in rows], vectors]


@pytest.mark.parametrize("which", ["first", "again"])
def test_killed_anywhere_the_store_reads_as_before_and_the_next_pack_ends_it(plain, which):
    stores, expected = plain
    keys = dict(stores[which])
    storage, store = opened(keys)
    packed(store)
    wanted, changes = {key: value.to_bytes() for key, value in keys.items()}, storage.changes
    assert changes > 15
    for at in range(1, changes + 1):
        keys = dict(stores[which])
        with pytest.raises(Killed):
            packed(opened(keys, at)[1])
        left = opened(keys)[1]
        assert states(left) == expected[which], f"killed at change {at}"
        stale = [p for p in problems(left) if p.rule not in ("RECIPE-5",)]
        assert stale == [], f"killed at change {at}"
        if at % 3 == 0:  # somebody writes before it is packed again
            rewrite(left)
            changed = states(left)
            packed(opened(keys)[1])
            assert states(opened(keys)[1]) == changed, f"killed at change {at}"
        else:
            packed(opened(keys)[1])
            assert {key: value.to_bytes() for key, value in keys.items()} == wanted, f"killed at change {at}"


# ---------------------------------------------------------------------- others


def hold(path, write, ready, end):
    store = Store.open(path, write=write)
    ready.set()
    end.wait(60)
    del store


@pytest.mark.parametrize("write", [True, False])
def test_nothing_is_taken_from_under_others(tiny, write, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    before = values(zarr.open_group(tiny, mode="r"))
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tiny, write, ready, end))
    other.start()
    assert ready.wait(60)
    chunk = tiny / "tiles/coords/c/0/0/0"
    try:
        if write:
            with pytest.raises(Mismatch, match="another process writes to"):
                pack(tiny)
        else:
            assert pack(tiny).packed == 3
        assert chunk.exists()
        same(values(zarr.open_group(tiny, mode="r")), before)
    finally:
        end.set()
        other.join()
    assert pack(tiny).packed == (3 if write else 0)
    assert not chunk.exists()


def test_nobody_writes_while_a_store_is_packed(tiny):
    context = multiprocessing.get_context("spawn")
    with lock.alone_writing(str(tiny)):
        Store.open(tiny, write=True)  # this process may
        with context.Pool(1) as pool:
            assert pool.apply(opens, (tiny, False)) == ""
            assert "is being packed by another process" in pool.apply(opens, (tiny, True))


def opens(path, write):
    try:
        Store.open(path, write=write)
    except Mismatch as error:
        return error.message
    return ""


def test_stores_elsewhere_are_read_packed_and_not_packed_there(tiny, tmp_path):
    pack(tiny)
    url = f"memory://{uuid.uuid4()}.zarr"
    fsspec.filesystem("memory").put(str(tiny), url.removeprefix("memory:/"), recursive=True)
    here, there = Store.open(tiny), Store.open(url)
    assert validate(url).problems == []
    assert there.progress() == here.progress()
    mapped = there.bank("moco").mapped()
    mapped.load(cache=tmp_path)
    np.testing.assert_array_equal(mapped.vectors, here.bank("moco").mapped().vectors[:])
    with pytest.raises(InvalidInput, match="is not a folder"):
        pack(url)


# ---------------------------------------------------------------------- damage


def test_damage_of_shards_is_named(tiny):
    pack(tiny)
    shard, features = tiny / "banks/moco/vectors/c.0.0.0.0", tiny / "features/moco/vectors/c.0.0.0"
    sound = shard.read_bytes()
    flipped = bytes([sound[0] ^ 1]) + sound[1:]
    for data, said in ((sound[:-1], "index of the shard banks/moco/vectors/c.0.0.0.0"), (sound[-1028:], "has 1028 by")):
        shard.write_bytes(data)
        with pytest.raises(Mismatch, match=said):
            Store.open(tiny).bank("moco").mapped()
    shard.write_bytes(flipped)
    assert {(p.rule, p.path) for p in validate(tiny).problems} == {("ROOT-3", "banks/moco/vectors")}
    shard.unlink()
    with pytest.raises(Mismatch, match=r"slide 'slide-a' is in no shard"):
        Store.open(tiny).bank("moco").mapped()
    features.write_bytes(bytes([features.read_bytes()[0] ^ 1]) + features.read_bytes()[1:])
    with pytest.raises(Mismatch, match=r"vectors/c.0.0.0, bytes 0 to 100, is not what its checksum says"):
        Store.open(tiny).features("moco").read(0)
    features.unlink()
    with pytest.raises(NotFound, match="'slide-a' is missing"):
        Store.open(tiny).features("moco").read(0)
    (tiny / "tiles/count/c.0").unlink()
    with pytest.raises(Mismatch, match=r"tiles/count/c.0 is missing: what it said of 4096 slides is lost"):
        Store.open(tiny).tiles.done()


def test_a_damaged_chunk_is_not_packed(tiny):
    chunk = tiny / "banks/moco/vectors/c/1/0/0/0"
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with pytest.raises(Mismatch, match=r"banks/moco/vectors/c/1/0/0/0 is not what its checksum says"):
        pack(tiny)
    assert Store.open(tiny).features("moco").read(0).shape == (4, 8)


def test_shards_may_hold_no_more_than_they_say(tiny):
    """A chunk of coordinates that unpacks to more than its array has room for."""
    from numcodecs import Zstd

    pack(tiny)
    shard = tiny / "tiles/coords/c.0.0.0"
    bomb = packing._checked(Zstd().encode(b"\0" * 10_000_000))
    index = np.full((64, 2), 2**64 - 1, dtype="<u8")
    index[0] = 0, len(bomb)
    shard.write_bytes(bomb + packing._checked(index.tobytes()))
    with pytest.raises(Mismatch, match="holds 10000000 bytes; expected 48"):
        Store.open(tiny).tiles.coords(0)
    with pytest.raises(Mismatch, match="holds 10000000 bytes or more; expected at most"):
        Store.open(tiny).root["tiles/coords"][:]


def test_a_larger_slide_finds_room(tmp_path):
    """Slides of more tiles than there was room for have several chunks, in shards of their own."""
    one, other = (Cohort(tmp_path / name, 2) for name in ("a.zarr", "b.zarr"))
    one.write(0, ROOM)
    pack(one.store.url)
    one.store.refresh()
    other.write(0, ROOM)
    for cohort in (one, other):
        store = cohort.store
        store.tiles.begin(store.tiles.recipe, 2 * ROOM + 1, redo=False)
        store.features("f").begin(store.features("f").recipe, WIDTH, redo=False)
        cohort.write(1, 2 * ROOM + 1)
    agree(one.read(), other.read())
    assert pack(one.store.url).packed == 1
    one.store.refresh()
    agree(one.read(), other.read())
    same(*(values(zarr.open_group(cohort.store.url, mode="r")) for cohort in (one, other)))
    assert validate(one.store.url).problems == []
    mine, theirs = (cohort.store.features("f") for cohort in (one, other))
    np.testing.assert_array_equal(mine.read(1), theirs.read(1))
