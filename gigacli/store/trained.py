"""Groups that hold something trained: an encoder or a model, its checkpoint, its history, the slides it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gigacli.errors import Mismatch, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gigacli.store.store import Recipe, Store


@dataclass(frozen=True)
class Trained:
    """The group of one encoder or model.

    Attributes:
        store: The cohort store.
        path: Of the group, for example ``models/giga``.
    """

    store: Store
    path: str

    @property
    def done(self) -> bool:
        """Whether its training is finished."""
        path = f"{self.path}/done"
        return path in self.store.root and bool(self.store.array(path)[()] == 1)

    def seen(self) -> NDArray[np.bool_] | None:
        """(slide) which slides it is trained on, ``None`` where it has not been begun."""
        path = f"{self.path}/trained_on"
        seen = self.store.array(path)[:] if self.store.recipe(self.path) and path in self.store.root else None
        return seen if seen is not None and seen.any() else None

    def begin(self, recipe: Recipe, rows: NDArray[np.int64], *, redo: bool) -> bytes | None:
        """Create the group and write down which slides it is trained on, or find what an earlier run left.

        Args:
            recipe: How it is trained.
            rows: Rows of the slides it sees.
            redo: Throw an earlier result away.

        Returns:
            The checkpoint of an earlier run, if there is one.

        Raises:
            Mismatch: It was begun with other parameters, or on other slides.
        """
        store = self.store
        store.check(self.path, recipe, redo=redo)
        if redo and store.recipe(self.path) is not None:
            store.discard(self.path)
        store.begin(self.path, recipe, {"done": ()})
        seen = np.zeros(store.registered, dtype=bool)
        seen[rows] = True
        known = store.array(f"{self.path}/trained_on")[:] if f"{self.path}/trained_on" in store.root else seen
        if known.any() and not np.array_equal(known, seen):
            raise Mismatch(
                f"{store.url}/{self.path} was begun on {known.sum()} slides; there are {seen.sum()} now",
                "start again on all of them with --redo, or use another --name",
            )
        store.ensure_array(f"{self.path}/trained_on", seen.shape)[:] = seen
        checkpoint = f"{self.path}/checkpoint"
        return store.read_bytes(checkpoint) if checkpoint in store.root else None

    def save(self, checkpoint: bytes, history: Mapping[str, Sequence[float]], *, epochs: int) -> None:
        """Replace the checkpoint, as a whole or not at all, and write down the history so far.

        Args:
            checkpoint: The state of the training.
            history: One value per epoch.
            epochs: Of the whole training; those to come are NaN in the store.
        """
        self._keep_history(history, epochs)
        self.store.write_bytes(f"{self.path}/checkpoint", checkpoint)

    def save_best(self, weights: bytes) -> None:
        """Replace the weights after the best epoch so far, as a whole or not at all."""
        self.store.write_bytes(f"{self.path}/best", weights)

    def finish(self, weights: bytes, history: Mapping[str, Sequence[float]]) -> None:
        """Keep the result; what says "done" is written last."""
        self._keep_history(history, len(next(iter(history.values()))))
        self.store.write_bytes(f"{self.path}/weights", weights)
        self.store.array(f"{self.path}/done")[...] = 1

    def _keep_history(self, history: Mapping[str, Sequence[float]], epochs: int) -> None:
        for name, values in history.items():
            whole = np.full(epochs, np.nan, dtype=np.float32)
            whole[: len(values)] = values
            self.store.ensure_array(f"{self.path}/history/{name}", whole.shape)[:] = whole

    def history(self, name: str) -> NDArray[np.float32]:
        """One value per epoch."""
        return self.store.array(f"{self.path}/history/{name}")[:]


def source_of(trained: Recipe) -> str:
    """The group that a model was trained on: a bank, or features that stand in for one."""
    return f"{'banks' if 'bank' in trained.inputs else 'features'}/{trained.config['bank']}"


def finished_model(store: Store, name: str) -> Recipe:
    """The recipe of a model that is done and belongs to what its store holds.

    Raises:
        NotFound: There is no such model, or it is not finished.
        Mismatch: What it was trained on has been replaced.
    """
    trained = store.require(f"models/{name}")
    if not Trained(store, f"models/{name}").done:
        raise NotFound(f"model {name!r} in {store.url} is not finished", f"run: giga train {store.url} --name {name}")
    source, bank = source_of(trained), trained.config["bank"]
    if store.require(source).fingerprint not in trained.inputs.values():
        what = f"another bank {bank!r} than the one" if source.startswith("banks/") else f"other {source} than those"
        raise Mismatch(
            f"model {name!r} was trained on {what} in {store.url}",
            f"train on this one: giga train {store.url} --name {name} --redo",
        )
    return trained
