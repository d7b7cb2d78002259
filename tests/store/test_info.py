"""What a store holds, and what to run next."""

import json
import shlex
import shutil
from dataclasses import asdict

import numpy as np
import pytest

import gigacli as giga
from gigacli.config import verbs as configs
from gigacli.config.bank import BankConfig
from gigacli.errors import NotFound
from gigacli.store.info import MOST_FAILURES, info
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from tests.helpers import run_giga


def test_everything_is_counted(tiny):
    found = info(tiny)
    assert (found.url, found.version, found.slides, found.patients) == (str(tiny), "0.2", 4, 2)
    groups = {g.path: (g.stage, g.done, g.total, g.failed) for g in found.groups}
    assert groups == {
        "tiles": ("tile", 3, 4, 1),
        "encoders/moco": ("pretrain-tiles", 1, 1, 0),
        "features/moco": ("bank", 3, 3, 0),
        "banks/moco": ("bank", 3, 3, 0),
        "models/giga": ("train", 1, 1, 0),
        "embeddings/giga": ("embed", 3, 3, 0),
        "embeddings/mean-moco": ("embed", 3, 3, 0),
    }
    assert next(iter(groups)) == "tiles"
    assert [g.config["views"] for g in found.groups if g.path == "embeddings/giga"] == [50]
    assert json.loads(json.dumps(asdict(found)))["slides"] == 4


def test_bytes_are_those_on_disk(tiny):
    for group in info(tiny).groups:
        assert group.bytes == sum(p.stat().st_size for p in (tiny / group.path).rglob("*") if p.is_file()) > 0


def test_a_remote_store_has_no_bytes(maker):
    store = Store.create("memory://info.zarr")
    maker.write_tiles(store)
    assert [g.bytes for g in info(store).groups] == [None]


def test_failures_are_listed_up_to_a_limit(tiny):
    store = Store.open(tiny, write=True)
    store.write_slides(SlideTable((*store.slides.rows, *(SlideRow(id=f"s{i}", path=f"/s{i}") for i in range(30)))))
    store.fail("tile", {i: f"reason {i}" for i in range(4, 34)})
    store.fail("bank", {1: "it went away"})
    found = info(store)
    assert found.failed == 32
    assert len(found.failures) == MOST_FAILURES
    assert asdict(found.failures[0]) == {
        "slide": "slide-d",
        "stage": "tile",
        "reason": "there is no resolution in the slide",
    }


def test_a_slide_that_was_done_in_the_end_has_not_failed(tiny):
    store = Store.open(tiny, write=True)
    store.fail("bank", {1: "it went away"})
    assert {g.failed for g in info(store).groups if g.stage == "bank"} == {0}
    store.bank("moco").take_back([1])
    assert {g.path: g.failed for g in info(store).groups if g.stage == "bank"} == {"banks/moco": 1, "features/moco": 0}


def test_the_whole_and_the_slides(tiny):
    found = info(tiny, slides=True)
    assert found.bytes == sum(p.stat().st_size for p in tiny.rglob("*") if p.is_file())
    count = Store.open(tiny).tiles.done().values
    assert found.tiles == count[count > 0].sum()
    assert [s.tiles for s in found.per_slide] == [None if n == NOT_DONE else n for n in count]
    first, last = found.per_slide[0], found.per_slide[-1]
    assert first.done == ["features/moco", "banks/moco", "embeddings/giga", "embeddings/mean-moco"]
    assert (last.slide, last.done, list(last.failures)) == ("slide-d", [], ["tile"])
    assert info(tiny).per_slide == []
    assert json.loads(json.dumps(asdict(found)))["per_slide"][3]["tiles"] is None


def test_failed_slides_can_be_tried_again(tiny):
    assert info(tiny).retry == [f"giga tile {tiny}"]
    store = Store.open(tiny, write=True)
    store.fail("bank", {1: "it went away"})
    store.bank("moco").take_back([1])
    assert info(tiny).retry == [f"giga tile {tiny}", f"giga bank {tiny} --encoder moco"]


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound):
        info(tmp_path / "none.zarr")


# ---------------------------------------------------------------------- the next command


