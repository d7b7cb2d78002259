"""The whole slide encoder against a masked dense network of conv2d, values and gradients, in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gigacli.errors import InvalidInput, Mismatch
from gigacli.nn.slide_encoder import Projector, SlideEncoder, SparseBlock
from gigacli.nn.views import CELL, ViewBatch, augment_positions, cells_of, draw_slide_augmentation

EXACT = {"rtol": 1e-10, "atol": 1e-10}
C_IN, WIDTH = 4, 6
MARGIN = 4  # even: dense output q of the strided convolution is sparse output q - MARGIN / 2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_encoder(seed=0, *, blocks=2):
    """A float64 encoder whose batch norms are not the identity."""
    encoder = SlideEncoder(C_IN, width=WIDTH, blocks=blocks, generator=seeded(seed)).double()
    generator = seeded(seed + 1)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high, generator=generator)
    return encoder


def make_batch(kind, *, seed=0):
    """Views of 7 tiles each, by kind of layout; cells are relative to nothing in particular for `negative`."""
    generator = seeded(seed + 100)
    b, t = 5, 7
    cells = torch.randint(0, 11, (b, t, 2), generator=generator)
    if kind == "crowded":
        cells %= 3
    elif kind == "negative":
        cells -= 4
    elif kind == "odd one out":  # one view with all tiles on one cell, one in a column, one far apart
        cells[1] = 0
        cells[2, :, 1] = 5
        cells[3] *= 2
    elif kind == "one tile":
        cells = torch.zeros(b, 1, 2, dtype=torch.int64)
    features = torch.randn(*cells.shape[:2], C_IN, generator=generator, dtype=torch.float64)
    return ViewBatch(features.requires_grad_(), cells)


KINDS = ("plain", "crowded", "negative", "odd one out", "one tile")


def torchvision_names(encoder):
    """The encoder's weights as a dense ResNet `layer4` would hold them: (c_out, c_in, kh, kw), kh on y."""

    def conv(weight):
        edge = math.isqrt(len(weight))
        return weight.reshape(edge, edge, *weight.shape[1:]).permute(3, 2, 0, 1)

    named = {}
    for i, block in enumerate(encoder.blocks):
        parts = [("conv1", "bn1", block.conv1, block.bn1), ("conv2", "bn2", block.conv2, block.bn2)]
        if i == 0:
            parts.append(("downsample.0", "downsample.1", block.shortcut, block.bn_shortcut))
        for conv_name, norm_name, kernel, norm in parts:
            named[f"layer4.{i}.{conv_name}.weight"] = conv(kernel)
            for field in ("weight", "bias", "running_mean", "running_var"):
                named[f"layer4.{i}.{norm_name}.{field}"] = getattr(norm, field)
    return named


