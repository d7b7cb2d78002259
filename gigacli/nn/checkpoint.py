"""The state of a training as bytes: everything a continued run needs to take the same steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from gigacli.errors import Mismatch

History = dict[str, list[float]]


@dataclass
class Sums:
    """Sums over the steps of an epoch so far."""

    steps: int = 0  # steps taken
    seconds: float = 0.0  # seconds spent on them
    waited: float = 0.0  # seconds of these that were spent waiting for data
    examples: int = 0  # slides or tiles seen
    chance: float = 0.0  # sum of the steps' chance levels
    # sums of the steps' losses and further figures by name, scalar float64
    figures: dict[str, Tensor] = field(default_factory=dict)

    def add(self, examples: int, chance: float, figures: Mapping[str, Tensor]) -> None:
        """Add the figures of one more step."""
        self.steps, self.examples, self.chance = self.steps + 1, self.examples + examples, self.chance + chance
        for name, value in figures.items():
            more = value.detach().double()
            self.figures[name] = self.figures[name].to(more) + more if name in self.figures else more


@dataclass
class State:
    """How far a training has come: the epochs finished, and the sums of the epoch it is in."""

    history: History
    sums: Sums

    @property
    def epoch(self) -> int:
        """Number of epochs finished; that of the epoch it is in, counted from 0."""
        return len(self.history.get("loss", []))


def to_bytes(module: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, epochs: int) -> bytes:
    """The whole state as a safetensors file, of one size for all epochs so that it replaces its predecessor."""
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
    for name, figures in state.history.items():
        padded = torch.full((epochs,), math.nan, dtype=torch.float64)
        padded[: len(figures)] = torch.tensor(figures, dtype=torch.float64)
        tensors[f"history.{name}"] = padded
    tensors["epoch"] = torch.tensor(state.epoch)
    for field_ in fields(Sums):
        value = getattr(state.sums, field_.name)
        if field_.name != "figures":
            tensors[f"sums.{field_.name}"] = torch.tensor(value, dtype=torch.float64)
    tensors |= {f"figures.{name}": value for name, value in state.sums.figures.items()}
    return save_safetensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def restore(module: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: bytes) -> State:
    """Load a checkpoint into the module and the optimizer; how far its training had come.

    Raises:
        Mismatch: It cannot be read, or does not fit the module.
    """
    tensors, epoch = _load(checkpoint)
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "optimizer": {}, "history": {}, "sums": {}, "figures": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    try:
        module.load_state_dict(parts["module"])
    except RuntimeError as error:
        raise Mismatch(f"the checkpoint does not fit: {error}", "start again with `redo=True`") from error
    states: dict[int, dict[str, Any]] = {}
    for name, value in parts["optimizer"].items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    history = {name: value[:epoch].tolist() for name, value in parts["history"].items()}
    sums = {name: value.item() for name, value in parts["sums"].items()}
    steps, examples = int(sums.pop("steps")), int(sums.pop("examples"))
    return State(history, Sums(steps=steps, examples=examples, **sums, figures=parts["figures"]))


def epoch_of(checkpoint: bytes | None) -> int:
    """Number of epochs a checkpoint had finished; 0 without a checkpoint."""
    return _load(checkpoint)[1] if checkpoint else 0


def _load(checkpoint: bytes) -> tuple[dict[str, Tensor], int]:
    try:
        tensors = load_safetensors(checkpoint)
        return tensors, int(tensors["epoch"])
    except (SafetensorError, KeyError) as error:
        raise Mismatch(f"the checkpoint cannot be read: {error!r}", "start again with `redo=True`") from error
