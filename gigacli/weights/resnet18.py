"""ResNet18 weights from files of others: any published checkpoint with torchvision's names, bare or wrapped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from gigacli.errors import Mismatch, NotFound
from gigacli.nn.tile_encoder import ResNet18, random_resnet18
from gigacli.weights.torch_file import load_torch

CONTAINERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training code puts a network's weights beside its epoch, optimizer and so on."""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder_q.", "base_encoder.", "encoder.", "resnet.")
"""Wrappers that published checkpoints leave before torchvision's names."""

BACKBONE = re.compile(r"(conv|bn|layer)\d+\.")
"""Beginnings of the names of a backbone; all else (a classifier, a queue, MoCo's ``encoder_k``) is no part of it."""

CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
"""Names that ``nn.Sequential(*resnet.children())`` gives to parts of a ResNet (2, 3 and 8 have no weights)."""

BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("conv2", (2, 2, 2)): "ResNet18",
    ("conv2", (3, 4, 6)): "ResNet34",
    ("conv3", (3, 4, 6)): "ResNet50",
    ("conv3", (3, 4, 23)): "ResNet101",
    ("conv3", (3, 8, 36)): "ResNet152",
}
"""Kind of ResNet by the last convolution of a block and the blocks in ``layer1`` to ``layer3``."""

NAMED = 3  # names of one kind that a message spells out


@dataclass(frozen=True)
class KeyReport:
    """Report on the names in a weights file: which were used, and how. ``str()`` gives one line for messages."""

    tensors: int  # number of tensors in the file
    used: int  # number of those that are the network's
    prefixes: tuple[str, ...]  # wrappers dropped from the names of a backbone
    numbered: bool  # whether the parts had numbers for names, as in ``nn.Sequential``
    # tensors that are no part of a backbone: the first part of their names, and how many there are
    left_out: dict[str, int]
    # names by what is wrong with them; ``num_batches_tracked``, which inference never reads, may be missing
    wrong: dict[str, list[str]]
    kind: str  # the ResNet whose names these are, such as ``ResNet50``; empty if unknown
    layer4: bool  # whether the file has a ``layer4``

    def problems(self) -> str:
        """Reasons why the file is no ResNet18, in words; empty if it is one."""
        return "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in self.wrong.items() if names)

    def __str__(self) -> str:
        text = f"{self.used} of {self.tensors} tensors have a ResNet18's names"
        if not self.layer4 and self.used:
            text += ", none of layer4"
        if self.prefixes:
            text += f"; prefix {' and '.join(self.prefixes)} dropped"
        if self.numbered:
            text += "; numbers read as torchvision's parts"
        if self.left_out:
            text += f"; left out: {_some([f'{name} ({count})' for name, count in self.left_out.items()], most=6)}"
        return text


def resnet18_from_bytes(data: bytes, *, trunk: bool = False) -> ResNet18:
    """Make a ResNet18 of a safetensors file with torchvision's names; `trunk` as in :func:`read_resnet18`."""
    return resnet18_from_state(load_safetensors(data), origin="the stored weights", trunk=trunk)[0]


def read_resnet18(path: Path, *, trunk: bool = False) -> tuple[ResNet18, KeyReport]:
    """Read a ResNet18 from a safetensors or PyTorch file, with a report on the names in it; runs no pickled code.

    Args:
        path: The file.
        trunk: Whether weights without any ``layer4`` will do; the network's ``layer4`` is None then.

    Raises:
        NotFound: There is no such file.
        Mismatch: It is no weights file, or its names or shapes are not a ResNet18's.
    """
    if not path.is_file():
        raise NotFound(f"there is no weights file {path}")
    try:
        state = load_safetensors(path.read_bytes()) if path.suffix == ".safetensors" else load_torch(path)
    except Exception as error:
        # torch's own words are advice on how to run the pickled code
        pickled = isinstance(error, UnpicklingError)
        reason = "it is damaged, or holds more than tensors (pickled code is not run)" if pickled else error
        raise Mismatch(
            f"{path} cannot be read as weights: {reason}",
            "give a .safetensors file, or a PyTorch file of tensors only; of a Lightning checkpoint, its state_dict",
        ) from error
    return resnet18_from_state(state, origin=str(path), trunk=trunk)


def resnet18_from_state(state: Any, *, origin: str, trunk: bool = False) -> tuple[ResNet18, KeyReport]:
    """Make a ResNet18 of the content of a weights file, with a report on its names; `trunk`: see :func:`read_resnet18`.

    Containers and wrappers around the names are dropped, and so is what is no part of the backbone.

    Raises:
        Mismatch: The names or shapes are not a ResNet18's, or two sets of weights become one by dropping wrappers.
    """
    tensors = _tensors(state, origin)
    network = random_resnet18(0)
    weights, report = _match(tensors, network.state_dict(), trunk=trunk)
    if problems := report.problems():
        looks = f" (it looks like a {report.kind})" if report.kind not in ("", "ResNet18") else ""
        enough = not trunk and not _match(tensors, network.state_dict(), trunk=True)[1].problems()
        raise Mismatch(f"{origin} is not a ResNet18{looks}: {problems}. {report}", _advice(report, enough=enough))
    if not report.layer4:
        network.layer4 = None
    network.load_state_dict({**network.state_dict(), **weights})
    return network, report


