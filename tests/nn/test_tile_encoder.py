"""ResNet18 against its definition in functional form, folding against the network."""

import pytest
import torch
import torch.nn.functional as F

from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.tile_encoder import ResNet18, random_resnet18

CPU = torch.device("cpu")


def names_and_shapes():
    """torchvision's ResNet18 without fc, from the rule of the architecture (He et al. 2016, table 1)."""

    def norm(name, width):
        vectors = {f"{name}.{field}": (width,) for field in ("weight", "bias", "running_mean", "running_var")}
        return {**vectors, f"{name}.num_batches_tracked": ()}

    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, 3, 3), **norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **norm(f"{name}.bn2", width)}
            if before != width:
                shapes |= {f"{name}.downsample.0.weight": (width, before, 1, 1), **norm(f"{name}.downsample.1", width)}
            before = width
    return shapes


def by_definition(state, images, *, layers):
    """ResNet18 in eval mode from its weights, up to a layer: (n, 3, h, w) -> (n, c, h', w')."""

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for layer in range(1, layers + 1):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            inner = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            outer = norm(F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = F.relu(outer + x)
    return x


@pytest.fixture(scope="module")
def network():
    """A ResNet18 in eval mode whose batch norms do something."""
    network, generator = random_resnet18(1).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return network


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, size=(96, 96)).add(0.1 * torch.rand(4, 3, 96, 96, generator=generator)).clamp(0, 1)


def same(first, second):
    return all(torch.equal(v, second[k]) for k, v in first.items()) and first.keys() == second.keys()


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# The network.


def test_names_and_shapes_are_torchvisions():
    expected = names_and_shapes()
    assert {name: tuple(value.shape) for name, value in ResNet18().state_dict().items()} == expected
    assert len(expected) == 120


def test_the_network_is_resnet18_by_definition(network, images):
    state = network.state_dict()
    with torch.inference_mode():
        assert by_definition(state, images, layers=4).shape == (4, 512, 3, 3)
        assert relative_error(network(images), by_definition(state, images, layers=4).mean((2, 3))) < 1e-5
        features = network.tile_features(images)
        assert features.shape == (4, 256)
        assert relative_error(features, by_definition(state, images, layers=3).mean((2, 3))) < 1e-5


def test_initial_weights_are_kaimings():
    weight = random_resnet18(0).layer3[0].conv1.weight  # (256, 128, 3, 3)
    assert weight.mean().abs() < 1e-4
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)  # fan out, ReLU


def test_random_weights_are_a_function_of_the_seed_alone():
    before = torch.get_rng_state()
    first = random_resnet18(7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert same(random_resnet18(7).state_dict(), first)
    assert not torch.equal(random_resnet18(8).state_dict()["conv1.weight"], first["conv1.weight"])


# Frozen.


def test_folding_changes_nothing_but_speed(network, images):
    encoder = FrozenTileEncoder(network, device=CPU, precision="fp32")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.network.modules())
    with torch.inference_mode():
        expected = network.tile_features(images)
    assert relative_error(encoder(images), expected) < 1e-4


def test_bf16_is_close(network, images):
    actual = FrozenTileEncoder(network, device=CPU, precision="bf16")(images)
    assert actual.dtype == torch.float32
    with torch.inference_mode():
        expected = network.tile_features(images)
    assert F.cosine_similarity(actual, expected).min() > 0.999
    assert relative_error(actual, expected) < 0.02
    assert relative_error(actual, expected) > 1e-4  # it was bf16


@pytest.mark.parametrize("training", [True, False])
def test_folding_leaves_the_network_as_it_was(training):
    network = random_resnet18(3).train(training)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    rng = torch.get_rng_state()
    FrozenTileEncoder(network, device=CPU, precision="bf16")
    assert same(network.state_dict(), state)
    assert network.training is training
    assert isinstance(network.bn1, torch.nn.BatchNorm2d)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_tile_does_not_depend_on_its_companions(network, images):
    encoder = FrozenTileEncoder(network, device=CPU, precision="fp32")
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(alone, encoder(images), rtol=1e-5, atol=1e-6)
