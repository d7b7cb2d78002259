"""The groups ``encoders/<name>`` and ``models/<name>``: weights, a checkpoint, a history, the slides that were seen."""

from __future__ import annotations

import errno
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import Mismatch, NotFound
from gigacli.store.bank import Bank
from gigacli.store.chunks import read_table
from gigacli.store.features import Features
from gigacli.store.group import Group
from gigacli.store.identity import UNKNOWN
from gigacli.store.layout import NOT_DONE, WRITTEN_BY
from gigacli.store.nodes import arrays
from gigacli.store.recipe import Recipe


class TrainedGroup(Group):
    """A tile encoder or a slide encoder, and its training."""

    def begin(self, recipe: Recipe, rows: NDArray[np.int64], *, redo: bool) -> bytes | None:
        """Make the group and write down the rows of slides it is trained on, or find what an earlier run left.

        Returns:
            The checkpoint of an earlier run, if there is one.

        Raises:
            Mismatch: It was begun with other parameters, or on other slides, or on slides that are others now.
        """
        store = self.store
        self._begin(recipe, {"done": ()}, redo=redo)
        seen = self._identities_of(rows)
        known = self._trained_on()
        if known is not None and not np.array_equal(known, seen):
            changed = int(((known != seen) & (known != NOT_DONE) & (seen != NOT_DONE)).sum())
            raise Mismatch(
                f"{store.url}/{self.path} was begun on {(known != NOT_DONE).sum()} slides; there are "
                f"{(seen != NOT_DONE).sum()} now, and {changed} of those have other tiles, masks or files",
                "start again on all of them with `redo`, or use another `name`",
            )
        self._ensure("trained_on", seen.shape)[: len(seen)] = seen
        return store.read_bytes(f"{self.path}/checkpoint") if self.has("checkpoint") else None

    def save(self, checkpoint: bytes, history: Mapping[str, Sequence[float]], *, epochs: int) -> None:
        """Replace the checkpoint, as a whole or not at all, and write down the history so far: a value per epoch.

        Epochs still to come, of `epochs` in all, are NaN in the store. Another process that trains the same may finish
        meanwhile, and take the checkpoint's folder from under this one: there is then nothing left to save.
        """
        self._keep_history(history, epochs)
        self.store.settle()
        try:
            self.store.write_bytes(f"{self.path}/checkpoint", checkpoint)
        except (FileNotFoundError, KeyError):
            if not self.complete:
                raise
        self.store.settle()

    def finish(self, weights: bytes, history: Mapping[str, Sequence[float]]) -> None:
        """Keep the result; what says "done" is written last, and what only an unfinished training needs then goes."""
        self._keep_history(history, len(next(iter(history.values()))))
        self._keep_weights(weights)
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Delete the state of the optimizer, which is twice the size of the weights, where a kill left it behind.

        Another process that trains the same may be writing it, or deleting it, too: it is then left to that one.
        """
        with suppress(FileNotFoundError, KeyError):
            try:
                if self.has("checkpoint"):
                    self.store.delete_bytes(f"{self.path}/checkpoint")
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise

    def _keep_weights(self, weights: bytes) -> None:
        if weights:
            self.store.write_bytes(f"{self.path}/weights", weights)
        kept = self.store.read_bytes(f"{self.path}/weights") if self.has("weights") else b""
        sha256 = hashlib.sha256(kept).hexdigest() if kept else self.config["weights_sha256"]
        node = self.store.root[self.path]
        node.attrs["giga"] = {**self.attributes, "sha256": {"weights": sha256}}
        self.store.settle()
        self.array("done")[...] = 1
        self.store.settle()

    def _keep_history(self, history: Mapping[str, Sequence[float]], epochs: int) -> None:
        for name, values in history.items():
            whole = np.full(epochs, np.nan, dtype=np.float32)
            whole[: len(values)] = values
            self._ensure(f"history/{name}", whole.shape)[:] = whole

    @property
    def complete(self) -> bool:
        """Whether its training is finished."""
        return self.has("done") and bool(self.array("done")[()] == 1)

    @property
    def finished(self) -> Recipe:
        """The recipe of what must be finished.

        Raises:
            NotFound: It is not there, or not finished.
        """
        recipe = self.recipe
        if not self.complete:
            verb = WRITTEN_BY[self.kind]
            raise NotFound(
                f"{self.input_name} {self.name!r} in {self.store.url} is not finished",
                f"run: giga {verb} {self.store.url} --name {self.name}",
            )
        return recipe

    def seen(self) -> NDArray[np.bool_] | None:
        """(slide) which slides it was trained on; None where that is not known, or it has not been begun.

        Raises:
            Mismatch: What says so is lost, or is about other slides.
        """
        known = self._trained_on()
        return None if known is None else known != NOT_DONE

    @property
    def changed(self) -> NDArray[np.int64]:
        """Rows of the slides it was trained on that have other tiles, another mask or another file now."""
        known = self._trained_on()
        if known is None or self.store.tiles.found is None:
            return np.empty(0, dtype=np.int64)
        now = self._identities_of(np.arange(len(known)))
        return np.flatnonzero((known != NOT_DONE) & (now != NOT_DONE) & (known != now))

    @property
    def stale(self) -> list[str]:
        """What it was made from and is not there any more, in words."""
        changed = len(self.changed)
        said = f"trained on {changed} slides that have other tiles, masks or files now"
        return [*self.replaced, *([said] if changed else [])]

    @property
    def sha256(self) -> str:
        """Hash of the weights of what is finished."""
        return str(self.attributes["sha256"]["weights"])

    def _identities_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(slide) identities of these rows that are tiled, -1 of all others."""
        tiles = self.store.tiles
        chosen = np.zeros(self.store.registered, dtype=bool)
        chosen[rows] = True
        if tiles.found is None:
            return np.where(chosen, UNKNOWN, NOT_DONE)
        counts, identities = tiles.marks()
        return np.where(chosen & (counts != NOT_DONE), identities, NOT_DONE)

    def _trained_on(self) -> NDArray[np.int64] | None:
        """(slide) identities of the slides it was trained on, -1 of others; None where it says nothing of them.

        Raises:
            Mismatch: What says so is lost, or is about other slides.
        """
        found = self.found
        if found is None:
            return None
        n, trained = self.store.registered, found.stage == WRITTEN_BY[self.kind] and self.complete
        if not self.has("trained_on"):
            if trained:
                raise Mismatch(
                    f"{self.store.url}/{self.path}/trained_on is missing: which slides it has seen is not known",
                    f"see what else is: giga validate {self.store.url}",
                )
            return None
        self._check_ids()
        array = self.array("trained_on")
        bound = min(n, int(self.attributes.get("ids", {}).get("slides", 0))) if trained else 0
        known = np.concatenate([read_table(array, bound), np.asarray(array[bound:n])])
        return known if (known != NOT_DONE).any() else None

    def weights(self) -> bytes:
        """The safetensors file of the last epoch."""
        return self.store.read_bytes(f"{self.path}/weights")

    def history(self, name: str) -> NDArray[np.float32] | None:
        """One value per epoch; None where there is no such figure."""
        return self.array(f"history/{name}")[:] if self.has(f"history/{name}") else None

    def histories(self) -> dict[str, list[float]]:
        """Every figure of the training by name, one value per epoch; those of epochs to come are NaN."""
        names = [path.rpartition("/")[2] for path, _ in arrays(self.store.root, f"{self.path}/history")]
        return {name: self.array(f"history/{name}")[:].tolist() for name in names}