def steps(store):
    """A cohort grows; before every step, the command that would take it."""
    n, corners = 3, np.zeros((1, 2), dtype=np.int32)
    yield "tile STORE SLIDES"
    store.write_slides(SlideTable(tuple(SlideRow(id=f"s{i}", path=f"/s{i}") for i in range(n))))
    yield "tile STORE"
    store.tiles.begin(Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {}), 2, redo=False)
    store.tiles.write(0, corners, None)
    store.tiles.write(1, corners[:0], None)
    yield "tile STORE"
    store.fail("tile", {2: "broken"})
    yield "pretrain-tiles STORE"
    encoder, rows = store.encoder("mine"), np.array([0])
    encoder.begin(Recipe("pretrain-tiles", {}, {"tiles": store.tiles.fingerprint}), rows, redo=False)
    yield "pretrain-tiles STORE --name mine"
    encoder.finish(b"weights", {"loss": [1.0]})
    yield "bank STORE --encoder mine"
    bank, features = store.bank("b"), store.features("b")
    bank.begin(Recipe("bank", {"encoder": "mine", "augmentations": 2, "draws": 2}, {}), 4, redo=False)
    features.begin(Recipe("bank", {"encoder": "mine"}, {}), 4, redo=False)
    yield "bank STORE --encoder mine --name b"
    features.write(0, np.ones((1, 4), dtype=np.float16))
    features.write(1, None)
    every = np.ones((2, 2), dtype=bool)
    bank.write(0, np.ones((2, 2, 4), dtype=np.float16), np.zeros((2, 2), dtype=np.int32), made=every)
    bank.write_empty(1)
    yield "train STORE"
    store.model("m").begin(Recipe("train", {"bank": "b", "tiles": 5}, {}), rows, redo=False)
    yield "train STORE --bank b --name m"
    store.model("m").finish(b"weights", {"loss": [1.0]})
    yield "embed STORE --model m"
    for name, kind in (("m", "model"), ("born", "random-init")):
        embedding = store.embedding(name)
        embedding.begin(
            Recipe("embed", {"model": "m", "aggregator": kind}, {"features": features.fingerprint}), 4, redo=False
        )
        yield "embed STORE --model m" + ("" if kind == "model" else " --aggregator random-init --name born")
        embedding.write(rows, np.ones((1, 4), dtype=np.float32), empty=np.array([1]))
    yield "probe STORE --labels labels.csv"


CONFIGS = {
    "tile": configs.TileConfig,
    "pretrain-tiles": configs.PretrainTilesConfig,
    "bank": BankConfig,
    "train": configs.TrainConfig,
    "embed": configs.EmbedConfig,
}


def test_the_next_command(tmp_path):
    store = Store.create(tmp_path / "my cohort.zarr")
    for step in steps(store):
        giga, verb, url, *rest = shlex.split(info(store).next)
        assert [giga, url] == ["giga", store.url]
        assert " ".join([verb, "STORE", *rest]) == step
        if verb in CONFIGS:  # every flag is one of the verb, every value one it takes
            flags = [word for word in rest if word != "SLIDES"]
            CONFIGS[verb].of({k.removeprefix("--"): v for k, v in zip(flags[::2], flags[1::2], strict=True)})


def test_of_several_banks_one_is_named(tiny):
    store = Store.open(tiny, write=True)
    shutil.rmtree(tiny / "models")
    assert info(store).next == f"giga train {tiny}"
    bank = store.bank("other")
    bank.begin(store.bank("moco").recipe, 8, redo=False)
    for row in range(3):
        bank.write_empty(row)
    assert info(store).next == f"giga train {tiny} --bank moco"


def test_vectors_made_elsewhere_can_be_probed(tmp_path):
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(SlideTable((SlideRow(id="a", path=""),)))
    recipe = Recipe("embed", {"aggregator": "mean", "features_name": "theirs"}, {"features": "0" * 32})
    store.embedding("theirs").begin(recipe, 4, redo=False)
    store.embedding("theirs").write(np.array([0]), np.ones((1, 4), dtype=np.float32))
    assert info(store).next == f"giga probe {store.url} --labels labels.csv"


@pytest.mark.slow
def test_what_is_stale_is_made_anew_by_the_commands_that_are_named(store_at):
    path = store_at("embed")
    giga.embed(path, aggregator="gmm")
    assert info(path).next == f"giga probe {path} --labels labels.csv"
    giga.tile(path, tile_px=32, redo=True)
    verbs = []
    while not (command := info(path).next).startswith("giga probe"):
        verbs.append(command.removesuffix(" --redo").split()[1])
        done = run_giga(*shlex.split(command)[1:])
        assert done.returncode == 0, (command, done.stderr)
        assert len(verbs) < 6, verbs
    assert verbs == ["bank", "train", "embed", "embed"]  # of the model, with what is written beside it; of the mixture
    assert not any(group.stale for group in info(path).groups)


def test_an_encoder_that_has_seen_slides_which_changed_is_used_on(tiny):
    store = Store.open(tiny, write=True)
    row = int(store.tiles.done().rows[0])
    store.tiles.write(row, store.tiles.coords(row)[:1], None)
    of = {group.path: group for group in info(store).groups}
    assert of["encoders/moco"].stale
    assert of["encoders/moco"].again == ""
    assert info(store).next == of["banks/moco"].again == f"giga bank {tiny} --encoder moco --name moco"
