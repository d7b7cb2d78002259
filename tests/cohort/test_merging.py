"""giga merge and giga subset: the new store has the bytes that the verbs write, wherever it is killed."""

import shutil
from dataclasses import replace

import fsspec
import numpy as np
import pytest

import gigacli as giga
from gigacli.cli.command import run_command
from gigacli.cli.verbs import VERBS
from gigacli.cohort.merge_plan import plan_merge
from gigacli.cohort.merging import fill
from gigacli.cohort.room import room_for
from gigacli.cohort.slide_list import named_slides
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.progress import SILENT
from gigacli.store import copying
from gigacli.store.info import info
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import validate
from tests.conftest import BANK, EMBED, TILE
from tests.store.test_kills import Killed, opened, problems

TILES = {"mpp": 1.0, "tile_px": 256, "overlap": 0}
WEIGHTS = "0" * 64
WIDTH = 2
SIZES = {"a": (2000, 2000), "b": (3000, 2000), "c": (40000, 20000), "d": (2000, 3000), "e": (2500, 2000)}
COUNTS = {"a": 4, "b": 0, "c": 2100, "d": None, "e": 7}
"""Slide -> its tiles; d cannot be read."""


def files(store, *, without=()):
    """Every file of a store but those of some groups, byte for byte."""
    found = {str(p.relative_to(store)): p for p in store.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if not name.startswith(tuple(without))}


def same(store, other, *, without=()):
    mine, theirs = files(store), files(other, without=without)
    assert mine.keys() == theirs.keys()
    assert [name for name in theirs if mine[name] != theirs[name]] == []


def sound(store):
    assert validate(store).problems == []
    assert validate(store).unfinished == []
    return info(store).next


# ---------------------------------------------------------------------- beside the verbs


@pytest.fixture(scope="module")
def model(chain, tmp_path_factory):
    """The file of the model that was trained on the whole cohort."""
    file = tmp_path_factory.mktemp("model") / "giga.safetensors"
    giga.export(chain("embed"), "models/giga", to=file)
    return file


WHITENED = ("embeddings/whitened-mean-",)


def test_a_subset_and_a_merge_are_what_the_verbs_make(chain, store_at, cohort, model, tmp_path):
    """Of a store whose model was trained there, and of one that was given it as a file."""
    whole, part, rest, merged = chain("embed"), *(tmp_path / f"{name}.zarr" for name in ("part", "rest", "merged"))
    ids = Store.open(whole).slides.ids
    found = giga.subset(whole, ids[:2], to=part)
    assert [(g.path, g.copied, g.done) for g in found.groups][:3] == [
        ("tiles", 2, 2),
        ("encoders/random-resnet18", 1, 1),
        ("features/random-resnet18", 2, 2),
    ]
    assert list(found.left_out) == ["embeddings/whitened-mean-random-resnet18", "models/giga"]
    assert f"giga export {whole} models/giga --to giga.safetensors" in found.notes[1]
    verbs, table = tmp_path / "verbs.zarr", cohort.cohort_csv.with_name("two.csv")
    table.write_text("\n".join(cohort.cohort_csv.read_text().splitlines()[:3]) + "\n")
    giga.tile(verbs, csv=table, **TILE)
    giga.bank(verbs, **BANK)
    giga.embed(verbs, model=str(model), **EMBED)
    same(part, verbs, without=WHITENED)
    assert sound(part).startswith("giga probe")
    giga.subset(whole, ids[2:], to=rest)
    giga.merge([verbs, rest], to=merged)
    all_of_them = store_at("bank", "all.zarr")
    giga.embed(all_of_them, model=str(model), **EMBED)
    same(merged, all_of_them, without=WHITENED)
    assert sound(merged).startswith("giga probe")
    vectors, known = Store.open(merged).embedding("giga").read(), Store.open(whole).embedding("giga").read()
    np.testing.assert_array_equal(vectors, known)
    giga.embed(merged, model=str(model), **EMBED)  # nothing but the whitened mean is left to do
    same(merged, all_of_them)