class DenseLayer4:
    """The oracle: every layer on a padded grid, inactive cells set to zero after each of them."""

    def __init__(self, named, *, training):
        self.named, self.training, self.after = named, training, {}

    def norm(self, name, x, mask):
        weight, bias, mean, var = (
            self.named[f"{name}.{field}"] for field in ("weight", "bias", "running_mean", "running_var")
        )
        if self.training:
            n = mask.sum()
            batch_mean = (x * mask).sum((0, 2, 3)) / n
            batch_var = ((x - batch_mean[:, None, None]).square() * mask).sum((0, 2, 3)) / n
            self.after[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.after[f"{name}.running_var"] = 0.9 * var + 0.1 * batch_var * n / (n - 1)
            mean, var = batch_mean, batch_var
        scale = weight / (var + 1e-5).sqrt()
        return ((x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]) * mask

    def block(self, i, x, mask, first, shortcut):
        name = f"layer4.{i}"
        inner = F.relu(self.norm(f"{name}.bn1", first(x, self.named[f"{name}.conv1.weight"]), mask))
        outer = self.norm(f"{name}.bn2", F.conv2d(inner, self.named[f"{name}.conv2.weight"], padding=1) * mask, mask)
        return F.relu(outer + shortcut(x)) * mask

    def __call__(self, batch, *, blocks=2):
        x, active = to_dense(batch)
        mask = (F.conv2d(active, torch.ones(1, 1, 3, 3).double(), stride=2) > 0).double()

        def skip(x):
            mean = F.avg_pool2d(x, 3, stride=2)
            return self.norm("layer4.0.downsample.1", F.conv2d(mean, self.named["layer4.0.downsample.0.weight"]), mask)

        x = self.block(0, x, mask, lambda x, w: F.conv2d(x, w, stride=2), skip)
        for i in range(1, blocks):
            x = self.block(i, x, mask, lambda x, w: F.conv2d(x, w, padding=1), lambda x: x)
        return (x * mask).sum((2, 3)) / mask.sum((2, 3))


def to_dense(batch):
    """Mean of the tiles on each cell, (b, c, edge, edge), and its mask, with an even margin around all cells."""
    b, t, c = batch.features.shape
    low = int(batch.cells.min()) // 2 * 2 - MARGIN
    edge = int(batch.cells.max()) - low + MARGIN
    edge += 1 - edge % 2
    y, x = (batch.cells.flatten(0, 1) - low).T
    where = (torch.arange(b).repeat_interleave(t), y, x)
    count = torch.zeros(b, edge, edge).double().index_put_(where, torch.ones(b * t).double(), accumulate=True)
    values = batch.features.flatten(0, 1) / count[where][:, None]
    grid = torch.zeros(b, edge, edge, c).double().index_put(where, values, accumulate=True)
    return grid.permute(0, 3, 1, 2), (count > 0).double()[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_encoder_equals_the_masked_dense_network(kind, training):
    encoder = make_encoder().train(training)
    batch = make_batch(kind)
    oracle = DenseLayer4(torchvision_names(copy.deepcopy(encoder)), training=training)
    theirs = oracle(batch)
    ours = encoder(batch)
    torch.testing.assert_close(ours, theirs, **EXACT)
    after = torchvision_names(encoder)
    for name, expected in oracle.after.items():
        torch.testing.assert_close(after[name], expected.detach(), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_equal_those_of_the_masked_dense_network(kind, training):
    encoder = make_encoder().train(training)
    batch = make_batch(kind)
    inputs = (batch.features, *encoder.parameters())
    theirs = DenseLayer4(torchvision_names(encoder), training=training)(batch)
    functional = torch.randn(theirs.shape, generator=seeded(7), dtype=torch.float64)
    expected = torch.autograd.grad(theirs, inputs, functional)
    result = torch.autograd.grad(encoder(batch), inputs, functional)
    assert len(expected) == 1 + 5 + 5 * 2
    for ours, dense in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, dense, **EXACT)


@pytest.mark.parametrize("blocks", [1, 3])
def test_other_depths_equal_the_masked_dense_network(blocks):
    encoder = make_encoder(blocks=blocks).eval()
    batch = make_batch("plain")
    theirs = DenseLayer4(torchvision_names(encoder), training=False)(batch, blocks=blocks)
    torch.testing.assert_close(encoder(batch), theirs, **EXACT)


def test_stride_1_knows_no_parity_and_equals_the_masked_dense_network():
    encoder = SlideEncoder(C_IN, width=WIDTH, stride=1, generator=seeded()).double().eval()
    batch = make_batch("plain")
    moved = ViewBatch(batch.features, batch.cells + torch.tensor([1, 3]))
    assert torch.equal(encoder(moved), encoder(batch))
    named = {name: value / (1 + 1e-5) ** 0.5 for name, value in torchvision_names(encoder).items() if value.ndim == 4}
    x, mask = to_dense(batch)
    skipped = F.conv2d(x, named["layer4.0.downsample.0.weight"])
    for i in range(2):
        inner = F.relu(F.conv2d(x, named[f"layer4.{i}.conv1.weight"], padding=1)) * mask
        outer = F.conv2d(inner, named[f"layer4.{i}.conv2.weight"], padding=1)
        x = F.relu(outer + (x if i else skipped)) * mask
    torch.testing.assert_close(encoder(batch), x.sum((2, 3)) / mask.sum((2, 3)), **EXACT)


def test_spconv_embeds_like_torch():
    batch = ViewBatch(torch.randn(5, 7, 16, generator=seeded(3)), make_batch("crowded").cells)
    ours, theirs = (SlideEncoder(16, width=32, backend=name, generator=seeded()).eval() for name in ("torch", "spconv"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(batch), ours(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_permuting_tiles_changes_nothing_and_permuting_views_permutes(training):
    batch = make_batch("crowded")
    tiles, views = torch.randperm(7, generator=seeded(1)), torch.randperm(5, generator=seeded(2))
    reference = make_encoder().train(training)(batch)
    tiles_moved = make_encoder().train(training)(ViewBatch(batch.features[:, tiles], batch.cells[:, tiles]))
    views_moved = make_encoder().train(training)(ViewBatch(batch.features[views], batch.cells[views]))
    torch.testing.assert_close(tiles_moved, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(views_moved, reference[views], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_alone_equals_the_view_in_a_batch(kind):
    encoder, batch = make_encoder().eval(), make_batch(kind)
    together = encoder(batch)
    for i in range(len(together)):
        alone = encoder(ViewBatch(batch.features[i : i + 1], batch.cells[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)


def test_a_slide_may_lie_anywhere():
    """Through `cells_of`: moving a slide, by whole tiles or by anything, gives the same vector bit for bit."""
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 20, (4, 7, 2)).astype(float)
    drawn = draw_slide_augmentation(4, rng)
    encoder, features = make_encoder().eval(), make_batch("plain").features[:4]

    def vectors(moved):
        return encoder(ViewBatch(features, torch.from_numpy(cells_of(augment_positions(moved, drawn)))))

    reference = vectors(positions)
    for offset in (1.0, -17.0, 3 * CELL, 1234.567):
        assert torch.equal(vectors(positions + offset), reference)


def test_the_arrangement_of_tiles_matters():
    encoder, batch = make_encoder().eval(), make_batch("plain")
    elsewhere = make_batch("plain", seed=1).cells
    assert (encoder(batch) - encoder(ViewBatch(batch.features, elsewhere))).abs().max() > 1e-2


def test_bfloat16_is_close_to_float32():
    batch = make_batch("plain")
    batch = ViewBatch(batch.features.detach().float(), batch.cells)
    encoder = make_encoder().float()
    full = encoder(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(batch)
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, full).min() > 0.999
    half.square().sum().backward()
    assert {p.grad.dtype for p in encoder.parameters()} == {torch.float32}
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_weights_are_a_function_of_the_generator_alone():
    state = torch.get_rng_state()

    def build(seed):
        generator = seeded(seed)
        parts = (SlideEncoder(C_IN, width=WIDTH, generator=generator), Projector(WIDTH, hidden=5, generator=generator))
        return torch.nn.ModuleList(parts).state_dict()

    one, same, other = build(0), build(0), build(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name, value in one.items() if value.unique().numel() > 1]
    assert len(drawn) == 5 + 3 * 2
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_kernels_start_with_the_variance_of_resnet():
    encoder = SlideEncoder(64, width=128, generator=seeded())
    strided = encoder.blocks[0]
    for kernel, fan_out in ((strided.conv1, 9 * 128), (strided.conv2, 9 * 128), (strided.shortcut, 128)):
        assert kernel.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)


def resnet_layer4(seed=3):
    """Random weights under torchvision's names, with what else a checkpoint of a whole ResNet holds."""
    named = torchvision_names(make_encoder())
    generator = seeded(seed)
    values = {
        name: torch.rand(tensor.shape, generator=generator, dtype=torch.float64) for name, tensor in named.items()
    }
    return values | {
        "layer4.0.bn1.num_batches_tracked": torch.tensor(9),
        "conv1.weight": torch.ones(2, 3, 7, 7),
        "fc.bias": torch.ones(3),
    }


def test_layer4_of_a_resnet_computes_what_it_computed_there():
    encoder, state_dict = make_encoder().eval(), resnet_layer4()
    batch = make_batch("plain")
    before = encoder(batch)
    encoder.load_layer4(state_dict)
    torch.testing.assert_close(encoder(batch), DenseLayer4(state_dict, training=False)(batch), **EXACT)
    assert (encoder(batch) - before).abs().max() > 1e-2
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("layer4.1.bn2.running_var"), "layer4.1.bn2.running_var: missing"),
        (lambda d: d.clear(), "25 differences"),
        (lambda d: d.update({"layer4.2.conv1.weight": torch.ones(6, 6, 3, 3)}), "layer4.2.conv1.weight: not in this"),
        (lambda d: d.update({"layer4.0.conv1.weight": torch.ones(6, 5, 3, 3)}), r"\(9, 5, 6\), expected \(9, 4, 6\)"),
        (lambda d: d.update({"layer4.0.conv1.weight": torch.ones(6, 4, 1, 1)}), r"\(1, 4, 6\), expected \(9, 4, 6\)"),
    ],
)
def test_a_layer4_of_another_shape_is_refused_and_loads_nothing(change, message):
    encoder, state_dict = make_encoder(), resnet_layer4()
    before = copy.deepcopy(encoder.state_dict())
    change(state_dict)
    with pytest.raises(Mismatch, match=message):
        encoder.load_layer4(state_dict)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_projector_is_linear_relu_norm_twice_then_linear():
    projector = Projector(5, hidden=7, width=3, generator=seeded()).double()
    x = torch.randn(9, 5, generator=seeded(1), dtype=torch.float64)
    first, second, last = (layer for layer in projector if isinstance(layer, torch.nn.Linear))

    def relu_norm(h):
        h = h.clamp(min=0)
        return (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()

    expected = relu_norm(relu_norm(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(projector(x), expected @ last.weight.T + last.bias, **EXACT)
    assert first.weight.abs().max() <= 1 / math.sqrt(5)
    assert first.weight.abs().max() > 0.8 / math.sqrt(5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SlideEncoder(0, generator=seeded()), "width_in=0"),
        (lambda: SlideEncoder(4, blocks=0, generator=seeded()), "blocks=0"),
        (lambda: SlideEncoder(4, stride=3, generator=seeded()), "stride=3"),
        (lambda: SlideEncoder(4, backend="dense", generator=seeded()), "auto, torch or spconv"),
        (lambda: SparseBlock(4, 6, stride=1, opening=False, generator=seeded()), "4 channels into 6"),
        (
            lambda: make_encoder()(ViewBatch(torch.ones(2, 3, 9), torch.zeros(2, 3, 2).long())),
            r"expected \(views, tiles, 4\)",
        ),
        (lambda: make_encoder()(ViewBatch(torch.ones(2, 3, 4), torch.zeros(2, 2, 2).long())), "6 points have cells"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
