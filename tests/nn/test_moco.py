"""MoCo against its formula by hand: loss, momentum, queue, groups of the key encoder."""

import math
from collections import deque
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.nn.moco import HEAD, KEY_GROUPS, MoCo, MoCoBatch, share_of
from gigacli.nn.tile_encoder import ResNet18, random_resnet18

PX = 32


def moco_of(seed=0, *, queue=16, momentum=0.9, temperature=0.2):
    return MoCo(random_resnet18(seed), queue=queue, momentum=momentum, temperature=temperature, seed=seed)


def images_of(seed, n):
    return torch.rand(n, 3, PX, PX, generator=torch.Generator().manual_seed(seed))


def order_of(seed, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def batch_of(first, second, order, tiles=None):
    """A batch of one process, from views in the order of their tiles."""
    tiles = torch.arange(len(first)) if tiles is None else tiles
    return MoCoBatch(first, second[order], order, tiles, share_of(len(first), 0, 1))


def loss_of(moco, first, second, order):
    return moco(batch_of(first, second, order)).loss


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def keys_by_hand(encoder, images, order, sizes):
    """Keys in the order of the images; the encoder sees them in another order and in groups, as in training."""
    encoder = deepcopy(encoder).train()
    keys, start = {}, 0
    with torch.no_grad():
        for size in sizes:
            group = order[start : start + size].tolist()
            keys |= dict(zip(group, unit(encoder(images[group])), strict=True))
            start += size
    return torch.stack([keys[i] for i in range(len(images))])


def info_nce_by_hand(query, key, negatives, temperature):
    losses = []
    for q, k in zip(query, key, strict=True):
        others = [math.exp(float(q @ n) / temperature) for n in negatives]
        positive = math.exp(float(q @ k) / temperature)
        losses.append(-math.log(positive / (positive + sum(others))))
    return sum(losses) / len(losses)


def test_the_first_loss_is_info_nce_of_queries_keys_and_the_initial_queue():
    moco, first, second, order = moco_of(), images_of(1, 8), images_of(2, 8), order_of(3, 8)
    with torch.no_grad():
        query = unit(deepcopy(moco.query)(first))
    key = keys_by_hand(moco.key, second, order, sizes=[2, 2, 2, 2])
    negatives = moco.negatives.clone()
    torch.testing.assert_close(negatives.norm(dim=1), torch.ones(16))
    loss = loss_of(moco, first, second, order)
    assert loss.item() == pytest.approx(info_nce_by_hand(query, key, negatives, 0.2), rel=1e-4)
    torch.testing.assert_close(moco.negatives[:8], key, rtol=1e-4, atol=1e-5)  # in the order of the images
    assert torch.equal(moco.negatives[8:], negatives[8:])
    assert moco.pointer == 8


def test_the_key_encoder_is_born_as_the_query_encoder():
    moco = moco_of(1)
    query, key = moco.query.state_dict(), moco.key.state_dict()
    assert query.keys() == key.keys()
    assert all(torch.equal(key[name], value) for name, value in query.items())
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(query.values(), key.values(), strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.75, 0.999, 1.0])
def test_the_key_encoder_moves_by_momentum(momentum):
    moco = moco_of(momentum=momentum)
    with torch.no_grad():
        for parameter in moco.query.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = [p.clone() for p in moco.key.parameters()]
    loss_of(moco, images_of(1, 4), images_of(2, 4), order_of(3, 4))
    for old, new, query in zip(before, moco.key.parameters(), moco.query.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * query, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_query_encoder_alone():
    moco = moco_of()
    loss_of(moco, images_of(1, 4), images_of(2, 4), order_of(3, 4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moco.query.parameters())
    assert all(p.grad is None and not p.requires_grad for p in moco.key.parameters())
    assert not moco.negatives.requires_grad
    assert moco.negatives.grad is None


def test_the_queue_moves_on_while_a_loss_waits_for_its_backward_pass():
    moco = moco_of(queue=4)
    first = loss_of(moco, images_of(1, 4), images_of(2, 4), order_of(3, 4))
    moco.negatives.zero_()
    first.backward()


class Ring(MoCo):
    """The queue of MoCo without its encoders."""

    def __init__(self, size):
        torch.nn.Module.__init__(self)
        self.register_buffer("negatives", torch.rand(size, HEAD))
        self.register_buffer("owners", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))


@given(st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_queue_is_a_ring_of_the_last_keys(size, batches):
    ring, oracle, made = Ring(size), deque(maxlen=size), 0
    for row in ring.negatives:
        oracle.append(row.clone())
    for n in batches:
        keys = torch.arange(made, made + n, dtype=torch.float32)[:, None].expand(n, HEAD)
        made += n
        ring._enqueue(keys, keys[:, 0].long())
        oracle.extend(keys)
        oldest = int(ring.pointer)
        assert 0 <= oldest < size
        torch.testing.assert_close(ring.negatives.roll(-oldest, dims=0), torch.stack(list(oracle)))
        mine = ring.owners >= 0
        assert torch.equal(ring.owners[mine].float(), ring.negatives[mine, 0])


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 9, 13])
def test_no_image_is_normalised_by_itself(n):
    moco, seen = moco_of(), []
    moco.key.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    assert torch.isfinite(loss_of(moco, images_of(1, n), images_of(2, n), order_of(3, n)))
    assert sum(seen) == n
    assert min(seen) >= 2
    assert len(seen) == min(4, n // 2)


def test_one_image_has_nothing_to_be_told_from():
    with pytest.raises(InvalidInput, match="at least 2"):
        loss_of(moco_of().eval(), torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64), order_of(3, 1))


