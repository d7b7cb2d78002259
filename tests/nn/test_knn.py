"""The k-nearest-neighbour score against its definition."""

import numpy as np
import pytest
import torch

from gigacli.nn.knn import KNNScore, knn_accuracy
from gigacli.nn.tile_encoder import random_resnet18


def by_hand(features, labels, groups, k=20):
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = {}
    for i, unit in enumerate(units):
        others = [j for j in range(len(units)) if groups[j] != groups[i]]
        nearest = sorted(others, key=lambda j: -float(units[j] @ unit))[:k]
        votes = np.zeros(labels.max() + 1)
        for j in nearest:
            votes[labels[j]] += np.exp(float(units[j] @ unit) / 0.07)
        right.setdefault(int(labels[i]), []).append(votes.argmax() == labels[i])
    return np.mean([np.mean(v) for v in right.values()])


def test_the_score_is_its_definition():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 90), rng.integers(0, 6, 90)
    features = rng.standard_normal((90, 8)) + 2 * np.eye(8)[labels]
    found = knn_accuracy(torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(groups))
    assert found == pytest.approx(by_hand(features, labels, groups), abs=1e-6)
    assert 0.4 < found < 0.95


def test_neighbours_of_the_same_patient_have_no_vote():
    """Tiles that look like their patient and like nothing else: with their own neighbours the score would be 1."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 30)
    labels = groups % 2
    features = rng.standard_normal((20, 16))[groups] + 0.01 * rng.standard_normal((600, 16))
    score = knn_accuracy(torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(groups))
    assert score < 0.8


def test_with_one_patient_there_are_no_neighbours():
    labels = torch.tensor([0, 1, 1, 1])
    assert knn_accuracy(torch.rand(4, 3), labels, torch.zeros(4, dtype=torch.int64)) == 0.5  # all say class 0


def test_a_network_is_scored_as_it_is_used_and_left_as_it_was():
    network = random_resnet18(0).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tiles = {n: np.full((32, 32, 3), 40 * (n % 2) + n, np.uint8) for n in range(12)}
    score = KNNScore(
        network,
        tiles.__getitem__,
        np.arange(12),
        np.arange(12) % 2,
        np.arange(12) // 2,
        device=torch.device("cpu"),
        precision="fp32",
    )
    assert score() == score() == 1
    assert network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
