"""Keyed randomness: a number depends on what it is for, never on the order of the work."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_seed(*key: object) -> int:
    """Return a 63-bit seed that is a function of the key alone.

    Args:
        key: What the randomness is for, for example ``(seed, slide id, augmentation)``.
    """
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def keyed_rng(*key: object) -> np.random.Generator:
    """Return a generator whose numbers are a function of the key alone."""
    return np.random.Generator(np.random.PCG64(keyed_seed(*key)))
