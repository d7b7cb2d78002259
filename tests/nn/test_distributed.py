"""Two processes (gloo) take the steps of one: views, batch norm, loss, gradients."""

import textwrap

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gigacli.errors import InvalidInput
from gigacli.nn.distributed import ALONE, Processes, SyncBatchNorm1d, SyncBatchNorm2d, joined, synchronise
from tests.helpers import launch

STEPS = """
    import sys
    from dataclasses import replace
    from types import SimpleNamespace

    import numpy as np
    import torch
    from safetensors.torch import save_file

    from gigacli.nn import distributed, loop
    from gigacli.nn.giga import GigaSSL
    from gigacli.nn.sampler import Sampler
    from gigacli.nn.views import TilePositions
    from gigacli.progress import SILENT

    torch.set_num_threads(1)
    SLIDES, WIDTH, BATCH, EPOCHS = 18, 6, 9, 6  # 12 steps; nine slides do not split evenly
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((SLIDES, 1, 1, 3, 8, WIDTH)) + 2 * rng.standard_normal((SLIDES, 1, 1, 1, 1, WIDTH))
    tile = rng.integers(0, 20, (SLIDES, 3, 8))
    bank = SimpleNamespace(augmentations=3, counts=np.full(SLIDES, 8), vectors=vectors.astype(np.float16),
                           at=lambda slide, augmentation, draw: (slide, 0, 0, augmentation, draw),
                           tiles=lambda slide, augmentation, draw: tile[slide, augmentation, draw])
    grids = [(rng.integers(0, 10, (20, 2)).astype(np.int32) * 512, 512.0) for _ in range(SLIDES)]
    with distributed.joined(torch.device("cpu")) as (processes, device):
        sampler = Sampler(bank, TilePositions(grids), tiles=4, slide_aug=True, seed=0, batch_size=BATCH,
                          device=device, part=processes.part)
        method = GigaSSL(WIDTH, temperature=0.2, seed=1, aggregator=sys.argv[2]).double()
        distributed.synchronise(method, processes)
        method.processes = processes

        def step(batch):
            return method([replace(batch, features=batch.features.double())])

        history = loop.run(loop.Training(
            module=method, optimizer=torch.optim.Adam(method.parameters(), lr=1e-3),
            schedule=loop.Schedule(1e-3, 3, 12), epochs=EPOCHS, batches=sampler, step=step,
            save=lambda *_: None, processes=processes), SILENT, checkpoint=None)
        history = {k: torch.tensor(v, dtype=torch.float64) for k, v in history.items()}
        save_file({**method.state_dict(), **history}, f"{sys.argv[1]}/{processes.count}.{processes.rank}")
"""


MOCO_STEPS = """
    import sys
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    from safetensors.torch import save_file

    from gigacli.nn import distributed, loop
    from gigacli.nn.moco import MoCo
    from gigacli.nn.tile_batches import TileBatches
    from gigacli.nn.tile_encoder import random_resnet18
    from gigacli.progress import SILENT

    torch.set_num_threads(1)
    TILES, PX, EPOCHS = 26, 32, 2  # 3 steps an epoch, of 9, 9 and 8 tiles in groups of 2 and 3

    def read(tile):
        return np.random.default_rng(tile).integers(0, 256, (PX, PX, 3), dtype=np.uint8)

    with distributed.joined(torch.device("cpu")) as (processes, device), ThreadPoolExecutor(1) as pool:
        batches = TileBatches(read, TILES, tile_px=PX, batch_size=9, seed=0, device=device, dtype=torch.float64,
                              pool=pool, processes=processes)
        method = MoCo(random_resnet18(0), queue=20, momentum=0.9, temperature=0.2, seed=0).double()
        distributed.synchronise(method.query, processes)
        method.processes = processes

        history = loop.run(loop.Training(
            module=method, optimizer=torch.optim.SGD(method.query.parameters(), lr=0.01, momentum=0.9),
            schedule=loop.Schedule(0.01, 1, batches.per_epoch * EPOCHS), epochs=EPOCHS, batches=batches, step=method,
            save=lambda *_: None, processes=processes), SILENT, checkpoint=None)
        history = {k: torch.tensor(v, dtype=torch.float64) for k, v in history.items()}
        # what a key encoder's batch norm has seen is never used
        state = {k: v for k, v in method.state_dict().items() if not (k.startswith("key.") and ".running_" in k)
                 and "num_batches" not in k}
        save_file({**state, **history}, f"{sys.argv[1]}/{processes.count}.{processes.rank}")
"""


