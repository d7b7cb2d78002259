"""A model goes to Hugging Face and comes back, by a stand-in of the Hub on this machine; no network."""

import sys

import numpy as np
import pytest
from safetensors.numpy import load

import gigacli as giga
from gigacli.config.bank import BankConfig
from gigacli.errors import GigaError, InvalidInput, NotFound
from gigacli.exporting.cards import published_as
from gigacli.nn.tile_encoder import weights_hash
from gigacli.weights.card import WeightsCard
from gigacli.weights.hub import HubAddress, download
from gigacli.weights.tile_encoders import choose_encoder
from tests.helpers import run_giga
from tests.hub_server import TOKEN, serving

CARD = {
    "kind": "model",
    "name": "giga",
    "created_by": "giga",
    "variant": "giga",
    "encoder": "moco",
    "encoder_sha256": "",
    "timm": "",
    "mpp": 0.5,
    "tile_px": 256,
    "features": 1024,
    "width": 768,
    "slides": 10,
    "recipes": {},
}

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's LFS uploads


def environment_of(hub, folder):
    """That of a user who is logged in."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "huggingface"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_DISABLE_XET": "1",  # large files go by Git LFS
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, for this process, where huggingface_hub may have been imported with another environment."""
    from huggingface_hub import constants

    with serving() as hub:
        for name, value in environment_of(hub, tmp_path).items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "huggingface" / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "huggingface" / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield hub


@pytest.fixture(scope="module")
def written(chain, tmp_path_factory):
    """What a command line wrote there, and what it said."""
    with serving() as hub:
        environment = environment_of(hub, tmp_path_factory.mktemp("user"))
        said = run_giga("export", chain("train"), "models/giga", "--to", "hf://lab/giga", env=environment)
        assert said.returncode == 0, said.stderr
        assert hub.repositories["lab/giga"]["private"]
        return hub.repositories["lab/giga"]["files"], said


def test_a_model_goes_there_and_back_on_the_command_line(chain, store_at, written, tmp_path):
    files, said = written
    assert TOKEN not in said.stdout + said.stderr
    assert "/lab/giga" in said.stdout
    path = store_at("bank")
    with serving() as hub:
        hub.add("lab/giga", files, private=True)
        options = ["--model", "hf://lab/giga", "--name", "theirs", "--views", "5"]
        said = run_giga("embed", path, *options, env=environment_of(hub, tmp_path))
    assert said.returncode == 0, said.stderr
    assert TOKEN not in said.stdout + said.stderr
    ours, theirs = giga.open(chain("embed")), giga.open(path)
    recipe = theirs.embedding("theirs").recipe
    assert recipe.config["model"] == "hf://lab/giga"
    assert recipe.inputs["model"] == ours.model("giga").sha256
    np.testing.assert_allclose(theirs.embedding("theirs").read(), ours.embedding("giga").read(), atol=2e-3)


def test_only_safetensors_and_a_page_written_from_the_recipe_go_there(chain, written):
    files = written[0]
    assert set(files) - {".gitattributes"} == {"README.md", "model.safetensors", "encoder.safetensors"}
    page = files["README.md"].decode()
    front, text = page.split("---\n\n", 1)
    assert front.startswith("---\nlibrary_name: gigacli\n")
    assert "license" not in front  # that is for whoever publishes to say
    for said in (
        "# giga\n",
        "on 8 slides of 4 patients",
        "256 values per tile",
        "64 px at 1 µm per px",
        "    giga tile cohort.zarr SLIDES/ --mpp 1 --tile-px 64\n",
        "    giga bank cohort.zarr --encoder hf://lab/giga --augmentations 1\n",
        "    giga embed cohort.zarr --model hf://lab/giga\n",
        "--aggregator random-init",
        "| lr | 0.001 |",
    ):
        assert said in text, said
    store = giga.open(chain("train"))
    assert not any(slide.id in page or slide.patient in page for slide in store.slides.rows)
    kept = load(store.read_bytes("models/giga/weights"))
    assert all((kept[name] == value).all() for name, value in load(files["model.safetensors"]).items())


def test_the_page_says_whose_licence_the_tile_encoder_has():
    def licence(**changes):
        found = published_as(WeightsCard(**{**CARD, **changes}))
        return found and (found[0], found[1].licence)

    assert licence(recipes={"encoder": {"config": {"published": "virchow2"}}}) == ("virchow2", "CC-BY-NC-ND-4.0")
    assert licence(timm="hf-hub:MahmoodLab/UNI@main") == ("uni", "CC-BY-NC-ND-4.0")
    assert licence(encoder="uni_v1") == ("uni", "CC-BY-NC-ND-4.0")
    assert licence(encoder="gigapath") == ("prov-gigapath", "Apache-2.0")
    assert licence(encoder="H_optimus_0") == ("h-optimus-0", "Apache-2.0")
    assert licence(encoder="ours") is None
    assert licence(encoder="uni", encoder_sha256="f" * 64) is None  # one of the store that is only called so


