"""Figures of a training written for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from gigacli.errors import InvalidInput, from_clone


class TensorBoardLog:
    """Writes the figures of every epoch into a folder for TensorBoard; without a folder nothing.

    Raises:
        InvalidInput: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InvalidInput(
                    "`log_dir` needs TensorBoard, which is not installed", from_clone("tensorboard")
                ) from None
            self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Record the figures of an epoch, counted from 0."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, epoch + 1)
