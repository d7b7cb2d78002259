"""The layout in which the authors publish slide vectors: ``embeddings.npy`` (s, c) and ``ids.npy`` (s).

Arrays of Python objects are pickles, and a pickle may run any code when it is read. Theirs hold nothing but text, so
ids are unpickled by a reader that knows how to rebuild a numpy array and nothing else.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.tables import bare_id

MAGIC = b"\x93NUMPY"
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
"""What a pickled array of text refers to, in every version of numpy."""


@dataclass(frozen=True, eq=False)
class SlideVectors:
    """Vectors of slides, as they were read."""

    path: Path  # of the vectors, or of the first of them
    vectors: dict[str, NDArray[Any]]  # slide -> its vector (c)
    width: int  # values of a vector, c
    tool: str  # which tool wrote them
    encoder: str = ""  # what made them, "" where the files do not say
    failures: dict[str, str] = field(default_factory=dict)  # slide -> why its vector cannot be used


class _TextOnly(pickle.Unpickler):
    """Rebuilds numpy arrays; refuses whatever else a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_pair(paths: list[Path]) -> SlideVectors:
    """Read vectors and ids, told apart by their shapes.

    Raises:
        InvalidInput: There are not two arrays, or they do not belong together, or ids are not text.
    """
    if len(paths) != 2:
        raise InvalidInput(
            f"{len(paths)} npy files were named; expected two, vectors (slides, values) and ids (slides)",
            "giga import cohort.zarr embeddings.npy ids.npy",
        )
    arrays = {path: _load(path) for path in paths}
    vectors = [path for path, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"]
    names = [path for path, array in arrays.items() if array.ndim == 1 and array.dtype.kind in "UO"]
    if len(vectors) != 1 or len(names) != 1:
        shapes = ", ".join(f"{path.name} is {array.dtype} {array.shape}" for path, array in arrays.items())
        raise InvalidInput(f"{shapes}; expected vectors, floats (slides, values), and ids, text (slides)")
    values, texts = arrays[vectors[0]], arrays[names[0]].tolist()
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{names[0]} holds values that are not text", "save the ids as an array of strings")
    ids = [bare_id(text) for text in texts]
    if len(ids) != len(values):
        raise InvalidInput(f"{vectors[0]} has {len(values)} vectors, but {names[0]} has {len(ids)} ids")
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice or "" in ids:
        raise InvalidInput(f"{names[0]} has {len(twice)} ids more than once: {', '.join(twice[:5]) or 'an empty id'}")
    return SlideVectors(vectors[0], dict(zip(ids, values, strict=True)), values.shape[1], "numpy")


def _load(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InvalidInput(f"{path} is not a numpy file")
            file.seek(0)
            return _load_array(file, path)
    except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{path} cannot be read: {error}", "save it as an array of numbers or of strings: numpy.save(path, array)"
        ) from error


def _load_array(file: BinaryIO, path: Path) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(file)
    if dtype.hasobject:
        array = _TextOnly(file).load()
        if not isinstance(array, np.ndarray):
            raise InvalidInput(f"{path} holds a pickled {type(array).__name__}; expected an array of text")
        return array
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
