"""ResNet18 weights from files, as they are published."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gigacli.errors import Mismatch, NotFound
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.tile_encoder import random_resnet18, weights_hash, weights_to_bytes
from gigacli.weights.resnet18 import read_resnet18, resnet18_from_bytes, resnet18_from_state


@pytest.fixture(scope="module")
def network():
    """A ResNet18 in eval mode in which no two tensors are alike."""
    network, generator = random_resnet18(1).eval(), torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
    return network


def same(first, second):
    return all(torch.equal(v, second[k]) for k, v in first.items()) and first.keys() == second.keys()


def test_bytes_round_trip(network):
    data = weights_to_bytes(network)
    again = resnet18_from_bytes(data)
    assert same(again.state_dict(), network.state_dict())
    assert weights_to_bytes(again) == data
    assert weights_hash(data) == hashlib.sha256(data).hexdigest()


def _prefixed(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


def _with_classifier(state):
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def _moco(state):
    """As He et al.'s code saves it: two encoders with heads, a queue, and numbers beside the weights."""
    heads = {f"module.encoder_{e}.fc.{i}.weight": torch.zeros(128, 512) for e in "qk" for i in (0, 2)}
    query = _prefixed("module.encoder_q.")(state)
    key = {name.replace("encoder_q", "encoder_k"): torch.zeros_like(value) for name, value in query.items()}
    queue = {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": {**key, **query, **heads, **queue},
        "optimizer": {"lr": 0.1},
    }


NUMBERS = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}


def _numbered(state, numbers=NUMBERS):
    """As nn.Sequential(*resnet.children()) names it."""
    parts = {name: name.split(".", 1) for name in state}
    return {f"{numbers[first]}.{rest}": state[name] for name, (first, rest) in parts.items()}


def _ciga(state):
    """As Ciga et al. publish theirs: a projection head in the place of fc."""
    head = {f"fc.{i}.{field}": torch.zeros(3) for i in (1, 3) for field in ("weight", "bias")}
    return {"state_dict": _prefixed("model.resnet.")({**state, **head}), "hyper_parameters": {"lr": 0.1}}


def _lightly(state):
    """A SimCLR of lightly over torchvision's ResNet18."""
    head = {"projection_head.layers.0.weight": torch.zeros(3), "backbone_momentum.0.weight": torch.zeros(3)}
    return {"state_dict": {**_prefixed("backbone.")(_numbered(state)), **head}}


LAYOUTS = {
    "torchvision": _with_classifier,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "module.": _prefixed("module."),
    "backbone.": _prefixed("backbone."),
    "encoder_q.": _prefixed("encoder_q."),
    "Ciga": _ciga,
    "lightly": _lightly,
    "numbers with a classifier": lambda state: _numbered(_with_classifier(state)),
    "compiled": _prefixed("_orig_mod."),
    "model": lambda state: {"model": _prefixed("module.")(state), "optimizer": {}},
    "half precision": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    "before num_batches_tracked": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "MoCo": _moco,
}


REPORTS = {
    "torchvision": "120 of 122 tensors have a ResNet18's names; left out: fc (2)",
    "before num_batches_tracked": "100 of 100 tensors have a ResNet18's names",
    "MoCo": "120 of 246 tensors have a ResNet18's names; prefix module.encoder_q. dropped; "
    "left out: encoder_k (122), fc (2), queue (1), queue_ptr (1)",
    "Ciga": "120 of 124 tensors have a ResNet18's names; prefix model.resnet. dropped; left out: fc (4)",
    "lightly": "120 of 122 tensors have a ResNet18's names; prefix backbone. dropped; "
    "numbers read as torchvision's parts; left out: projection_head (1), backbone_momentum (1)",
}


@pytest.mark.parametrize("layout", REPORTS)
def test_the_report_accounts_for_every_tensor(layout, network, tmp_path):
    torch.save(LAYOUTS[layout](network.state_dict()), tmp_path / "weights.pth")
    _, report = read_resnet18(tmp_path / "weights.pth")
    assert str(report) == REPORTS[layout]
    assert report.used + sum(report.left_out.values()) == report.tensors
    assert report.problems() == ""
    assert (report.kind, report.layer4) == ("ResNet18", True)


def test_the_numbers_are_those_of_torchvisions_children(network, timm):
    from torchvision.models import resnet18

    original = resnet18()
    original.load_state_dict(network.state_dict(), strict=False)
    state = torch.nn.Sequential(*list(original.children())[:-1]).state_dict()
    assert same(resnet18_from_state(state, origin="weights")[0].state_dict(), network.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_load(layout, network, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](network.state_dict()), path)
    loaded = read_resnet18(path)[0].state_dict()
    atol = 1e-2 if layout == "half precision" else 0
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=atol)
        assert loaded[name].dtype == value.dtype


def test_a_safetensors_file_loads(network, tmp_path):
    save_file(_prefixed("backbone.")(_with_classifier(network.state_dict())), tmp_path / "weights.safetensors")
    assert same(read_resnet18(tmp_path / "weights.safetensors")[0].state_dict(), network.state_dict())


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"nothing\.pth"):
        read_resnet18(tmp_path / "nothing.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_garbage_is_refused(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"these are no weights, whatever the name of the file says")
    with pytest.raises(Mismatch, match="cannot be read as weights") as caught:
        read_resnet18(path)
    assert str(path) in caught.value.message


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "pickled code was run")