def test_a_function_of_the_seed_that_leaves_the_global_generator_alone():
    network = random_resnet18(0)
    before = torch.get_rng_state()
    first = MoCo(network, queue=8, momentum=0.9, temperature=0.1, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = MoCo(random_resnet18(0), queue=8, momentum=0.9, temperature=0.1, seed=5)
    other = MoCo(random_resnet18(0), queue=8, momentum=0.9, temperature=0.1, seed=6)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.negatives, other.negatives)
    assert not torch.equal(first.query[1][0].weight, other.query[1][0].weight)
    assert first.network is network
    assert isinstance(first.network, ResNet18)


def test_state_dict_round_trip_goes_on_with_the_same_losses():
    moco, other = moco_of(1), moco_of(2)
    loss_of(moco, images_of(1, 6), images_of(2, 6), order_of(3, 6))
    other.load_state_dict(moco.state_dict())
    for step in range(2):
        batch = images_of(10 + step, 6), images_of(20 + step, 6), order_of(30 + step, 6)
        assert torch.equal(loss_of(moco, *batch), loss_of(other, *batch))
    assert moco.pointer == other.pointer == 18 % 16


def test_autocast_to_bf16_is_close_and_keeps_keys_in_fp32():
    moco = moco_of()
    other, batch = deepcopy(moco), (images_of(1, 8), images_of(2, 8), order_of(3, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(other, *batch)
    assert loss.dtype == other.negatives.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(moco, *batch).item(), rel=0.05)
    assert not torch.equal(other.negatives, moco.negatives)
    torch.testing.assert_close(other.negatives.norm(dim=1), torch.ones(16), rtol=0, atol=1e-5)  # bf16 is off by 1e-3
    loss.backward()


@pytest.mark.slow
def test_learns_to_tell_images_apart():
    moco, n = moco_of(queue=32), 16
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.SGD(moco.query.parameters(), lr=0.03, momentum=0.9)
    losses = []
    for _ in range(16):
        noise = 0.05 * torch.randn(2, *images.shape, generator=generator)
        loss = loss_of(moco, images + noise[0], images + noise[1], torch.randperm(n, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Two steps fill the queue with real keys, two of every image: the best there is then is a loss of log 3 = 1.10,
    # and log 33 = 3.50 is chance.
    assert sum(losses[2:5]) / 3 > 2.5
    assert sum(losses[-3:]) / 3 < 1.8


def test_a_tiles_own_key_of_an_epoch_before_is_no_negative():
    """With nothing but copies of its own key in the queue, a query has nothing to be told from."""
    moco, images, order = moco_of(queue=8), images_of(1, 8), order_of(3, 8)
    moco(batch_of(images, images, order, tiles=torch.full((8,), 5)))
    assert (moco.owners == 5).all()
    other = deepcopy(moco)
    alone = moco(batch_of(images, images, order, tiles=torch.full((8,), 5)))
    assert alone.loss.item() == 0
    assert alone.figures["queue_accuracy"] == 1
    assert other(batch_of(images, images, order, tiles=torch.arange(8) + 6)).loss.item() > 0.5


@given(st.integers(2, 300), st.integers(1, 9))
@settings(max_examples=200)
def test_shares_part_a_batch_whatever_its_size(n, count):
    if n < 2 * count:
        return
    shares = [share_of(n, rank, count) for rank in range(count)]
    assert [share.start for share in shares] == [0, *(share.stop for share in shares[:-1])]
    assert shares[-1].stop == n
    for share in shares:
        assert sum(share.sizes) == share.stop - share.start
        assert min(share.sizes) >= 2
    if KEY_GROUPS % count == 0 and n >= 2 * KEY_GROUPS:  # the groups of one process
        assert sum((share.sizes for share in shares), ()) == share_of(n, 0, 1).sizes


def test_the_vectors_are_queries_and_their_keys():
    moco, images, order = moco_of(), images_of(1, 6), order_of(3, 6)
    step = moco(batch_of(images, images, order))
    query, key = step.vectors.chunk(2)
    torch.testing.assert_close(key, moco.negatives[:6])
    torch.testing.assert_close(query.norm(dim=1), torch.ones(6))
    assert not step.vectors.requires_grad
