"""Trials of libraries, one function each, run in processes of their own (:mod:`gigacli.doctor.isolated`).

They return plain values and raise what the library raises.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from gigacli.errors import GigaError

SIDE_PX = 512


def openslide() -> str:
    """Write a slide and read a tile of it; return the version of the library."""
    import numpy as np
    import openslide

    from gigacli.demo.pyramid import write_pyramid
    from gigacli.wsi.slide import Slide

    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    image[:, SIDE_PX // 2 :] = (200, 60, 120)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.tif")
        write_pyramid(path, image, mpp=0.5)
        with Slide(path, mpp=0.5) as slide:
            tile = slide.read(SIDE_PX // 2, 0, tile_px=64, mpp=1.0)
    off = np.abs(tile.astype(int) - (200, 60, 120)).max()
    if off > 8:
        raise GigaError(f"a tile that was written is read back with pixels that are {off} off")
    return str(openslide.__library_version__)


def zarr() -> str:
    """Write and read arrays as a store has them, mapped ones too; return the codecs."""
    import numpy as np
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    from gigacli.store.chunk_rows import ChunkRows
    from gigacli.store.shards import CHECKSUM_BYTES, Chunks

    values = np.arange(4096, dtype=np.float16).reshape(2, 2048)
    with tempfile.TemporaryDirectory() as folder:
        root = zarr.open_group(folder, mode="a", zarr_format=3)
        zstd, checksum = ZstdCodec(), Crc32cCodec()
        kinds: dict[str, Any] = {
            "zstd": {"compressors": [zstd, checksum]},
            "plain": {"compressors": [checksum]},
            "shards": {"compressors": [checksum], "shards": (2, 2048)},
        }
        for name, codecs in kinds.items():
            array = root.create_array(name, shape=values.shape, dtype="float16", chunks=(1, 2048), **codecs)
            array[:] = values
            if not np.array_equal(zarr.open_array(Path(folder, name), mode="r")[:], values):
                raise GigaError(f"an array that was written ({name}) is read back with other values")
            if name == "zstd":
                continue
            places = [place for i in range(2) if (place := Chunks(array).place((i, 0))) is not None]
            mapped = ChunkRows(places, (1, 2048), values.dtype, checked=CHECKSUM_BYTES)
            if not np.array_equal(mapped[:][:, 0], values):
                raise GigaError("a mapped chunk holds other values than were written")
    return "none and zstd with checksums, shards, mapped chunks"


def torch() -> dict[str, Any]:
    """Return what torch can do here: processors, GPUs or why there are none, precision, compiling."""
    import torch

    from gigacli.nn.device import pick_precision
    from gigacli.nn.frozen import can_compile

    cpu = torch.device("cpu")
    with warnings.catch_warnings(record=True) as said:  # torch warns of a driver it cannot use
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": pick_precision("auto", cpu),
        "compiles": can_compile(cpu),
        "cuda_build": torch.version.cuda or torch.version.hip,
        "cuda": available,
        "why_no_cuda": "; ".join(str(w.message).split("(Triggered")[0].strip() for w in said),
        "gpus": [_gpu(torch, i) for i in range(torch.cuda.device_count())] if available else [],
    }


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    """Return what a GPU is, and whether it computes."""
    from gigacli.nn.device import pick_precision

    device = torch.device("cuda", index)
    found = torch.cuda.get_device_properties(device)
    about = {"name": found.name, "gib": found.total_memory / 2**30, "architecture": f"sm_{found.major}{found.minor}"}
    try:
        with torch.cuda.device(device):
            product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
            about["precision"] = pick_precision("auto", device)
            error = "" if bool((product == 64).all()) else "a product of two matrices is wrong"
    except RuntimeError as raised:  # such as "no kernel image": the build does not know this GPU
        error = str(raised).splitlines()[0]
    return {**about, "error": error}


def importable(module: str) -> None:
    """Import a module, without what it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(module)


def spconv() -> str:
    """Infer with spconv and with torch; return what spconv can do here."""
    import torch

    from gigacli.nn.slide_encoder import SlideEncoder
    from gigacli.nn.views import ViewBatch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = torch.rand(1, 3, 8, generator=torch.Generator().manual_seed(0))
    views = ViewBatch(features.to(device), torch.tensor([[[0, 0], [1, 1], [2, 5]]], device=device))
    vectors = []
    for backend in ("torch", "spconv"):
        encoder = SlideEncoder(8, width=16, backend=backend, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            vectors.append(encoder.to(device).eval()(views))
    if not torch.allclose(vectors[0], vectors[1], atol=1e-3, rtol=1e-2):
        raise GigaError("spconv and torch give different vectors")
    return "trains and infers" if device.type == "cuda" else "infers only: it cannot train on a processor"


def self_test() -> dict[str, Any]:
    """Draw a few slides and take them through tile, bank, train and embed; return the seconds per verb."""
    import gigacli as giga
    from gigacli.demo.cohort import write_cohort
    from gigacli.nn.device import pick_device, pick_precision

    os.environ.pop("RANK", None)  # it is one process, whatever started it
    device = pick_device("auto")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="giga-doctor-") as folder:
        drawn = write_cohort(folder, slides=4, patients=4, labs=1, seed=0, size_px=(1536, 1152))
        store = Path(folder, "cohort.zarr")
        steps = (
            ("tile", lambda: giga.tile(store, csv=drawn.cohort_csv, mpp=1.0, tile_px=64)),
            ("bank", lambda: giga.bank(store, encoder="random-resnet18", augmentations=2, draws=8)),
            ("train", lambda: giga.train(store, epochs=2)),
            ("embed", lambda: giga.embed(store, views=5)),
        )
        for verb, step in steps:
            started = time.monotonic()
            try:
                summary = step()
            except Exception as error:
                raise GigaError(f"giga {verb}: {type(error).__name__}: {error}") from error
            failures: dict[str, str] = getattr(summary, "failures", {})
            if failures:
                raise GigaError(f"giga {verb}: {next(iter(failures.values()))}")
            seconds[verb] = time.monotonic() - started
        if problems := giga.validate(store).problems:
            raise GigaError(f"the store is not valid: {problems[0].path}: {problems[0].message}")
    return {"device": str(device), "precision": pick_precision("auto", device), "seconds": seconds}