# ---------------------------------------------------------------------- of any sizes, quickly


def write(store, ids, *, features=("f",)):
    """What the verbs write of slides, in stand-ins for pixels that depend on the slide alone; in its order."""
    table = tuple(
        SlideRow(id=i, path=f"/{i}.svs", size_px=SIZES[i], mpp=0.5, mpp_source="csv", file_bytes=9) for i in ids
    )
    store.write_slides(SlideTable(table))
    tiles, made = store.tiles, Recipe("tile", TILES, {})
    tiles.begin(made, max(room_for(row, TILES) for row in table), redo=False)
    store.fail("tile", {row: "cannot be read" if COUNTS[i] is None else "" for row, i in enumerate(ids)})
    inputs = {"tiles": made.fingerprint, "encoder": WEIGHTS}
    for name in features:
        store.features(name).begin(Recipe("bank", {"encoder": name}, inputs), WIDTH, redo=False)
        sizes = {"encoder": name, "augmentations": 2, "draws": 3}
        store.bank(name).begin(Recipe("bank", sizes, inputs), WIDTH, redo=False)
    for row, i in enumerate(ids):
        if COUNTS[i] is not None:
            write_slide(store, row, COUNTS[i], key=ord(i), features=features)
    return store


def write_slide(store, row, n, *, key, features=("f",)):
    rng = np.random.default_rng(key)
    coords = rng.integers(0, 1000, (n, 2)).astype(np.int32)
    store.tiles.write(row, coords, np.ones(n, dtype=np.float32), file=key)
    store.refresh()
    for name in features:
        store.features(name).write(row, rng.normal(size=(n, WIDTH)).astype(np.float16) if n else None)
        bank = store.bank(name)
        if n:
            vectors, tile = rng.normal(size=bank.shape[1:]).astype(np.float16), rng.integers(0, n, bank.shape[1:3])
            bank.write(row, vectors, tile.astype(np.int32), made=np.ones(bank.shape[1:3], dtype=bool))
        else:
            bank.write_empty(row)
        store.fail("bank", {row: ""})


def made(path, ids, **options):
    return write(Store.create(path, sync=False), ids, **options).url


@pytest.fixture
def halves(tmp_path):
    return made(tmp_path / "a.zarr", "abd"), made(tmp_path / "b.zarr", "ec")


def test_stores_with_room_for_other_slides_packed_or_not(halves, tmp_path):
    whole = made(tmp_path / "all.zarr", "abdec")
    for path in (halves[0], whole):
        giga.pack(path)
    later = Store.open(halves[0], write=True)
    write_slide(later, 0, 6, key=1)  # lies beside the shards
    write_slide(later, 0, COUNTS["a"], key=ord("a"))
    assert info(halves[0]).groups[0].unpacked == 1
    del later
    giga.merge(halves, to=tmp_path / "c.zarr")
    made(tmp_path / "verbs.zarr", "abdec")
    same(tmp_path / "c.zarr", tmp_path / "verbs.zarr")
    sound(tmp_path / "c.zarr")
    assert Store.open(tmp_path / "c.zarr").failures("tile") == ["", "", "cannot be read", "", ""]
    giga.subset(whole, "[abe]", to=tmp_path / "d.zarr")
    made(tmp_path / "few.zarr", "abe")
    same(tmp_path / "d.zarr", tmp_path / "few.zarr")
    sound(tmp_path / "d.zarr")


def test_a_bank_that_was_extended_is_as_if_made_at_once(tmp_path):
    """Its chunks hold the rows of the first run."""
    path, bank = made(tmp_path / "a.zarr", "ab"), Recipe("bank", {}, {})
    store = Store.open(path, write=True)
    group = store.bank("f")
    bank = replace(group.recipe, config={**group.config, "draws": 5})
    group.begin(bank, WIDTH, redo=False)
    more = {"vectors": np.full((2, 5, WIDTH), 7, dtype=np.float16), "tiles": np.ones((2, 5), dtype=np.int32)}
    group.write(0, **more, made=np.ones((2, 5), dtype=bool))
    group.write_empty(1)
    assert group.array("vectors").chunks[2] == 3
    giga.subset(path, ["a", "b"], to=tmp_path / "b.zarr")
    made_at_once = Store.open(tmp_path / "b.zarr").bank("f")
    assert made_at_once.array("vectors").chunks == (1, 2, 5, WIDTH)
    np.testing.assert_array_equal(made_at_once.array("vectors")[0], more["vectors"])
    assert not made_at_once.has("kept")
    sound(tmp_path / "b.zarr")


