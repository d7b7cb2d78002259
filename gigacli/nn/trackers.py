"""Figures of a training for who watches it: TensorBoard, Weights & Biases or MLflow, each where it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from gigacli.config.verbs import PretrainTilesConfig, TrainConfig
from gigacli.errors import InvalidInput, from_clone, reason_of


class Run(Protocol):
    """A training in some tracker, begun when it is made."""

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of an epoch, counted from 1."""

    def end(self, *, failed: bool) -> None:
        """Say that the training is over."""


class Trackers:
    """Gives the figures of every epoch to all that were asked for, which may be none.

    One that fails later, as where a server goes away, is left out from then on: the training is worth more. A training
    that is taken up again is a new run to Weights & Biases and MLflow, from the epoch at which it goes on.

    Args:
        config: Says whom to tell; None: nobody. Where Weights & Biases and MLflow keep runs is a matter of their own
            settings (``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``).
        name: Of the run, for people.
        recipe: What the training is made with.
        say: Receives what went wrong, in words.

    Raises:
        InvalidInput: One of them is not installed, or cannot begin.
    """

    def __init__(
        self,
        config: TrainConfig | PretrainTilesConfig | None,
        *,
        name: str,
        recipe: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._runs: dict[str, Run] = {}
        begin: dict[str, Callable[[], Run]] = {}
        if config is not None and config.log_dir is not None:
            begin["tensorboard"] = partial(_TensorBoard, config.log_dir)
        if config is not None and config.tracker is not None:
            begin[config.tracker] = partial(_Wandb if config.tracker == "wandb" else _Mlflow, name, recipe)
        try:
            for tracker, make in begin.items():
                self._runs[tracker] = _begun(tracker, make)
        except InvalidInput:
            self._end(failed=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(failed=kind is not None)

    def __call__(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Record the figures of an epoch, counted from 0."""
        for name, run in list(self._runs.items()):
            if not self._managed(name, partial(run.record, epoch + 1, figures)):
                del self._runs[name]

    def _end(self, *, failed: bool) -> None:
        for name, run in self._runs.items():
            self._managed(name, partial(run.end, failed=failed))

    def _managed(self, name: str, do: Callable[[], None]) -> bool:
        try:
            do()
        except Exception as error:
            self._say(f"{name} records no more of this training: {reason_of(error)}")
            return False
        return True


def _begun(tracker: str, make: Callable[[], Run]) -> Run:
    try:
        return make()
    except ImportError:
        option = "`log_dir` needs TensorBoard" if tracker == "tensorboard" else f"`tracker` needs {tracker}"
        raise InvalidInput(f"{option}, which is not installed", from_clone(tracker)) from None
    except Exception as error:
        raise InvalidInput(f"{tracker} cannot begin a run: {reason_of(error)}", "look at its settings") from error


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)

    def end(self, *, failed: bool) -> None:
        del failed
        self._writer.close()


class _Wandb:
    def __init__(self, name: str, recipe: Mapping[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "giga")
        self._run = wandb.init(project=project, name=name, config=dict(recipe))

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=epoch)

    def end(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    def __init__(self, name: str, recipe: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=name)
        mlflow.log_params(dict(recipe))

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=epoch)

    def end(self, *, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")
