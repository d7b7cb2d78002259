"""Figures that the summaries of several verbs share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of every verb that writes.

    Attributes:
        slides: Slides of this run: of this shard and ready for it, or trained on.
        done: Slides written now; 1 where something was trained now.
        skipped: Slides that were there; 1 where what is trained was there already.
        failed: Slides that could not be registered or read; of train and embed 0.
        seconds: Time it took.
    """

    slides: int
    done: int
    skipped: int
    failed: int = 0
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingSummary(Summary):
    """Figures of every training.

    Attributes:
        epochs: Epochs in all.
        steps: Steps in all.
        resumed_at: Epochs a checkpoint had finished, 0 for a fresh start.
        initial_weights: Where it started from; of a model that was there already "".
        loss: Mean loss of the last epoch.
        chance: Loss of vectors that tell nothing.
        rank: Effective rank of the vectors of the last batch.
        warning: What is wrong with the result, in words; "" where nothing is.
    """

    epochs: int
    steps: int
    resumed_at: int
    initial_weights: str
    loss: float
    chance: float
    rank: float
    warning: str