def _advice(report: KeyReport, *, enough: bool) -> str:
    """Advice on a file that is no ResNet18; `enough`: the only thing wrong is that it has no ``layer4``."""
    if report.kind not in ("", "ResNet18"):
        return "networks of other kinds come from timm: giga bank STORE --encoder timm:NAME"
    if enough:
        return "without layer4 it is a tile encoder for giga bank, but no network to train"
    if any(name.isdecimal() for name in report.left_out):
        return "give it names, or the numbers of torchvision's parts: 0 conv1, 1 bn1, 4 to 7 layer1 to layer4"
    if report.wrong["not finite"]:
        return "its training diverged, or the file is damaged: take another checkpoint"
    return f"expected torchvision's names, or those after any of: {' '.join(PREFIXES)}"


def _tensors(state: Any, origin: str) -> dict[str, Tensor]:
    """Tensors by name, taken out of what training code wraps around them."""
    for key in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise Mismatch(f"{origin} holds a {type(state).__name__}, not weights by name", "save network.state_dict()")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if state and not tensors:
        found = _some([str(key) for key in state])
        raise Mismatch(f"{origin} holds no tensors by name, but {found}", "save network.state_dict()")
    return tensors


def _match(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor], *, trunk: bool
) -> tuple[dict[str, Tensor], KeyReport]:
    """The tensors of a backbone by torchvision's names, and the report on them against those wanted."""
    split = {name: _split(name) for name in tensors}  # name -> (prefix, name without it)
    numbers = {part for part in (rest.partition(".")[0] for _, rest in split.values()) if part.isdecimal()}
    numbered = bool(numbers) and numbers <= CHILDREN.keys()
    if numbered:  # a wrong guess cannot pass: every layer has shapes of its own
        for name, (prefix, rest) in split.items():  # 4.0.conv1.weight -> layer1.0.conv1.weight
            number, dot, tail = rest.partition(".")
            split[name] = prefix, f"{CHILDREN.get(number, number)}{dot}{tail}"
    backbone = {name: rest for name, (_, rest) in split.items() if BACKBONE.match(rest)}
    found = {rest: tensors[name] for name, rest in backbone.items()}
    layer4 = any(name.startswith("layer4.") for name in found)
    if trunk and not layer4:
        wanted = {name: value for name, value in wanted.items() if not name.startswith("layer4.")}
    left_out = Counter(rest.partition(".")[0] for name, (_, rest) in split.items() if name not in backbone)
    shapes = {n: (tuple(found[n].shape), tuple(wanted[n].shape)) for n in wanted if n in found}
    fitting = [n for n, (has, needs) in shapes.items() if has == needs]  # others may state terabytes
    report = KeyReport(
        tensors=len(tensors),
        used=sum(name in wanted for name in backbone.values()),
        prefixes=tuple(sorted({split[name][0] for name in backbone} - {""})),
        numbered=numbered,
        left_out=dict(left_out.most_common()),
        wrong={
            "missing": [n for n in wanted if n not in found and not n.endswith("num_batches_tracked")],
            "of another shape": [f"{n} {has}, expected {needs}" for n, (has, needs) in shapes.items() if has != needs],
            "unexpected": [n for n in found if n not in wanted],
            "there twice": [n for n, count in Counter(backbone.values()).items() if count > 1],
            "not finite": [n for n in fitting if not torch.isfinite(found[n]).all()],
        },
        kind=_kind(found),
        layer4=layer4,
    )
    return found, report


def _split(name: str) -> tuple[str, str]:
    """Split a name into its wrappers and the name without them."""
    rest = name
    while prefix := next((p for p in PREFIXES if rest.startswith(p)), None):
        rest = rest[len(prefix) :]
    return name[: len(name) - len(rest)], rest


def _kind(names: Mapping[str, Tensor]) -> str:
    """Return the kind of ResNet that these names are of, "" if none."""
    blocks = [{n.split(".")[1] for n in names if n.startswith(f"layer{layer}.")} for layer in (1, 2, 3)]
    last = "conv3" if "layer1.0.conv3.weight" in names else "conv2"
    return BLOCKS.get((last, tuple(len(numbers) for numbers in blocks)), "")


def _some(names: Sequence[str], *, most: int = NAMED) -> str:
    """The first few, and how many more."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