def test_what_is_there_is_replaced_on_request_alone(chain, hub):
    hub.add("lab/giga", {"model.safetensors": b"earlier"})
    with pytest.raises(InvalidInput, match=r"holds model\.safetensors already"):
        giga.export(chain("train"), "models", to="hf://lab/giga")
    assert "POST" not in {method for method, _ in hub.asked}
    summary = giga.export(chain("train"), "models", to="hf://lab/giga", redo=True)
    assert (summary.to, summary.format, summary.slides) == (f"{hub.url}/lab/giga", "safetensors", 8)
    assert hub.repositories["lab/giga"]["commits"] == 2
    assert not hub.repositories["lab/giga"]["private"]  # as it was


def test_the_encoder_of_a_model_comes_with_it(chain, hub, written):
    hub.add("lab/theirs", written[0])
    tiled, trained = giga.open(chain("tile")), giga.open(chain("train"))
    with pytest.raises(GigaError, match="holds no features") as raised:
        giga.embed(tiled, model="hf://lab/theirs")
    assert raised.value.hint == f"run: giga bank {tiled.url} --encoder hf://lab/theirs"
    choice = choose_encoder(tiled, BankConfig.of({"encoder": "hf://lab/theirs"}))
    assert choice.name == "theirs"
    assert weights_hash(choice.weights) == trained.bank("random-resnet18").recipe.inputs["encoder"]


def test_without_a_network_the_cache_is_enough(store_at, hub, written, monkeypatch):
    from huggingface_hub import constants

    path = store_at("bank")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match="cannot be reached") as raised:
        giga.embed(path, model="hf://lab/giga")
    assert "copy that folder" in raised.value.hint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.add("lab/giga", written[0])
    download(HubAddress.of("hf://lab/giga"), "model")
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert giga.embed(path, model=f"hf://lab/giga@{hub.commit_of('lab/giga')}", views=2).embedding == "giga"
    assert hub.asked == []


@pytest.mark.parametrize(
    ("address", "says", "hint"),
    [
        ("hf://lab/gated", "given out on request only", "accept its terms at"),
        ("hf://lab/none", "has no model 'lab/none'", "hf auth login"),
        ("hf://lab/private", "has no model 'lab/private', or not for this user", "HF_TOKEN"),
        ("hf://lab/open@v9", "has no revision 'v9'", "/commits/main"),
        ("hf://lab/open", r"holds no model\.safetensors", "/tree/main"),
        ("hf://lab", "is no model on Hugging Face", "hf://ORG/NAME"),
        ("hf://lab/../x", "is no model on Hugging Face", "hf://ORG/NAME"),
    ],
)
def test_what_cannot_be_had(store_at, hub, monkeypatch, address, says, hint):
    monkeypatch.delenv("HF_TOKEN")
    hub.add("lab/gated", {"model.safetensors": b""}, gated=True)
    hub.add("lab/private", {"model.safetensors": b""}, private=True)
    hub.add("lab/open", {"pytorch_model.bin": b"pickled"})  # which nothing reads
    with pytest.raises(GigaError, match=says) as raised:
        giga.embed(store_at("bank"), model=address)
    assert hint in raised.value.hint
    assert len(raised.value.message.splitlines()) == 1


def test_what_cannot_be_written(chain, hub, monkeypatch, tmp_path):
    store = chain("embed")
    for what, to, error, says in (
        ("models", "hf://not-mine/giga", GigaError, "may not write hf://not-mine/giga"),
        ("models", "hf://lab/giga@v1", InvalidInput, "newest revision"),
        ("embeddings/giga", "hf://lab/giga", InvalidInput, "models and encoders go there"),
    ):
        with pytest.raises(error, match=says):
            giga.export(store, what, to=to)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_and_long_enough")
    with pytest.raises(GigaError, match="401") as raised:
        giga.export(store, "models", to="hf://lab/giga")
    assert "hf_wrong" not in str(raised.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NotFound, match="without a token") as raised:
        giga.export(store, "models", to="hf://lab/giga")
    assert "hf auth login" in raised.value.hint
    assert not hub.repositories


def test_a_file_that_giga_did_not_write_is_refused(store_at, hub):
    hub.add("lab/other", {"model.safetensors": b"not safetensors"})
    with pytest.raises(GigaError, match="is not a safetensors file"):
        giga.embed(store_at("bank"), model="hf://lab/other")


def test_huggingface_hub_is_asked_for(store_at, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NotFound, match="needs huggingface_hub") as raised:
        giga.embed(store_at("bank"), model="hf://lab/giga")
    assert ".[hub]" in raised.value.hint


def test_addresses():
    address = HubAddress.of("hf://lab/giga@refs/pr/1")
    assert (address.repository, address.revision, str(address)) == ("lab/giga", "refs/pr/1", "hf://lab/giga@refs/pr/1")
    with pytest.raises(InvalidInput, match="give one: `name`"):
        _ = HubAddress.of("hf://lab/-x").name_in_store()