def test_what_one_store_alone_has_is_left_as_an_interrupted_verb_would_leave_it(tmp_path):
    one, other = made(tmp_path / "a.zarr", "ab"), made(tmp_path / "b.zarr", "e", features=())
    giga.merge([one, other], to=tmp_path / "c.zarr")
    assert Store.open(tmp_path / "c.zarr").progress() == {"tiles": 3, "features/f": 2, "banks/f": 2}
    assert sound(tmp_path / "c.zarr") == f"giga bank {tmp_path}/c.zarr --encoder f"


def test_what_is_stale_in_one_store_is_named(halves, tmp_path):
    store = Store.open(halves[1], write=True)
    bank = store.bank("f")
    recipe = replace(bank.recipe, inputs={**bank.recipe.inputs, "tiles": "0" * 32})
    store.root["banks/f"].attrs["giga"] = {**bank.attributes, "recipe": vars(recipe)}
    found = giga.merge(halves, to=tmp_path / "c.zarr")
    assert {g.path: g.done for g in found.groups} == {"tiles": 4, "features/f": 4, "banks/f": 2}
    assert found.left_out["banks/f"].startswith(
        f"slides of {halves[1]}: it is stale in {halves[1]}: made from tiles 00"
    )


def test_slides_that_changed_since_are_not_done(halves, tmp_path):
    store = Store.open(halves[0], write=True)
    store.tiles.write(0, np.ones((3, 2), dtype=np.int32), np.ones(3, dtype=np.float32))
    giga.subset(halves[0], ["a", "b"], to=tmp_path / "c.zarr")
    assert Store.open(tmp_path / "c.zarr").progress() == {"tiles": 2, "features/f": 1, "banks/f": 1}
    assert validate(tmp_path / "c.zarr").problems == []


def test_what_is_fitted_on_a_cohort_is_named_and_left_out(store_at, tmp_path):
    path = store_at("embed")
    giga.embed(path, aggregator="mean-std", name="own")
    giga.embed(path, join=["giga", "mean-random-resnet18"], name="both")
    store = Store.open(path, write=True)
    bank = store.bank("op")
    learnt = {"mode": "operators", "encoder": "op", "augmentations": 2, "draws": 3, "sets": 8}
    bank.begin(Recipe("bank", learnt, store.bank("random-resnet18").recipe.inputs), 256, redo=False)
    found = giga.subset(path, "lab1*", to=tmp_path / "b.zarr").left_out
    assert {name: why.partition(" of ")[0] for name, why in found.items()} == {
        "banks/op": "its operators were learnt from slides",
        "embeddings/both": "it is centred on the slides",
        "embeddings/own": "it is fitted on the slides",
        "embeddings/whitened-mean-random-resnet18": "it is fitted on the slides",
        "models/giga": "it was trained on slides",
    }
    assert found["banks/op"].endswith(f"make it, with its options: giga bank {tmp_path}/b.zarr --encoder op --name op")
    both = f"giga embed {tmp_path}/b.zarr --join giga mean-random-resnet18 --name both"
    assert found["embeddings/both"].endswith(both)


