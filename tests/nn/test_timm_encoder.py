"""Models of timm against timm itself: its preprocessing, its own way to a model without a classifier, its weights."""

import hashlib
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.timm_encoder import TimmEncoder, import_timm
from gigacli.nn.vision_encoder import state_hash

CPU = torch.device("cpu")
MODELS = {"vit_tiny_patch16_224": 192, "test_vit": 64, "resnet10t": 512, "convnext_atto": 320}


def untrained(name, precision="fp32"):
    return TimmEncoder(name, device=CPU, precision=precision, pretrained=False)


def pictures(n, size_px):
    """n images, (n, 3, size_px, size_px) uint8, with coarse and fine structure."""
    generator = torch.Generator().manual_seed(n)
    coarse = F.interpolate(torch.rand(n, 3, 5, 5, generator=generator), size=(size_px, size_px), mode="bilinear")
    return (255 * (0.8 * coarse + 0.2 * torch.rand(coarse.shape, generator=generator))).byte()


def folder_of(model, path, *, drop=(), add=(), **config):
    """A folder as timm and Hugging Face keep a model, with the weights of `model`."""
    path.mkdir()
    state = {name: value for name, value in model.state_dict().items() if name not in drop}
    save_file({**state, **{name: torch.zeros(3) for name in add}}, path / "model.safetensors")
    settings = {**model.pretrained_cfg, "num_classes": model.num_classes}
    text = {"architecture": settings["architecture"], "pretrained_cfg": settings, "num_classes": model.num_classes}
    (path / "config.json").write_text(json.dumps({**text, **config}))
    return f"local-dir:{path}"


# What a model gives.


@pytest.mark.parametrize("name", MODELS)
def test_size_normalisation_and_width_are_the_models_own(name, timm):
    encoder = untrained(name)
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict(encoder.network.state_dict())
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    # A picture of the size that timm enlarges to before it crops, so that its preprocessing is a crop and a norm.
    px = config["input_size"][1]
    large = int(px / config["crop_pct"])
    pixels = pictures(3, large)
    prepared = torch.stack([transform(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in pixels])
    edge = round((large - px) / 2)
    with torch.inference_mode():
        expected = model(prepared)
    actual = encoder(pixels[:, :, edge : edge + px, edge : edge + px] / 255)
    assert encoder.input_px == px
    assert encoder.features == MODELS[name] == expected.shape[1]
    assert (encoder.mean, encoder.std) == (config["mean"], config["std"])
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "convnext_atto"])
def test_bf16_is_close(name, timm):
    exact, fast = untrained(name), untrained(name, "bf16")
    images = pictures(4, exact.input_px) / 255
    expected, actual = exact(images), fast(images)
    assert actual.dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 for p in fast.network.parameters())
    assert F.cosine_similarity(actual, expected).min() > 0.999
    assert 1e-4 < (actual - expected).norm() / expected.norm() < 0.03  # it was bf16, and nothing worse
    assert fast.weights_sha256 == exact.weights_sha256  # of the weights, not of what they are computed in
    torch.testing.assert_close(fast(images.bfloat16()), actual, rtol=0.05, atol=0.05)


def test_a_tile_does_not_depend_on_its_companions(timm):
    encoder, images = untrained("test_resnet"), pictures(4, 160) / 255
    before = images.clone()
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(alone, encoder(images), rtol=1e-5, atol=1e-6)
    assert torch.equal(images, before)


def test_another_size_is_refused(timm):
    with pytest.raises(InvalidInput, match=r"\(96, 96\) px; timm:test_vit takes 160 px"):
        untrained("test_vit")(torch.zeros(1, 3, 96, 96))


def test_random_weights_are_the_same_each_time(timm):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = untrained("test_vit").weights_sha256
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert untrained("test_vit").weights_sha256 == first
    assert untrained("test_vit2").weights_sha256 != first


# Weights.


