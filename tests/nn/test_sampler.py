"""Batches against a loop over slides; the same views for any number of processes, from memory or a device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gigacli.nn import sampler as module
from gigacli.nn.sampler import Sampler, steps_per_epoch
from gigacli.nn.views import TilePositions, augment_positions, cells_of, draw_rows, draw_slide_augmentation
from gigacli.randomness import keyed_rng

CPU = torch.device("cpu")
S, A, D, C = 11, 5, 7, 4
CA, CD = 2, 3  # chunks of a bank that has grown


def bank(seed=0):
    """A bank, its rows as one array (s, a, d, c), and its slides' corners and tile edges."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((S, A, D, C)).astype(np.float16)
    across = (-(-A // CA), -(-D // CD))
    chunked = np.full((S, *across, CA, CD, C), np.nan, dtype=np.float16)
    for a in range(A):
        for d in range(D):
            chunked[:, a // CA, d // CD, a % CA, d % CD] = plain[:, a, d]
    counts = rng.integers(1, 9, S)
    grids = [(rng.integers(-5000, 90_000, (n, 2)).astype(np.int32), float(rng.integers(200, 900))) for n in counts]
    tile = np.stack([rng.integers(0, n, (A, D)) for n in counts]).astype(np.int32)
    held = SimpleNamespace(
        augmentations=A,
        counts=np.full(S, D),
        vectors=chunked,
        tile=tile,
        at=lambda s, a, d: (s, a // CA, d // CD, a % CA, d % CD),
        tiles=lambda s, a, d: tile[s, a, d],
    )
    return held, plain, grids


def sampler(made, *, tiles=3, slide_aug=True, part=(0, 1), batch_size=4):
    held, _, grids = made
    return Sampler(
        held,
        TilePositions(grids),
        tiles=tiles,
        slide_aug=slide_aug,
        seed=9,
        batch_size=batch_size,
        device=CPU,
        part=part,
    )


@pytest.mark.parametrize("slide_aug", [True, False])
@pytest.mark.parametrize("tiles", [1, 3, 12])
def test_views_are_those_of_a_loop_over_slides(tiles, slide_aug):
    made = held, plain, grids = bank()
    slides = np.array([3, 10, 0])
    views = sampler(made, tiles=tiles, slide_aug=slide_aug).views(slides, keyed_rng(1))
    rng = keyed_rng(1)
    augmentation = rng.integers(0, A, 6)
    rows = draw_rows(rng, np.full(6, D), tiles)
    moved = draw_slide_augmentation(6, rng)
    positions = np.empty((6, tiles, 2))
    for i, s in enumerate([*slides, *slides]):
        corners, edge_px = grids[s]
        chosen = held.tile[s, augmentation[i], rows[i]]
        positions[i] = (corners[chosen].astype(np.int64) - corners.min(axis=0)) / edge_px
        np.testing.assert_array_equal(views.features[i].numpy(), plain[s, augmentation[i], rows[i]])
    expected = cells_of(augment_positions(positions, moved) if slide_aug else positions)
    np.testing.assert_array_equal(views.cells.numpy(), expected)
    assert views.features.dtype == torch.float32


def test_an_epoch_holds_every_slide_once_in_batches_of_nearly_one_size():
    made = bank()
    seen = []
    draw = sampler(made)
    draw.views = lambda slides, rng: seen.append(slides)
    for epoch in (0, 1):
        list(draw(epoch))
    assert [len(slides) for slides in seen] == [4, 4, 3] * 2
    assert sorted(np.concatenate(seen[:3])) == list(range(S))
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))


def test_epochs_and_steps_draw_other_views_and_the_same_again():
    made = bank()
    first, again, other = (list(sampler(made)(epoch)) for epoch in (0, 0, 1))
    for a, b in [*zip(first, again, strict=True), *zip(first[1:], sampler(made)(0, 1), strict=True)]:
        assert torch.equal(a.features, b.features)
        assert torch.equal(a.cells, b.cells)
    assert not torch.equal(first[0].features, other[0].features)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_views_of_one(count):
    made = bank()
    parts = [list(sampler(made, part=(rank, count))(2)) for rank in range(count)]
    for step, whole in enumerate(sampler(made)(2)):
        halves = [p[step].features.chunk(2) for p in parts]
        together = torch.cat([h[0] for h in halves] + [h[1] for h in halves])
        assert torch.equal(together, whole.features)
        halves = [p[step].cells.chunk(2) for p in parts]
        assert torch.equal(torch.cat([h[0] for h in halves] + [h[1] for h in halves]), whole.cells)


@pytest.mark.parametrize("upload_bytes", [1, 2**28])
def test_a_bank_on_the_device_gives_the_same_views(monkeypatch, upload_bytes):
    made = bank()
    monkeypatch.setattr(module, "UPLOAD_BYTES", upload_bytes)
    expected = list(sampler(made)(0))
    monkeypatch.setattr(module, "_room", lambda device: 2**40)
    for ours, theirs in zip(sampler(made)(0), expected, strict=True):
        assert torch.equal(ours.features, theirs.features)
        assert torch.equal(ours.cells, theirs.cells)


def test_where_the_bank_lies_is_said(monkeypatch):
    assert sampler(bank()).note == ""
    held, _, grids = bank()
    monkeypatch.setattr(module, "_upload", lambda vectors, device: vectors)
    for room, words in ((2**40, "lies in the memory of cuda"), (2**10, "A smaller bank would fit: giga bank")):
        monkeypatch.setattr(module, "_room", lambda device, room=room: room)
        made = Sampler(
            held,
            TilePositions(grids),
            tiles=3,
            slide_aug=True,
            seed=9,
            batch_size=4,
            device=torch.device("cuda"),
        )
        assert words in made.note


def test_steps_hold_all_slides():
    assert [steps_per_epoch(n, 4) for n in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]