def test_vectors_of_other_models_do_not_mix(tmp_path):
    urls = []
    for name, ids in (("a", "ab"), ("b", "ec")):
        store = Store.open(made(tmp_path / f"{name}.zarr", ids), write=True)
        features = store.features("f").fingerprint
        for kind, sha in (("one", "1" * 64), ("other", name * 64)):
            config = {"model": f"{kind}-{name}.safetensors", "variant": "giga", "features_name": "f"}
            recipe = Recipe("embed", {**config, "aggregator": "model"}, {"features": features, "model": sha})
            store.embedding(kind).begin(recipe, 2, redo=False)
            store.embedding(kind).write(np.array([0]), np.array([[1, 0]], dtype=np.float32))
        urls.append(store.url)
    found = giga.merge(urls, to=tmp_path / "c.zarr")
    assert [(g.path, g.done) for g in found.groups][-1] == ("embeddings/one", 2)
    assert list(found.left_out) == ["embeddings/other"]
    assert f"model: {'a' * 64} in {urls[0]}, {'b' * 64} in {urls[1]}" in found.left_out["embeddings/other"]
    sound(tmp_path / "c.zarr")


def test_imports_go_together_however_often_they_were_made(tmp_path):
    urls = []
    for name, ids in (("a", "ab"), ("b", "e")):
        store = Store.create(tmp_path / f"{name}.zarr")
        store.write_slides(SlideTable(tuple(SlideRow(id=i, path="", mpp=0.5) for i in ids)))
        tiles = Recipe("import", {**TILES, "tool": "x"}, {})
        store.tiles.begin(tiles, 5, redo=False)
        config = {"encoder": "f", "tool": "x", "tool_version": name, "generation": len(urls) + 1}
        store.features("f").begin(Recipe("import", config, {"tiles": tiles.fingerprint}), WIDTH, redo=False)
        for row, _ in enumerate(ids):
            store.tiles.write(row, np.ones((3, 2), dtype=np.int32), None)
            store.refresh()
            store.features("f").write(row, np.ones((3, WIDTH), dtype=np.float16))
        mean = {"aggregator": "mean", "features_name": "f"}
        store.embedding("m").begin(
            Recipe("embed", mean, {"features": store.features("f").fingerprint}), WIDTH, redo=False
        )
        store.embedding("m").write(np.arange(len(ids)), np.ones((len(ids), WIDTH), dtype=np.float32))
        urls.append(store.url)
    giga.merge(urls, to=tmp_path / "c.zarr")
    store = Store.open(tmp_path / "c.zarr")
    assert store.progress() == {"tiles": 3, "features/f": 3, "embeddings/m": 3}
    assert store.features("f").config["generation"] == 1
    sound(tmp_path / "c.zarr")


# ---------------------------------------------------------------------- kills


def test_killed_anywhere_it_is_valid_and_the_same_command_ends_it(halves, monkeypatch):
    monkeypatch.setattr(copying, "CHUNKS_AT_ONCE", 2)
    stores = [Store.open(path) for path in halves]
    plan = plan_merge([(store, np.arange(store.registered)) for store in stores], "memory")
    keys = {}
    storage, store = opened(keys)
    fill(plan, store, SILENT)
    wanted = {key: value.to_bytes() for key, value in keys.items()}
    assert storage.changes > 100
    for at in range(1, storage.changes + 1, 31):
        keys = {}
        with pytest.raises(Killed):
            fill(plan, opened(keys, at)[1], SILENT)
        left = opened(keys)[1]
        assert problems(left) == [], f"killed at change {at}"
        fill(plan, left, SILENT)
        assert {key: value.to_bytes() for key, value in keys.items()} == wanted, f"killed at change {at}"


def test_a_run_that_is_finished_is_left_and_one_of_changed_slides_is_mended(halves, tmp_path):
    to = tmp_path / "c.zarr"
    giga.merge(halves, to=to)
    before = files(to)
    assert {g.copied for g in giga.merge(halves, to=to).groups} == {0}
    assert files(to) == before
    source = Store.open(halves[1], write=True)
    write_slide(source, 1, 3, key=5)  # it had two chunks of features
    del source
    assert {g.path: g.copied for g in giga.merge(halves, to=to).groups} == {"tiles": 1, "features/f": 1, "banks/f": 1}
    expected = Store.create(tmp_path / "d.zarr")
    write(expected, "abdec")
    write_slide(expected, 4, 3, key=5)
    assert files(to).keys() == files(tmp_path / "d.zarr").keys()
    same(to, tmp_path / "d.zarr")


