"""Files of PyTorch from strangers: no pickled code is run, and no more is read than lies in the file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path


def load_torch(path: Path, *, mmap: bool = False) -> Any:
    """What a file of ``torch.save`` holds, on the CPU; with `mmap` tensors are mapped and not read.

    Raises:
        Exception: It is damaged or holds more than tensors; torch raises half a dozen types.
        ValueError: Its members are compressed, as torch never writes them, and might grow to any size.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed; torch.save does not compress")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether every value of a tensor is held: a view may repeat one value as often as it likes."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() > 0 and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
