"""The authors' slide encoder, against what their code computed."""

import numpy as np
import pytest
import torch

from gigacli.nn.gigassl import GigasslEncoder, gigassl_cells, output_limits
from gigacli.nn.sparse import sparse_map, strided_map
from gigacli.nn.views import ViewBatch
from gigacli.weights.authors import gigassl_from_state


@pytest.fixture(scope="module")
def fixture(shared):
    """What the authors' code made of random weights and points: 8 -> 16 channels, 8 views of 5 points."""
    return dict(np.load(shared / "fixtures" / "gigassl_layer4.npz"))


def state_of(fixture):
    return {
        name.removeprefix("w/"): torch.from_numpy(value) for name, value in fixture.items() if name.startswith("w/")
    }


def batch_of(fixture, views=slice(None)):
    cells = torch.from_numpy(gigassl_cells(fixture["coords"][views]))
    return ViewBatch(torch.from_numpy(fixture["feats"][views]), cells)


class ClippedByBatch(GigasslEncoder):
    """One border for all views of a batch, as in the authors' training."""

    def _strided(self, sites):
        limits = output_limits(sites)
        return strided_map(sites, limits=limits.amax(dim=0).expand_as(limits))


def clipped_by_batch(fixture):
    encoder = ClippedByBatch(8, width=16, generator=torch.Generator())
    encoder.load_state_dict(gigassl_from_state(state_of(fixture), origin="the fixture").state_dict())
    return encoder


def test_cells(fixture):
    assert fixture["downmap"] == 224
    np.testing.assert_array_equal(gigassl_cells(fixture["coords"]), fixture["cells"][..., ::-1])


@torch.inference_mode()
def test_vectors_of_views_one_at_a_time(fixture):
    encoder = gigassl_from_state(state_of(fixture), origin="the fixture")
    np.testing.assert_allclose(encoder(batch_of(fixture)).numpy(), fixture["eval_single"], atol=1e-5, rtol=0)
    alone = encoder(batch_of(fixture, slice(4, 5))).numpy()
    np.testing.assert_allclose(alone, fixture["eval_single"][4:5], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_vectors_of_views_with_one_border(fixture):
    vectors = clipped_by_batch(fixture).eval()(batch_of(fixture)).numpy()
    np.testing.assert_allclose(vectors, fixture["eval_batch"], atol=1e-5, rtol=0)
    assert np.abs(fixture["eval_batch"] - fixture["eval_single"]).max() > 0.01  # the border matters


def test_training_and_its_gradients(fixture):
    encoder = clipped_by_batch(fixture).train()
    batch = batch_of(fixture)
    batch.features.requires_grad_()
    vectors = encoder(batch)
    np.testing.assert_allclose(vectors.detach().numpy(), fixture["train_batch"], atol=1e-5, rtol=0)
    (vectors * torch.from_numpy(fixture["target"])).sum().backward()
    np.testing.assert_allclose(batch.features.grad.numpy(), fixture["grad_feats"], atol=1e-5, rtol=1e-4)
    # Gradients and running statistics by the authors' names: the same map as of the weights.
    gradients = {n.removeprefix("g/"): torch.from_numpy(v) for n, v in fixture.items() if n.startswith("g/")}
    after = {n.removeprefix("after/"): torch.from_numpy(v) for n, v in fixture.items() if n.startswith("after/")}
    expected = gigassl_from_state({**state_of(fixture), **after, **gradients}, origin="the fixture")
    for (name, parameter), wanted in zip(encoder.named_parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad, wanted.detach(), atol=1e-5, rtol=1e-4, err_msg=name)
    for (name, buffer), wanted in zip(encoder.named_buffers(), expected.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(buffer, wanted, atol=1e-6, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("largest", "outputs"), [(0, 3), (6, 3), (7, 5), (10, 5), (11, 7), (14, 7), (15, 9)])
def test_the_far_border(largest, outputs):
    cells = torch.tensor([[0, 0], [largest, 0], [0, 0]])
    sites = sparse_map(torch.ones(3, 1), cells, torch.tensor([0, 0, 1]), size=2)
    assert output_limits(sites).tolist() == [[outputs, 3], [3, 3]]
    clipped = strided_map(sites, limits=output_limits(sites))
    assert clipped.cells.min() == 0
    assert (clipped.cells < output_limits(sites)[clipped.owner]).all()
