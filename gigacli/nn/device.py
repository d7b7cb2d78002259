"""Where tensors are computed, and in which precision."""

from __future__ import annotations

import torch

from gigacli.errors import InvalidInput

BF16_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:I`` as a device that is really there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # none to compute on
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"`device` is {name!r}; it must be auto, cpu, cuda or cuda:I")
    # torch keeps the number in 8 bits: cuda:999 is cuda:-25
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise InvalidInput(
            f"`device` is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices", "use `device='cpu'`"
        )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """``auto`` is bf16 where the device computes in it, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if any(capabilities.get(flag) for flag in BF16_CPU_FLAGS) else "fp32"