def steps_of(script, folder, *arguments):
    """State and history after the steps of a script: of one process, and of each of two."""
    file = folder / "steps.py"
    file.write_text(textwrap.dedent(script))
    for count in (1, 2):
        launch(count, [str(file), str(folder), *arguments])
    return load_file(folder / "1.0"), [load_file(folder / f"2.{rank}") for rank in (0, 1)]


@pytest.fixture(scope="module", params=["sparse-resnet", "transformer"])
def trained(tmp_path_factory, request):
    """12 steps of Giga-SSL."""
    return steps_of(STEPS, tmp_path_factory.mktemp("steps"), request.param)


@pytest.fixture(scope="module")
def trained_moco(tmp_path_factory):
    """6 steps of MoCo."""
    return steps_of(MOCO_STEPS, tmp_path_factory.mktemp("moco"))


@pytest.mark.slow
def test_two_processes_of_moco_equal_one_with_the_same_batches(trained_moco):
    """Queries' batch norm over both processes, keys shuffled between them, one queue."""
    one, both = trained_moco
    assert one["query.0.layer4.1.conv2.weight"].dtype == torch.float64
    for two in both:
        assert two.keys() == one.keys()
        for name, value in one.items():
            if name not in ("per_second", "waiting"):
                torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert (one["owners"] >= 0).all()


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batches(trained):
    one, both = trained
    assert one["projector.0.weight"].dtype == torch.float64
    for two in both:
        assert two.keys() == one.keys()  # one format for all
        for name, value in one.items():
            if name not in ("per_second", "waiting"):
                torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert one["loss"][-1] < one["loss"][0]  # it did learn


@pytest.mark.slow
def test_both_processes_hold_the_same_weights(trained):
    first, second = trained[1]
    for name in first.keys() - {"per_second", "waiting"}:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_batch_norm_is_torchs_own(monkeypatch, mode):
    """One process: the sum over processes is what it is given."""
    monkeypatch.setattr("gigacli.nn.distributed.dist.all_reduce", lambda tensor: None)
    torch.manual_seed(0)
    theirs = nn.BatchNorm1d(4).double()
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    module = nn.Sequential(nn.BatchNorm1d(4).double())
    module[0].load_state_dict(theirs.state_dict())
    ours = synchronise(module, Processes(0, 2))[0]
    assert isinstance(ours, SyncBatchNorm1d)
    for norm in (ours, theirs):
        norm.train(mode == "train")
    for _ in range(3):
        x = (torch.randn(9, 4) * 3 + 100).double()
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(i) for norm, i in zip((ours, theirs), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.pow(3).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_batch_norm_of_images_is_torchs_own(monkeypatch, layout):
    monkeypatch.setattr("gigacli.nn.distributed.dist.all_reduce", lambda tensor: None)
    theirs = nn.BatchNorm2d(3).double()
    module = nn.Sequential(nn.BatchNorm2d(3).double())
    ours = synchronise(module, Processes(0, 2))[0]
    assert isinstance(ours, SyncBatchNorm2d)
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).contiguous(
        memory_format=layout
    )
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [norm(i) for norm, i in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    assert outputs[0].stride() == outputs[1].stride() or layout == torch.contiguous_format
    for output in outputs:
        output.pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_half_precision_stays_half_precision(monkeypatch):
    monkeypatch.setattr("gigacli.nn.distributed.dist.all_reduce", lambda tensor: None)
    norm = SyncBatchNorm1d(nn.BatchNorm1d(4))
    x = torch.randn(64, 4).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), nn.BatchNorm1d(4)(x), rtol=0.02, atol=0.02)


def test_alone_nothing_is_changed(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    module = nn.Sequential(nn.BatchNorm1d(2))
    norm = module[0]
    with joined(torch.device("cpu")) as (processes, device):
        assert processes == ALONE
        assert device == torch.device("cpu")
        assert synchronise(module, processes)[0] is norm
        rows = torch.ones(2, 3)
        assert processes.gather(rows) is rows
        assert processes.gather_views(rows) is rows
        assert processes.share("value") == "value"
        assert processes.once(lambda: "made") == "made"
        processes.wait()


@pytest.mark.parametrize(
    ("device", "there", "message"), [("cuda:1", 2, "`device` is cuda:1"), ("cuda", 1, "CUDA devices \\(1\\)")]
)
def test_devices_for_all_processes(monkeypatch, device, there, message):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InvalidInput, match=message), joined(torch.device(device)):
        pass