def test_slides_that_are_changed_meanwhile_do_not_count(halves, tmp_path, monkeypatch):
    to, plain = tmp_path / "c.zarr", copying.copy_chunks

    def meanwhile(source, target, rows, mine):
        plain(source, target, rows, mine)
        if target.path == "features/f/vectors" and 1 in rows:
            Store.open(halves[1], write=True).features("f").take_back([1])

    monkeypatch.setattr("gigacli.store.slide_group.copy_chunks", meanwhile)
    with pytest.raises(Mismatch, match="1 slides were changed while they were copied, such as 'c'"):
        giga.subset(halves[1], ["c", "e"], to=to)
    store = Store.open(to)
    assert store.features("f").done().values.tolist() == [COUNTS["e"], NOT_DONE]
    assert validate(to).problems == []


def test_a_damaged_chunk_is_not_copied(halves, tmp_path):
    chunk = next((tmp_path / "b.zarr/features/f/vectors/c/1").rglob("0"))
    chunk = chunk / "0" if chunk.is_dir() else chunk
    data = chunk.read_bytes()
    chunk.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Mismatch, match="is not what its checksum says"):
        giga.subset(halves[1], ["c"], to=tmp_path / "c.zarr")
    assert not Store.open(tmp_path / "c.zarr").features("f").done().finished.any()


# ---------------------------------------------------------------------- refusals, lists, places


def test_what_was_made_otherwise_is_refused_before_anything_is_written(halves, tmp_path):
    for group, config, said in (
        (
            "tiles",
            {"mpp": 0.5},
            r"tiles of .*a.zarr and of .*b.zarr were made otherwise.*\n  mpp: 1.0 in .*a.zarr, 0.5",
        ),
        ("features", {"precision": "bf16"}, r"precision: None in .*a.zarr, bf16 in .*b.zarr"),
        ("banks", {"seed": 4}, r"banks/f of .*\n  seed: None in .*a.zarr, 4 in .*b.zarr"),
    ):
        path = shutil.copytree(halves[1], tmp_path / f"{group}.zarr")
        store = Store.open(path, write=True)
        one = {"tiles": store.tiles, "features": store.features("f"), "banks": store.bank("f")}[group]
        recipe = replace(one.recipe, config={**one.config, **config})
        store.root[one.path].attrs["giga"] = {**one.attributes, "recipe": vars(recipe)}
        with pytest.raises(Mismatch, match=f"(?s){said}".replace("b.zarr", f"{group}.zarr")) as caught:
            giga.merge([halves[0], path], to=tmp_path / "c.zarr")
        assert caught.value.hint.startswith("make it anew in one of them with the options of the other: giga ")
        assert not (tmp_path / "c.zarr").exists()


def test_other_encoders_of_one_name_are_refused(chain, store_at, tmp_path):
    one, other = giga.subset(chain("bank"), "lab1*", to=tmp_path / "a.zarr").store, store_at("tile")
    giga.subset(other, "lab2*", to=tmp_path / "b.zarr")
    store = Store.open(tmp_path / "b.zarr", write=True)
    encoder = store.encoder("random-resnet18")
    encoder.keep(Recipe("bank", {"weights_sha256": "2" * 64, "timm": "x"}, {}), b"")
    inputs = {"tiles": store.tiles.fingerprint, "encoder": encoder.sha256}
    store.features("g").begin(Recipe("bank", {"encoder": encoder.name}, inputs), WIDTH, redo=False)
    with pytest.raises(Mismatch, match=r"(?s)encoders/random-resnet18 of .* were made otherwise.*weights_sha256: "):
        giga.merge([one, tmp_path / "b.zarr"], to=tmp_path / "c.zarr")