def test_pickled_code_is_not_run(network, tmp_path):
    proof = tmp_path / "proof"
    torch.save({**network.state_dict(), "evil": Evil(proof)}, tmp_path / "weights.pth")
    with pytest.raises(Mismatch, match="pickled code is not run") as caught:
        read_resnet18(tmp_path / "weights.pth")
    assert not proof.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice is to run it after all
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert proof.exists()  # the file was loaded indeed


def _trunk(state):
    return {name: value for name, value in state.items() if not name.startswith("layer4.")}


@pytest.mark.parametrize("layout", ["torchvision", "numbers"])
def test_weights_up_to_layer3_are_a_tile_encoder(layout, network, tmp_path):
    state = _trunk(network.state_dict())
    save_file(_numbered(state) if layout == "numbers" else state, tmp_path / "trunk.safetensors")
    loaded, report = read_resnet18(tmp_path / "trunk.safetensors", trunk=True)
    assert loaded.layer4 is None
    assert not report.layer4
    assert str(report).startswith("90 of 90 tensors have a ResNet18's names, none of layer4")
    again = resnet18_from_bytes(weights_to_bytes(loaded), trunk=True)  # as the store keeps it
    assert again.layer4 is None
    assert same(again.state_dict(), state)
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network.tile_features(images)
    features = FrozenTileEncoder(again, device=torch.device("cpu"), precision="fp32")(images)
    assert ((features - expected).norm() / expected.norm()).item() < 1e-4


def test_a_whole_network_keeps_its_layer4_where_a_trunk_would_do(network):
    loaded = resnet18_from_bytes(weights_to_bytes(network), trunk=True)
    assert same(loaded.state_dict(), network.state_dict())


def test_weights_up_to_layer3_are_no_network_to_train(network, tmp_path):
    save_file(_trunk(network.state_dict()), tmp_path / "trunk.safetensors")
    with pytest.raises(Mismatch, match=r"25 missing \(layer4\.0\.conv1\.weight") as caught:
        read_resnet18(tmp_path / "trunk.safetensors")
    assert "without layer4 it is a tile encoder" in caught.value.hint


@pytest.mark.parametrize("drop", ["layer4.1.bn2.bias", "layer3.1.bn2.bias"])
def test_a_trunk_is_whole_layers(drop, network):
    """Part of a layer4 is a damaged file; without layer3 there is no tile encoder."""
    state = network.state_dict() if drop.startswith("layer4") else _trunk(network.state_dict())
    with pytest.raises(Mismatch, match=rf"1 missing \({drop}\)"):
        resnet18_from_state(_without(drop)(state), origin="weights.pth", trunk=True)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101"])
def test_other_resnets_are_refused_by_name(name, timm):
    import torchvision

    state = getattr(torchvision.models, name)().state_dict()
    for trunk in (False, True):
        with pytest.raises(Mismatch, match=f"looks like a {name.replace('resnet', 'ResNet')}") as caught:
            resnet18_from_state(_trunk(state) if trunk else state, origin="weights.pth", trunk=trunk)
        assert "timm:NAME" in caught.value.hint


def test_numbers_in_another_order_are_refused(network):
    """lightly's own ResNet has no relu and maxpool among its children, and is another network."""
    order = {part: i for i, part in enumerate(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"))}
    with pytest.raises(Mismatch, match=r"100 missing .* left out: .*2 \(24\)") as caught:
        resnet18_from_state(_prefixed("backbone.")(_numbered(network.state_dict(), order)), origin="weights.pth")
    assert "4 to 7 layer1 to layer4" in caught.value.hint


def _without(*names):
    return lambda state: {k: v for k, v in state.items() if k not in names}


def _resnet34(state):
    return {**state, **{k.replace("layer1.1", "layer1.2"): v for k, v in state.items() if k.startswith("layer1.1")}}


REFUSED = {
    "missing": (_without("layer2.0.conv1.weight", "bn1.bias"), ["2 missing", "bn1.bias", "layer2.0.conv1.weight"]),
    "shape": (lambda s: {**s, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, ["shape", "layer1.0.conv1.weight"]),
    "both shapes": (
        lambda s: {**s, "conv1.weight": torch.zeros(64, 3, 3, 3)},
        ["(64, 3, 3, 3), expected (64, 3, 7, 7)"],
    ),
    "values": (lambda s: {**s, "bn1.bias": torch.full((64,), torch.nan)}, ["1 not finite (bn1.bias)"]),
    "several": (lambda s: {"teacher": s, "student": s}, ["no tensors by name, but teacher, student"]),
    "deeper": (_resnet34, ["12 unexpected", "layer1.2.bn1.bias"]),
    "empty": (lambda _: {}, ["missing", "bn1.bias"]),
    "another network": (lambda _: {"patch_embed.proj.weight": torch.zeros(2, 2)}, ["missing", "bn1.bias"]),
    "two networks": (lambda s: {**_prefixed("encoder.")(s), **_prefixed("backbone.")(s)}, ["twice", "bn1.bias"]),
    "no names": (lambda s: [s["conv1.weight"]], ["list", "weights by name"]),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_what_is_no_resnet18_is_refused_by_name(defect, network):
    spoil, expected = REFUSED[defect]
    with pytest.raises(Mismatch) as caught:
        resnet18_from_state(spoil(network.state_dict()), origin="weights.pth")
    assert caught.value.message.startswith("weights.pth")
    for text in expected:
        assert text in caught.value.message
