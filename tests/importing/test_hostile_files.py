"""Files that state more than they hold, or whose values are elsewhere."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch

import gigacli as giga
from gigacli.errors import InvalidInput, SlideError
from gigacli.importing import h5, tensors
from gigacli.importing.arrays import read_pair
from gigacli.importing.hdf5 import attributes_of, open_h5
from gigacli.weights.authors import read_gigassl
from gigacli.weights.resnet18 import read_resnet18
from tests.faults.hostile import Rebuilt, archive_bomb, deflated, npy


def pair(folder, ids=None, vectors=None):
    np.save(folder / "v.npy", np.zeros((2, 3), dtype=np.float32))
    np.save(folder / "i.npy", np.array(["a", "b"]))
    for name, data in (("i.npy", ids), ("v.npy", vectors)):
        if data is not None:
            (folder / name).write_bytes(data)
    return read_pair([folder / "v.npy", folder / "i.npy"])


def test_texts_are_read_without_making_their_array(tmp_path):
    np.save(tmp_path / "o.npy", np.array(["x", "ö"], dtype=object), allow_pickle=True)
    assert list(pair(tmp_path, ids=(tmp_path / "o.npy").read_bytes()).vectors) == ["x", "ö"]


@pytest.mark.parametrize(
    "ids",
    [
        pickle.dumps(Rebuilt(np.ndarray, ((10**12,),))),
        pickle.dumps(Rebuilt(np._core.multiarray._reconstruct, (np.ndarray, (10**12,), b"b"))),
        b"\x80\x04Nr\x00\x00\x00\x80.",  # a memo with the number 2 ** 31
        b"\x80\x05\x96\x00\x00\x00\x00\xff\x00\x00\x00.",  # a bytearray of a terabyte
    ],
)
def test_a_pickle_takes_no_memory(ids, tmp_path):
    with pytest.raises(InvalidInput, match=r"cannot be read|expected an array of text"):
        pair(tmp_path, ids=npy((2,), "|O") + ids)


def test_a_header_of_numpy_is_held_against_the_file(tmp_path):
    with pytest.raises(InvalidInput, match="its header states 16000000000000 bytes"):
        pair(tmp_path, vectors=npy((10**12, 4)) + bytes(48))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def test_values_in_other_files_are_refused(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["features"] = np.ones((12, 16), dtype="f4")
    layout = h5py.VirtualLayout(shape=(12, 16), dtype="f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "features", shape=(12, 16))
    outside = [(str(tmp_path / "other.h5"), 0, h5py.h5f.UNLIMITED)]

    def linked(file):
        file["group/features"] = h5py.ExternalLink("other.h5", "/features")

    for make, says in (
        (linked, "group/features is a link to another file"),
        (lambda f: f.create_dataset("features", (12, 16), "f4", external=outside), "values of features are in another"),
        (lambda f: f.create_virtual_dataset("features", layout), "values of features are in another"),
    ):
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(SlideError, match=says):
            h5.look_into(path, None)


def test_datasets_are_held_against_their_bytes(path):
    rows, wide = 256, {"chunks": (256, 1024), "compression": "gzip"}
    for make, says in (
        (lambda f: f.create_dataset("features", (10**6, 1024), "f4", chunks=(1, 1024)), "0 bytes are stored"),
        (lambda f: f.create_dataset("features", (10**6, 1024), "f4", chunks=(10**5, 1024)), "a chunk of features"),
        (lambda f: f.create_dataset("features", (rows * 256, 1024), "f4", **wide), "bytes are stored"),
    ):
        with h5py.File(path, "w") as file:
            data = make(file)
            for i in range(rows if data.compression else 0):
                data.id.write_direct_chunk((i * rows, 0), deflated(1))
        with pytest.raises(SlideError, match=says):
            h5.look_into(path, None)


def test_datasets_of_texts_and_long_attributes_are_left_alone(path):
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("features", (12, 16), "S100000")
        file.attrs["long"] = np.zeros(5000)
        file.attrs["patch_size"] = 256
    with open_h5(path) as file:
        assert attributes_of(file) == {"patch_size": 256}
        with pytest.raises(SlideError, match="expected numbers"):
            h5.numbers(file, "features")


def test_tensors_hold_what_they_state(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1).expand(10**8, 1024), path)
    with pytest.raises(SlideError, match="of which it does not hold all"):
        tensors._open(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy((128 * 2**8, 1024)) + bytes(2**27))
    assert tensors._shape(tmp_path / "a.npz") == (128 * 2**8, 1024)
    with pytest.raises(SlideError, match="bytes are stored"):
        tensors._open(tmp_path / "a.npz")


def test_too_many_tiles_or_values_of_a_tile(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((3, 300_000), dtype="f4")
        file["coords"] = np.zeros((3, 2), dtype="i8")
    with pytest.raises(InvalidInput, match="300000 values; at most"):
        giga.import_features(tmp_path / "c.zarr", path)


@pytest.mark.slow
def test_weights_hold_what_they_state(tmp_path):
    path, name = tmp_path / "w.pth", "sparse_pooling.0.0.conv1.weight"
    for tensor in (torch.zeros(1).expand(9, 1, 40000, 40000), torch.zeros(9, 1, 0, 10**6)):
        torch.save({"state_dict": {name: tensor}}, path)
        with pytest.raises(giga.errors.Mismatch, match="states more values than it holds"):
            read_gigassl(path)
    path.write_bytes(archive_bomb())
    for read in (read_gigassl, read_resnet18):
        with pytest.raises(giga.errors.Mismatch, match="its members are compressed"):
            read(path)
