"""giga bank --encoder: weights from files, models of timm, compiled or not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gigacli as giga
from gigacli.errors import Mismatch
from gigacli.nn.augment import augment, draw_augmentation, fold, unchanged
from gigacli.nn.tile_encoder import random_resnet18, weights_to_bytes
from gigacli.nn.timm_encoder import TimmEncoder
from gigacli.progress import Silent
from gigacli.randomness import keyed_rng
from gigacli.wsi.slide import Slide

CPU = torch.device("cpu")


def pixels(store, row, tiles):
    slide, coords = store.slides[row], store.root["tiles/coords"][row]
    with Slide(slide.path, mpp=slide.mpp) as opened:
        images = [opened.read(*map(int, coords[t]), tile_px=64, mpp=1.0) for t in tiles]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


@pytest.fixture
def vit(timm, tmp_path):
    """A small vision transformer in a folder, as timm publishes them."""
    model = timm.create_model("test_vit", pretrained=False)
    folder = tmp_path / "small-vit"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {**model.pretrained_cfg, "num_classes": model.num_classes}
    text = {"architecture": settings["architecture"], "pretrained_cfg": settings, "num_classes": model.num_classes}
    (folder / "config.json").write_text(json.dumps(text))
    return f"timm:local-dir:{folder}"


def test_a_model_of_timm_sees_tiles_at_its_own_size(store_at, vit):
    path = store_at("tile")
    summary = giga.bank(path, encoder=vit, augmentations=2, draws=4, precision="fp32")
    assert (summary.bank, summary.failed) == ("small-vit", 0)
    store, encoder = giga.open(path), TimmEncoder(vit.removeprefix("timm:"), device=CPU, precision="fp32")
    assert store.bank("small-vit").recipe.inputs["encoder"] == encoder.weights_sha256
    count, px = int(store.root["tiles/count"][3]), encoder.input_px
    images = pixels(store, 3, range(count))
    whole = fold(unchanged(64), tile_px=64, out_px=px, device=CPU)
    plain = store.root["features/small-vit/vectors"][3, :count]
    np.testing.assert_allclose(plain, encoder(augment(images, whole)).numpy(), rtol=2e-3, atol=2e-3)
    tile = store.root["banks/small-vit/tile"][3, 1]
    sets = draw_augmentation(keyed_rng(0, "augmentation", store.slides[3].id, 1), 1, tile_px=64)
    views = augment(images[tile.astype(np.int64)], fold(sets, tile_px=64, out_px=px, device=CPU))
    np.testing.assert_allclose(
        store.root["banks/small-vit/vectors"][3, 1], encoder(views).numpy(), rtol=2e-3, atol=2e-3
    )
    assert not giga.validate(path).problems
    assert giga.bank(path).skipped == 8  # by its name in the store


def test_other_weights_under_the_same_name_are_refused(store_at, vit, timm):
    path = store_at("tile")
    options = {"augmentations": 1, "draws": 2, "precision": "fp32", "name": "vit"}
    giga.bank(path, encoder=vit, **options)
    folder = Path(vit.removeprefix("timm:local-dir:"))
    save_file(timm.create_model("test_vit").state_dict(), folder / "model.safetensors")  # drawn anew
    with pytest.raises(Mismatch, match=r"encoder: \w+ here, \w+ asked for"):
        giga.bank(path, encoder=vit, **options)


def test_a_trunk_without_layer4_is_a_tile_encoder(store_at, tmp_path, monkeypatch):
    """MoCo's layout, in which only the query encoder counts; what was found is said."""
    network = random_resnet18(7)
    state = {f"module.encoder_q.{k}": v for k, v in network.state_dict().items() if not k.startswith("layer4")}
    torch.save({"state_dict": {**state, "module.queue": torch.zeros(4)}}, tmp_path / "moco.pth.tar")
    said = []
    monkeypatch.setattr(Silent, "say", lambda self, message: said.append(message))
    path = store_at("tile")
    options = {"augmentations": 1, "draws": 2, "precision": "fp32"}
    giga.bank(path, encoder=str(tmp_path / "moco.pth.tar"), name="trunk", **options)
    assert any("prefix module.encoder_q. dropped" in s and "queue (1)" in s for s in said)
    (tmp_path / "whole.safetensors").write_bytes(weights_to_bytes(network))
    giga.bank(path, encoder=str(tmp_path / "whole.safetensors"), name="whole", **options)
    store = giga.open(path)
    np.testing.assert_array_equal(store.root["banks/trunk/vectors"][:], store.root["banks/whole/vectors"][:])


def test_a_compiled_encoder_gives_the_same_features(store_at, chain, chunks):
    """Compiled or not is part of the recipe; a shard that goes on follows it."""
    path, name = store_at("tile"), "random-resnet18"
    options = {"encoder": name, "augmentations": 3, "draws": 8, "precision": "fp32"}
    giga.bank(path, **options, compile="yes", batch_size=8, shard="1/2")
    giga.bank(path, shard="2/2", batch_size=8)
    store = giga.open(path)
    assert store.bank(name).recipe.config["compile"] == "yes"
    ours, theirs = (s.root[f"banks/{name}/vectors"][:].astype(np.float32) for s in (store, giga.open(chain("bank"))))
    np.testing.assert_allclose(ours, theirs, rtol=3e-3, atol=3e-3)
    with pytest.raises(Mismatch, match="compile: yes here, no asked for"):
        giga.bank(path, **options, compile="no")


def test_bf16_features_are_near_fp32(chain, store_at):
    """Within 1 % of fp32, and in the same direction."""
    path, name = store_at("tile"), "random-resnet18"
    giga.bank(path, encoder=name, augmentations=3, draws=8, precision="bf16")
    ours, theirs = (
        giga.open(p).root[f"banks/{name}/vectors"][:].reshape(-1, 256).astype(np.float64) for p in (path, chain("bank"))
    )
    there = np.isfinite(theirs).all(axis=1)
    ours, theirs = ours[there], theirs[there]
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    assert (np.linalg.norm(ours - theirs, axis=1) / norms[1]).max() < 0.01
    assert ((ours * theirs).sum(axis=1) / (norms[0] * norms[1])).min() > 0.9999
