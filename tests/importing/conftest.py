"""Files in the layouts of other tools: drawn here for those that no package index offers, else what they wrote."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data" / "import"
SIZE_PX = (9000, 7000)


def drawn(i, *, edge_px=512, width=16, tiles=12):
    """Corners (n, 2) on a grid and vectors (n, width) of slide i."""
    rng = np.random.default_rng(i)
    grid = np.array([(x, y) for y in range(0, 5000, edge_px) for x in range(0, 8000, edge_px)], dtype=np.int64)
    corners = grid[np.sort(rng.permutation(len(grid))[:tiles])]
    return corners, (rng.standard_normal((tiles, width)) + (i % 2)).astype(np.float32)


def trident(folder, slide, corners, vectors, *, encoder="uni_v1", power=40, target=20, patch_size=256, overlap=0):
    """``features_<encoder>/<slide>.h5``: chunks of one row, attributes on both datasets, None as text."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as file:
        n = len(vectors)
        features = file.create_dataset("features", data=vectors, chunks=(1, vectors.shape[1]) if n else None)
        features.attrs.update({"name": slide, "savetodir": "None", "encoder": encoder})
        coords = file.create_dataset("coords", data=corners)
        coords.attrs.update(
            {
                "patch_size": patch_size,
                "patch_size_level0": patch_size * power // target,
                "level0_magnification": power,
                "target_magnification": target,
                "overlap": overlap,
                "name": slide,
                "savetodir": "None",
                "level0_width": SIZE_PX[0],
                "level0_height": SIZE_PX[1],
            }
        )


def trident_slide(folder, slide, vector, *, encoder="titan"):
    """``slide_features_<encoder>/<slide>.h5``: one vector."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as file:
        file.create_dataset("features", data=vector).attrs["encoder"] = encoder
        file.create_dataset("coords", data=np.zeros((3, 2), dtype=np.int64))


def clam(folder, slide, corners, vectors, *, patch_size=256, downsample=2.0, old=False, kinds=("h5", "pt")):
    """``patches``, ``h5_files`` and ``pt_files`` under one folder; no resolution, no encoder."""
    for name in ("patches", "h5_files", "pt_files"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "patches" / f"{slide}.h5", "w") as file:
        coords = file.create_dataset("coords", data=corners)
        coords.attrs.update(
            {
                "patch_size": patch_size,
                "patch_level": 1,
                "downsample": (downsample, downsample),
                "downsampled_level_dim": (int(SIZE_PX[0] / downsample), int(SIZE_PX[1] / downsample)),
                "level_dim": (int(SIZE_PX[0] / downsample), int(SIZE_PX[1] / downsample)),
                "name": slide,
                "save_path": "None",
            }
        )
    if "h5" in kinds:
        with h5py.File(folder / "h5_files" / f"{slide}.h5", "w") as file:
            file.create_dataset("features", data=vectors[:, None] if old else vectors)
            file.create_dataset("coords", data=corners)
    if "pt" in kinds:
        torch.save(torch.from_numpy(vectors), folder / "pt_files" / f"{slide}.pt")


def stamp(folder, slide, corners, vectors, *, slide_mpp=0.25, version="2.4.0"):
    """``<extractor>-<hash>/<slide>.h5``: float16, microns, attributes of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as file:
        file.create_dataset("feats", data=vectors.astype(np.float16))
        file.create_dataset("coords", data=corners * slide_mpp)
        file.attrs.update({"extractor": "uni2", "feat_type": "tile", "stamp_version": version, "code_hash": "0"})
        if version >= "2.1":
            file.attrs.update({"unit": "um", "tile_size_um": 128.0, "tile_size_px": 224})


def atlaspatch(folder, slide, corners, features, *, target=20, power=40, patch_size=256):
    """``patches/<slide>.h5``: coordinates with what was read, a group of features."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as file:
        read = np.full((len(corners), 3), (512, 512, 0))
        file.create_dataset("coords", data=np.concatenate([corners, read], axis=1).astype(np.int32))
        for name, vectors in features.items():
            file.create_dataset(f"features/{name}", data=vectors)
        file.attrs.update(
            {
                "patch_size": patch_size,
                "patch_size_level0": patch_size * power // target,
                "level0_magnification": power,
                "target_magnification": target,
                "overlap": 0,
                "level0_width": SIZE_PX[0],
                "level0_height": SIZE_PX[1],
            }
        )


@pytest.fixture(scope="session")
def layouts():
    """The functions above."""
    return SimpleNamespace(
        drawn=drawn,
        trident=trident,
        trident_slide=trident_slide,
        clam=clam,
        stamp=stamp,
        atlaspatch=atlaspatch,
        size_px=SIZE_PX,
    )


@pytest.fixture
def features(tmp_path):
    """A folder in TRIDENT's layout: eight slides of four patients, 40x, tiles of 256 px at 20x."""
    folder = tmp_path / "20x_256px_0px_overlap" / "features_uni_v1"
    for i in range(8):
        trident(folder, f"TCGA-AA-{1000 + i // 2}-01Z-00-DX{i % 2 + 1}", *drawn(i, tiles=10 + i))
    return folder


@pytest.fixture
def written(tmp_path):
    """``written("wsidata")``: a copy of what that tool wrote."""

    def copy(tool: str) -> Path:
        folder = Path(shutil.copytree(DATA / tool, tmp_path / tool))
        for archive in folder.glob("*.zip"):
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder / archive.stem)
            archive.unlink()
        return folder

    return copy
