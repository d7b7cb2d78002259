"""Published encoders against what their publishers say, built without their weights; and files that stand for these."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import gigacli as giga
from gigacli.config.published import PUBLISHED, Published
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn import published_encoder as published_encoder_module
from gigacli.nn.published_encoder import build, pool_of, published_encoder

CPU = torch.device("cpu")

# Tokens of an image of 224 px (class, registers, patches), and millions of parameters, by the publishers' pages.
SAID = {
    "uni": (None, 303),
    "uni2-h": (None, 681),
    "virchow": (1 + 256, 631),
    "virchow2": (1 + 4 + 256, 631),
    "h-optimus-0": (None, 1135),
    "h-optimus-1": (None, 1135),
    "h0-mini": (1 + 4 + 256, 86),
    "prov-gigapath": (None, 1135),
    "phikon": (1 + 196, 86),
    "phikon-v2": (1 + 196, 303),
    "midnight-12k": (1 + 256, 1135),
    "kaiko-vits16": (None, 22),
    "kaiko-vitb16": (None, 86),
    "kaiko-vitl14": (None, 303),
    "lunit-vits16": (None, 22),
}
WIDTHS = {
    "uni": 1024,
    "uni2-h": 1536,
    "virchow": 2560,
    "virchow2": 2560,
    "h-optimus-0": 1536,
    "h-optimus-1": 1536,
    "h0-mini": 1536,
    "prov-gigapath": 1536,
    "phikon": 768,
    "phikon-v2": 1024,
    "midnight-12k": 3072,
    "kaiko-vits16": 384,
    "kaiko-vitb16": 768,
    "kaiko-vitl14": 1024,
    "lunit-vits16": 384,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_the_network_its_publisher_describes(timm, name):
    """On a device that computes shapes alone: the largest have more than a thousand million parameters."""
    one = PUBLISHED[name]
    with torch.device("meta"):
        network = build(one).eval()
        output = network(torch.zeros(2, 3, one.crop_px, one.crop_px))
    tokens, million = SAID[name]
    if tokens is not None:
        found = output if isinstance(output, torch.Tensor) else output.last_hidden_state
        assert found.shape[1] == tokens
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(million, rel=0.02)
    assert one.million == million
    assert pool_of(one, network)(output).shape == (2, one.width) == (2, WIDTHS[name])


def test_patch_tokens_are_averaged_beside_the_class_token_and_registers_do_not_count(timm):
    network = build(PUBLISHED["h0-mini"]).eval()
    assert network.num_prefix_tokens == 5
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = network(images)  # (2, 261, 768)
        pooled = pool_of(PUBLISHED["h0-mini"], network)(tokens)
    expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
    assert torch.equal(pooled, expected)


def test_images_are_normalised_and_cut_as_published(timm):
    encoder = published_encoder("lunit-vits16", device=CPU, precision="fp32", pretrained=False)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in PUBLISHED["lunit-vits16"].normalisation)
    with torch.inference_mode():
        expected = encoder.network((images - mean) / std)
    assert torch.equal(encoder(images), expected)
    assert (encoder.features, encoder.input_px) == (384, 224)
    again = published_encoder("lunit-vits16", device=CPU, precision="fp32", pretrained=False)
    assert again.weights_sha256 == encoder.weights_sha256


@pytest.mark.parametrize(("name", "ending"), [("lunit-vits16", "safetensors"), ("phikon", "bin")])
def test_weights_of_a_file_and_of_a_folder(timm, tmp_path, monkeypatch, name, ending):
    if name == "phikon":  # one layer of it is enough
        small = replace(PUBLISHED[name], arguments={**PUBLISHED[name].arguments, "num_hidden_layers": 1})
        monkeypatch.setitem(PUBLISHED, name, small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = {key: value.clone() for key, value in build(PUBLISHED[name]).state_dict().items()}
    before = {f"vit.{key}" if name == "phikon" else key: value for key, value in state.items()}
    file = tmp_path / ("model.safetensors" if ending == "safetensors" else "pytorch_model.bin")
    head = {"head.weight": torch.zeros(2, 2)}
    if ending == "safetensors":
        save_file({**before, **head}, file)
    else:
        torch.save({**before, **head}, file)
    for place in (file, tmp_path):
        encoder = published_encoder(name, device=CPU, precision="fp32", weights=place)
        assert all(torch.equal(value, state[key]) for key, value in encoder.network.state_dict().items())


def test_files_that_are_no_weights_of_it(timm, tmp_path):
    with pytest.raises(NotFound, match="holds no weights") as caught:
        published_encoder("lunit-vits16", device=CPU, precision="fp32", weights=tmp_path)
    assert "model.safetensors or pytorch_model.bin" in caught.value.hint
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(Mismatch, match=r"no weights of lunit-vits16: .* are missing, 1 too many") as caught:
        published_encoder("lunit-vits16", device=CPU, precision="fp32", weights=tmp_path / "other.safetensors")
    assert "https://huggingface.co/1aurent/vit_small_patch16_224.lunit_dino" in caught.value.hint
    torch.save({"a": Exception("run me")}, tmp_path / "pickle.bin")
    with pytest.raises(Mismatch, match="cannot be read as weights"):
        published_encoder("lunit-vits16", device=CPU, precision="fp32", weights=tmp_path / "pickle.bin")


def test_without_weights_and_a_network_it_says_how_to_get_them(timm, monkeypatch):
    monkeypatch.setattr(published_encoder_module, "build", lambda one: torch.nn.Identity())
    with pytest.raises(NotFound, match="weights of virchow2 cannot be had") as caught:
        published_encoder("virchow2", device=CPU, precision="fp32")
    assert "--weights FILE" in caught.value.hint


def test_a_bank_of_a_published_encoder(timm, store_at, tmp_path, monkeypatch):
    """Its weights stay where they are; the store says whose they are."""
    tiny = Published(
        hub="nobody/tiny",
        loader="timm",
        architecture="vit_tiny_patch16_224",
        arguments={"img_size": 32},
        pooling="class+mean",
        width=384,
        million=6,
        input_px=48,
        crop_px=32,
        licence="none",
    )
    monkeypatch.setitem(PUBLISHED, "tiny", tiny)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        save_file(build(tiny).state_dict(), tmp_path / "model.safetensors")
    path, options = store_at("tile"), {"augmentations": 2, "draws": 4, "precision": "fp32"}
    giga.bank(path, encoder="tiny", weights=tmp_path, **options)
    store = giga.open(path)
    assert store.bank("tiny").width == 384
    assert store.encoder("tiny").config["published"] == "tiny"
    assert not store.encoder("tiny").has("weights")
    assert giga.validate(path).problems == []
    with pytest.raises(NotFound, match="does not keep the weights") as caught:
        giga.export(path, "encoders/tiny", to=tmp_path / "again.safetensors")
    assert caught.value.hint.endswith("giga bank STORE --encoder tiny")
    again = giga.bank(path, weights=tmp_path)
    assert (again.bank, again.done, again.tiles) == ("tiny", 0, 0)
    with pytest.raises(NotFound, match="weights of tiny cannot be had"):
        giga.bank(path)
    with pytest.raises(InvalidInput, match="'random-resnet18' is none"):
        giga.bank(path, encoder="random-resnet18", weights=tmp_path, **options)


def test_the_list(tmp_path, monkeypatch):
    from huggingface_hub import constants

    cache = tmp_path / "models--owkin--phikon" / "snapshots" / "abc"
    cache.mkdir(parents=True)
    (cache / "model.safetensors").write_bytes(b"")
    (tmp_path / "models--owkin--phikon" / "refs").mkdir()
    (tmp_path / "models--owkin--phikon" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = giga.encoders()
    assert found.cache == str(tmp_path)
    assert [row.name for row in found.encoders] == list(PUBLISHED)
    assert [row.name for row in found.encoders if row.here] == ["phikon"]
    assert [row.name for row in giga.encoders(here=True).encoders] == ["phikon"]
