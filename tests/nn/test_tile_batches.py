"""Batches of MoCo: a function of (seed, epoch, step), however many processes and readers make them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gigacli.nn.augment import MOCO, augment, draw_augmentation, fold, output_px
from gigacli.nn.distributed import Processes
from gigacli.nn.sampler import steps_per_epoch
from gigacli.nn.tile_batches import TileBatches

TILES, PX = 23, 16


def read(number):
    """A tile that nothing else looks like."""
    return np.random.default_rng(number).integers(0, 256, (PX, PX, 3), dtype=np.uint8)


@pytest.fixture
def batches():
    """``batches(rank, count)``, with the threads they need."""
    with ThreadPoolExecutor(3) as pool:

        def make(rank=0, count=1, *, reader=read, dtype=torch.float32):
            return TileBatches(
                reader,
                TILES,
                tile_px=PX,
                batch_size=8,
                seed=1,
                device=torch.device("cpu"),
                dtype=dtype,
                pool=pool,
                processes=Processes(rank, count),
            )

        yield make


def test_every_tile_once_an_epoch_in_another_order(batches):
    made = batches()
    epochs = [torch.cat([batch.tiles for batch in made(epoch)]) for epoch in (0, 1)]
    assert made.per_epoch == steps_per_epoch(TILES, 8) == 3
    for tiles in epochs:
        assert sorted(tiles.tolist()) == list(range(TILES))
    assert not torch.equal(*epochs)


def test_two_views_of_every_tile_each_with_its_own_parameters(batches):
    """Tile by tile, from the definition; keys come in their own order."""
    batch = next(batches()(0))
    n, px = len(batch.tiles), output_px(PX)
    assert batch.queries.shape == batch.keys.shape == (n, 3, px, px)
    assert batch.queries.is_contiguous(memory_format=torch.channels_last)
    assert sorted(batch.order.tolist()) == list(range(n))
    from gigacli.randomness import keyed_rng

    rng = keyed_rng(1, "views", 0, 0)
    sets = [draw_augmentation(rng, n, tile_px=PX, strengths=MOCO) for _ in range(2)]
    for place, tile in enumerate(batch.tiles.tolist()):
        image = torch.from_numpy(read(tile)).permute(2, 0, 1)[None].contiguous()
        key = batch.keys[batch.order.tolist().index(place)]
        for which, view in zip(sets, (batch.queries[place], key), strict=True):
            one = fold(which[place : place + 1], tile_px=PX, out_px=px, device=torch.device("cpu"))
            torch.testing.assert_close(view, augment(image, one)[0], rtol=0, atol=1e-5)


def test_from_a_step_on_they_are_the_same(batches):
    whole, rest = list(batches()(2)), list(batches()(2, 1))
    assert len(rest) == len(whole) - 1
    for one, other in zip(whole[1:], rest, strict=True):
        for name in ("queries", "keys", "order", "tiles"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_a_batch(batches, count):
    whole = list(batches()(0))
    parts = [list(batches(rank, count)(0)) for rank in range(count)]
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        for name in ("queries", "keys"):
            joined = torch.cat([getattr(one, name) for one in mine])
            torch.testing.assert_close(joined, getattr(batch, name), rtol=0, atol=1e-5)
        for one in mine:
            assert torch.equal(one.tiles, batch.tiles)
            assert torch.equal(one.order, batch.order)


def test_a_tile_is_read_once_a_batch(batches):
    asked = []
    made = batches(reader=lambda number: asked.append(number) or read(number))
    for batch in made(0):
        assert batch.share.stop == len(batch.tiles)
    assert sorted(asked) == list(range(TILES))


def test_what_cannot_be_read_is_raised_where_it_is_used(batches):
    def broken(number):
        raise OSError(f"tile {number}")

    with pytest.raises(OSError, match="tile"):
        next(batches(reader=broken)(0))


def test_half_precision_views(batches):
    views = [next(batches(dtype=dtype)(0)).queries for dtype in (torch.bfloat16, torch.float32)]
    assert views[0].dtype == torch.bfloat16
    torch.testing.assert_close(views[0].float(), views[1], rtol=0.01, atol=0.005)