class Encoder(TrainedGroup):
    """A tile encoder."""

    kind, input_name = "encoders", "encoder"

    def keep(self, recipe: Recipe, weights: bytes) -> None:
        """Keep an encoder that was not trained here, in place of what is there.

        `weights` are a safetensors file; empty where they are kept elsewhere.
        """
        self._begin(recipe, {"done": ()}, redo=self.found not in (None, recipe))
        self._keep_weights(weights)


class Model(TrainedGroup):
    """A slide encoder."""

    kind, input_name = "models", "model"

    def _flags(self) -> str:
        return f" --bank {shlex.quote(self.config['bank'])}{super()._flags()}"

    @property
    def source(self) -> Bank | Features:
        """What it was trained on: a bank, or features that stood in for one."""
        recipe = self.recipe
        name = recipe.config["bank"]
        return self.store.bank(name) if "bank" in recipe.inputs else self.store.features(name)

    @property
    def usable(self) -> Recipe:
        """The recipe of a model that is finished and belongs to what its store holds.

        Raises:
            NotFound: There is no such model, or it is not finished.
            Mismatch: What it was trained on has been replaced.
        """
        trained, source, url = self.finished, self.source, self.store.url
        if changed := len(self.changed):
            raise Mismatch(
                f"model {self.name!r} in {url} was trained on {changed} slides that have other tiles, masks or "
                "files now",
                f"train on them as they are: giga train {url} --name {self.name} --redo",
            )
        if source.fingerprint not in trained.inputs.values():
            bank = source.input_name == "bank"
            what = f"another bank {source.name!r} than the one" if bank else f"other {source.path} than those"
            raise Mismatch(
                f"model {self.name!r} was trained on {what} in {url}",
                f"train on this one: giga train {url} --name {self.name} --redo",
            )
        return trained