def test_what_does_not_go_together_is_refused(halves, tmp_path):
    one, other = halves
    to = tmp_path / "c.zarr"
    twice = made(tmp_path / "twice.zarr", "ba")
    with pytest.raises(InvalidInput, match=r"2 slides are in .*a.zarr and in .*twice.zarr: a, b") as caught:
        giga.merge([one, twice], to=to)
    assert "giga subset" in caught.value.hint
    with pytest.raises(InvalidInput, match="one store alone"):
        giga.merge(one, to=to)
    with pytest.raises(InvalidInput, match=r"`to` is .*a.zarr/, one of the stores"):
        giga.merge([one, other], to=f"{one}/")
    Store.create(tmp_path / "none.zarr")
    with pytest.raises(NotFound, match=r"none.zarr holds no slides"):
        giga.merge([one, tmp_path / "none.zarr"], to=to)
    assert not to.exists()
    giga.merge([one, other], to=to)
    with pytest.raises(InvalidInput, match="is there already, and has 5 slides, which are not the 3 that go there"):
        giga.subset(one, "*", to=to)
    shutil.copytree(to, tmp_path / "packed.zarr")
    giga.pack(tmp_path / "packed.zarr")
    with pytest.raises(InvalidInput, match="is there already, and is packed"):
        giga.merge([one, other], to=tmp_path / "packed.zarr")
    store = Store.open(to, write=True)
    recipe = Recipe(
        "embed", {"aggregator": "mean", "features_name": "f"}, {"features": store.features("f").fingerprint}
    )
    store.embedding("mine").begin(recipe, WIDTH, redo=False)
    with pytest.raises(InvalidInput, match="and holds embeddings/mine, which does not come from there"):
        giga.merge([one, other], to=to)


def test_lists_of_slides(tmp_path):
    ids = ["S1.svs", "S2", "T-1"]
    files = {"ids.txt": "T-1\n\nS1\n", "head.txt": "slide_id\nS2\nS1\n", "t.csv": "label,slide_id\nx,S2\ny,T-1\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def rows(wanted):
        return named_slides(ids, wanted, store="a.zarr").tolist()

    assert rows(tmp_path / "ids.txt") == [0, 2]
    assert rows(str(tmp_path / "head.txt")) == [0, 1]
    assert rows(tmp_path / "t.csv") == [1, 2]
    assert rows("S*") == [0, 1]
    assert rows(["T-1", "slides/S1.svs"]) == [0, 2]
    (tmp_path / "wrong.txt").write_text("S1\nt-1\nX\n")
    with pytest.raises(NotFound, match=r"2 of the 3 slides of .*wrong.txt are not in a.zarr: t-1, X; 1 differ in cap"):
        rows(tmp_path / "wrong.txt")
    with pytest.raises(InvalidInput, match=r"the list names 1 slides more than once: S1.svs"):
        rows(["S1", "S1.svs"])
    with pytest.raises(NotFound, match=r"no slide of a.zarr matches X\*"):
        rows("X*")
    with pytest.raises(NotFound, match=r"there is no file missing.txt, and it is no pattern"):
        rows("missing.txt")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InvalidInput, match="names no slide"):
        rows(tmp_path / "none.txt")


def test_the_command_line_says_what_is_left_out(chain, tmp_path, capsys):
    assert "subset" not in [verb.name for verb in VERBS]  # it is a tool: no group is named after it
    assert run_command(["subset", str(chain("train")), "--slides", "lab1*", "--to", str(tmp_path / "d.zarr")]) == 0
    out = capsys.readouterr().out
    assert "features/random-resnet18" in out
    assert "without models/giga: it was trained on slides of" in out


def test_stores_elsewhere(halves, tmp_path):
    there = "memory://merging/a.zarr"
    fsspec.filesystem("memory").put(halves[0], "/merging/a.zarr", recursive=True)
    giga.merge([there, halves[1]], to="memory://merging/c.zarr")
    giga.merge(halves, to=tmp_path / "c.zarr")
    fsspec.filesystem("memory").get("/merging/c.zarr", str(tmp_path / "d.zarr"), recursive=True)
    same(tmp_path / "d.zarr", tmp_path / "c.zarr")