def test_the_weights_are_those_of_the_folder(timm, tmp_path):
    model = timm.create_model("test_vit", num_classes=7).eval()  # random weights that no seed of giga gives
    name = folder_of(model, tmp_path / "mine")
    encoder = TimmEncoder(name, device=CPU, precision="fp32")
    images = pictures(2, 160) / 255
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images / 0.5 - 1), pre_logits=True)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)
    trunk = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    assert encoder.weights_sha256 == state_hash(trunk) != untrained("test_vit").weights_sha256


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"drop": ["norm.weight"]}, "norm.weight"), ({"add": ["extra.weight"]}, "extra.weight")],
    ids=["missing", "unexpected"],
)
def test_weights_of_another_model_are_refused(change, expected, timm, tmp_path):
    model = timm.create_model("test_vit")
    with pytest.raises(Mismatch, match=expected):
        TimmEncoder(folder_of(model, tmp_path / "mine", **change), device=CPU, precision="fp32")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"global_pool": ""}, r"turns 2 images into \(2, 101, 64\)"),
        ({"in_chans": 1}, r"takes images of \(1, 160, 160\)"),
    ],
    ids=["not pooled", "gray"],
)
def test_what_gives_no_vector_per_tile_is_refused(arguments, expected, timm, tmp_path):
    model = timm.create_model("test_vit", num_classes=0, **arguments)
    with pytest.raises(Mismatch, match=expected):
        TimmEncoder(folder_of(model, tmp_path / "mine", model_args=arguments), device=CPU, precision="fp32")


UNKNOWN = {
    "vit_tiny_pach16_224": ["no model 'vit_tiny_pach16_224'", "vit_tiny_patch16_224"],
    "resnet18.bogus": ["no weights 'resnet18.bogus'", "resnet18.a1_in1k"],
    "qqqq": ["no model 'qqqq'", "timm.list_models()"],
    "": ["no model ''"],
    "MahmoodLab/UNI": ["timm:hf-hub:MahmoodLab/UNI"],
    "local-dir:/no/such/folder": ["cannot be had", "/no/such/folder"],
    "test_vit": ["cannot be had", "HF_HOME"],  # timm knows it; there is no network
    "hf-hub:org/model": ["cannot be had", "HF_HOME", "timm:local-dir:FOLDER"],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_had_is_refused_with_a_remedy(name, timm):
    with pytest.raises(NotFound) as caught:
        TimmEncoder(name, device=CPU, precision="fp32")
    assert caught.value.hint
    for text in UNKNOWN[name]:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("GatedRepoError", "accept its licence at https://huggingface.co/org/model, then run: hf auth login"),
        ("RepositoryNotFoundError", "check the name"),
    ],
)
def test_what_hugging_face_refuses_is_explained(kind, expected, timm, monkeypatch):
    import huggingface_hub.utils

    base = getattr(huggingface_hub.utils, kind)
    refusal = type(kind, (base,), {"__init__": lambda self: Exception.__init__(self, "403 Forbidden")})

    def refuse(*_, **__):
        raise refusal

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(NotFound) as caught:
        TimmEncoder("hf-hub:org/model@v1", device=CPU, precision="fp32")
    assert expected in caught.value.hint


# timm itself.


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NotFound) as caught:
        import_timm()
    assert "pip install '.[timm]'" in caught.value.hint


@pytest.mark.parametrize(
    "defect", ["raise RuntimeError('operator torchvision::nms does not exist')", "import no_such_module_at_all"]
)
def test_a_timm_that_cannot_be_imported_is_explained(defect, tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text(defect)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(Mismatch, match=r"nms does not exist|no_such_module_at_all") as caught:
        import_timm()
    assert torch.__version__ in caught.value.hint
    assert "torchvision" in caught.value.hint


# Hashes and names.


def test_the_hash_is_over_names_types_shapes_and_bytes_in_the_order_of_names():
    state = {"b": torch.tensor(3), "a": torch.tensor([[1.0, 2.0]])}
    expected = hashlib.sha256(
        b"a\0torch.float32\0(1, 2)\0\x00\x00\x80\x3f\x00\x00\x00\x40" + b"b\0torch.int64\0()\0\x03" + bytes(7)
    )
    assert state_hash(state) == expected.hexdigest()


STATE = {"a": torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2), "b": torch.tensor([True, False])}
CHANGES = {
    "name": {"c": STATE["a"], "b": STATE["b"]},
    "dtype": {**STATE, "a": STATE["a"].view(torch.int32)},
    "shape": {**STATE, "a": STATE["a"].view(2, 3, 4)},
    "value": {**STATE, "b": torch.tensor([True, True])},
    "more": {**STATE, "c": torch.zeros(0)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_changes_the_hash(change):
    assert state_hash(CHANGES[change]) != state_hash(STATE)


def test_neither_order_nor_memory_layout_changes_the_hash():
    other = {"b": STATE["b"], "a": STATE["a"].to(memory_format=torch.channels_last)}
    assert state_hash(other) == state_hash(STATE)
