"""The layout in which the authors publish slide vectors: ``embeddings.npy`` (s, c) and ``ids.npy`` (s).

Arrays of Python objects are pickles, and a pickle may run any code when it is read. Theirs hold nothing but text, so
ids are unpickled by a reader that keeps their texts and knows nothing else, not even how to make an array.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.tables import bare_id

MAGIC = b"\x93NUMPY"
MOST_TEXT_BYTES = 2**28
"""Of a pickled array of text, as a file; ids of a million slides take a tenth of it."""


@dataclass(frozen=True, eq=False)
class SlideVectors:
    """Vectors of slides, as they were read."""

    path: Path  # of the vectors, or of the first of them
    vectors: dict[str, NDArray[Any]]  # slide -> its vector (c)
    width: int  # values of a vector, c
    tool: str  # which tool wrote them
    encoder: str = ""  # what made them, "" where the files do not say
    name: str = ""  # what they are called, "" where the files do not say
    patients: dict[str, str] = field(default_factory=dict)  # slide -> its patient, where the files say so
    failures: dict[str, str] = field(default_factory=dict)  # slide -> why its vector cannot be used


class _Texts:
    """Stands in for a numpy array of objects as it is unpickled: keeps the list of texts, and makes no array."""

    values: list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        shape, held = (state[1], state[4]) if isinstance(state, tuple) and len(state) == 5 else ((), None)
        if isinstance(held, list) and shape == (len(held),):
            self.values = held


class _Nothing:
    """Stands in for a dtype."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Nothing,
    ("numpy", "dtype"): _Nothing,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Texts(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Texts(),
}
"""What a pickled array of text refers to, in every version of numpy, and what takes its place."""


class _TextOnly(pickle._Unpickler):  # the one in C makes room for as much as a pickle asks for before it reads
    """Rebuilds arrays of text; refuses whatever else a pickle asks for."""

    dispatch: ClassVar = {op: load for op, load in pickle._Unpickler.dispatch.items() if op != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return STAND_INS[module, name]


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
    name = vectors[0].resolve().parent.name
    return SlideVectors(vectors[0], dict(zip(ids, values, strict=True)), values.shape[1], "numpy", name=name)


def _load(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InvalidInput(f"{path} is not a numpy file")
            file.seek(0)
            return _load_array(file, path)
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        IndexError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{path} cannot be read: {error}", "save it as an array of numbers or of strings: numpy.save(path, array)"
        ) from error


def _load_array(file: BinaryIO, path: Path) -> NDArray[Any]:
    size = path.stat().st_size
    if npy_header(file)[1].hasobject:
        if size > MOST_TEXT_BYTES:
            raise InvalidInput(f"{path} has {size} bytes of pickled text; at most {MOST_TEXT_BYTES} are read")
        held = _TextOnly(io.BytesIO(file.read())).load()
        if not isinstance(held, _Texts) or held.values is None:
            raise InvalidInput(f"{path} holds a pickled {type(held).__name__.strip('_')}; expected an array of text")
        array = np.empty(len(held.values), dtype=object)
        array[:] = held.values
        return array
    file.seek(0)
    return read_npy(file, size)


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a numpy file; what comes next in it are the values."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    return shape, dtype


def read_npy(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array in a numpy file of `size` bytes, which must hold all that its header states.

    Raises:
        ValueError: It does not, or holds Python objects.
    """
    shape, dtype = npy_header(file)
    if (stated := math.prod(shape) * dtype.itemsize) > size:
        raise ValueError(f"its header states {stated} bytes, shape {shape}; the file has {size}")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
