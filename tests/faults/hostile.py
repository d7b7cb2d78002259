"""Stores and files that ask for more than they hold, and the command lines that meet them.

Every kind of lie once, with sizes drawn at random: ``make(7, folder)`` makes the seventh.
"""

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path

import google_crc32c
import h5py
import numpy as np
import torch
from numcodecs import Blosc, Zstd

from gigacli.store.layout import FORMAT_VERSION

GOLDEN = Path(__file__).parents[2] / "spec" / "golden" / FORMAT_VERSION / "tiny.zarr.zip"
BLOCK = 2**17
"""Bytes of a block of zstd, of which a repeated byte takes four."""

READERS = (
    ("info",),
    ("info", "--slides", "--json"),
    ("validate",),
    ("validate", "--level", "consistency"),
    ("export", "embeddings/giga", "--to", "OUT.csv"),
    ("export", "features/moco", "--to", "OUT"),
    ("embed", "--model", "giga", "--name", "again"),
)
"""What opens a store, without its path."""

COMPRESSED = (
    "slides/id", "slides/path", "slides/mask", "slides/mpp", "slides/size_px", "tiles/coords", "tiles/tissue",
    "banks/moco/tile", "embeddings/giga/vectors", "embeddings/giga/done", "models/giga/trained_on", "failures/tile",
)  # fmt: skip
PLAIN = ("tiles/count", "features/moco/done", "features/moco/vectors", "banks/moco/vectors", "models/giga/weights")


def huge(rng, least=4):
    """A number of no honest store."""
    return rng.choice([10 ** rng.randrange(least, 14), 2 ** rng.choice([20, 24, 31, 32, 40, 62])])


# ---------------------------------------------------------------------- parts of files


def zstd_frame(size, *, stated=True, byte=0):
    """Zstd of `size` equal bytes in blocks of four bytes each; whether its header states the size."""
    head = b"\x28\xb5\x2f\xfd" + (b"\xe0" + struct.pack("<Q", size) if stated else b"\x00\x58")
    whole, rest = divmod(size, BLOCK)
    sizes = [BLOCK] * whole + ([rest] if rest or not whole else [])
    blocks = [struct.pack("<I", (i == len(sizes) - 1) | 2 | n << 3)[:3] + bytes([byte]) for i, n in enumerate(sizes)]
    return head + b"".join(blocks)


@cache
def deflated(mebibytes, wbits=15):
    """Zlib, or gzip (31), of as many MiB of zeros."""
    pack, zeros = zlib.compressobj(9, wbits=wbits), bytes(2**20)
    return b"".join([*(pack.compress(zeros) for _ in range(mebibytes)), pack.flush()])


@cache
def blosc_bomb():
    return bytes(Blosc("zstd", clevel=9, shuffle=0).encode(bytes(2**29)))


@cache
def long_texts():
    """Zstd of 4096 equal texts of 128 KiB."""
    text = struct.pack("<I", 2**17) + b"x" * 2**17
    return bytes(Zstd(9).encode(struct.pack("<I", 4096) + text * 4096))


def checked(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


# ---------------------------------------------------------------------- stores


class Victim:
    """The golden store, to be changed."""

    def __init__(self, folder):
        self.path = folder / "tiny.zarr"
        with zipfile.ZipFile(GOLDEN) as archive:
            archive.extractall(self.path)

    def change(self, node, change):
        """Let a function change a document."""
        file = self.path / node / "zarr.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    def codecs(self, node, *names):
        def change(document):
            document["codecs"] = [n if isinstance(n, dict) else {"name": n} for n in names]

        self.change(node, change)

    def chunk(self, node):
        """A chunk of an array, made if it is not there."""
        files = sorted(p for p in (self.path / node / "c").rglob("*") if p.is_file())
        if files:
            return files[0]
        rank = len(json.loads((self.path / node / "zarr.json").read_text())["shape"])
        first = Path(self.path, node, "c", *["0"] * rank)
        first.parent.mkdir(parents=True, exist_ok=True)
        return first


def shapes(store, rng):
    """Arrays of any shape, with chunks to match or not."""
    for node in rng.sample(COMPRESSED + PLAIN, rng.choice([1, 1, 4])):

        def change(document):
            shape, chunks = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
            axis = rng.randrange(len(shape))
            shape[axis] = huge(rng)
            if rng.random() < 0.5:
                chunks[axis] = shape[axis]

        store.change(node, change)


def registered(store, rng):
    """More slides than there are, and arrays with room for them."""
    n = huge(rng)
    store.change("slides", lambda d: d["attributes"]["giga"].update(registered=n))
    if rng.random() < 0.7:
        for file in store.path.rglob("zarr.json"):
            document = json.loads(file.read_text())
            if (document.get("dimension_names") or [""])[0] == "slide":
                document["shape"][0] = n
                file.write_text(json.dumps(document))


def types(store, rng):
    """Values of a gigabyte each."""
    node = rng.choice(("tiles/count", "embeddings/giga/done", "slides/mpp", "features/moco/done"))
    kind = rng.choice(("fixed_length_utf32", "null_terminated_bytes", "raw_bytes"))
    wide = {"name": kind, "configuration": {"length_bytes": 4 * huge(rng)}}
    store.change(node, lambda d: d.update(data_type=wide, fill_value=""))


def fills(store, rng):
    """A fill value of a megabyte, once per slide."""
    store.change(rng.choice(COMPRESSED), lambda d: d.update(fill_value="x" * 2 ** rng.randrange(10, 23)))


def documents(store, rng):
    """Documents that are deep, long or no files at all."""
    file = store.path / rng.choice(("", "slides", "tiles", "slides/id", "tiles/count", "banks/moco")) / "zarr.json"
    kind = rng.randrange(5)
    if kind == 0:
        file.write_text("[" * 10**5 + "]" * 10**5)
    elif kind == 1:
        file.write_text(file.read_text()[:-1] + ', "x": [' + ",".join(["[]"] * 4 * 10**6) + "]}")
    elif kind == 2:
        file.write_text(file.read_text().replace("1", "1" * 4000))
    elif kind == 3:
        file.unlink()
        os.mkfifo(file)
    else:
        file.unlink()
        file.symlink_to("/dev/zero")


def consolidated(store, rng):
    """Documents inside of the root's."""
    inner = json.loads((store.path / "tiles/count/zarr.json").read_text())
    inner["shape"] = inner["chunk_grid"]["configuration"]["chunk_shape"] = [huge(rng)]
    held = {"kind": "inline", "must_understand": False, "metadata": {"tiles/count": inner, "slides/id": inner}}
    store.change("", lambda d: d.update(consolidated_metadata=held))


def bombs(store, rng):
    """Zstd that grows, in chunks."""
    for node in rng.sample(COMPRESSED, rng.choice([1, 3])):
        size = rng.choice([2**28, 2**30, 3 * 2**30, 3 * 2**30])
        kind = rng.randrange(4)
        if kind == 0:
            data = zstd_frame(size)
        elif kind == 1:
            data = zstd_frame(size, stated=False)
        elif kind == 2:
            data = zstd_frame(16) + zstd_frame(size)
        else:
            data = zstd_frame(BLOCK) + zstd_frame(size, stated=False)
        store.chunk(node).write_bytes(checked(data))


def roomy_bombs(store, rng):
    """Zstd that grows as far as its array says it should."""
    node = rng.choice(("slides/mpp", "tiles/tissue", "embeddings/giga/vectors", "models/giga/trained_on"))
    size = 2 ** rng.randrange(26, 33)

    def change(document):
        chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
        wide = {"float64": 8, "float32": 4, "int64": 8}[document["data_type"]]
        chunks[-1 if len(chunks) > 1 else 0] = size // wide
        if len(chunks) > 1:
            document["shape"][-1] = size // wide
            chunks[0] = 1

    store.change(node, change)
    more = rng.choice((b"", zstd_frame(3 * 2**30), zstd_frame(3 * 2**30, stated=False)))
    store.chunk(node).write_bytes(checked((zstd_frame(16) if more else zstd_frame(size)) + more))


def other_codecs(store, rng):
    """Compressions that giga does not write, and several of them on top of each other."""
    node = rng.choice(("slides/mpp", "tiles/tissue", "embeddings/giga/vectors"))
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    kind = rng.randrange(4)
    size = 2**30
    if kind == 0:
        gzip = {"name": "gzip", "configuration": {"level": 5}}
        data = deflated(600, wbits=31)
        store.codecs(node, little, gzip)
    elif kind == 1:
        settings = {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}
        blosc = blosc_bomb()
        data = blosc[:4] + struct.pack("<I", 2**31 - 1) + blosc[8:] if rng.random() < 0.5 else blosc
        store.codecs(node, little, {"name": "blosc", "configuration": settings})
    elif kind == 2:
        zstd = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
        data = Zstd().encode(Zstd().encode(zstd_frame(size)))
        store.codecs(node, little, zstd, zstd, zstd)
    else:
        inner = {"chunk_shape": [1], "codecs": [little], "index_codecs": [little]}
        data = bytes(64)
        store.codecs(node, {"name": "sharding_indexed", "configuration": inner})
    store.chunk(node).write_bytes(data)


def texts(store, rng):
    """Texts that are more, or longer, than their bytes."""
    node = rng.choice(("slides/id", "slides/path", "slides/mask", "failures/tile"))
    kind = rng.randrange(3)
    if kind == 0:
        data = struct.pack("<I", rng.choice([2**31 - 1, 2**32 - 1, 10**9, 10**8])) + b"\0" * rng.choice([0, 4, 400])
    elif kind == 1:
        data = struct.pack("<II", 4096, 2**31 - 1) + b"x" * 64
    packed = long_texts() if kind == 2 else bytes(Zstd(9).encode(data))
    store.chunk(node).write_bytes(checked(packed))


def holes(store, rng):
    """Chunks that are long files without content, pipes, or links to what never ends."""
    chunk = store.chunk(rng.choice(COMPRESSED + PLAIN[:4]))
    kind = rng.randrange(3)
    chunk.unlink(missing_ok=True)
    if kind == 0:
        with chunk.open("wb") as file:
            file.truncate(rng.choice([2**30, 3 * 2**30, 2**36]))
    elif kind == 1:
        os.mkfifo(chunk)
    else:
        chunk.symlink_to("/dev/zero")


def counts(store, rng):
    """Slides with more tiles than anybody, and room for them."""
    n = min(huge(rng), 2**31 - 1)
    for node in ("tiles/count", "features/moco/done"):
        for file in (store.path / node / "c").iterdir():
            file.write_bytes(checked(struct.pack("<i", n)))
    if rng.random() < 0.7:
        for node in ("tiles/coords", "tiles/tissue", "features/moco/vectors"):

            def change(document):
                document["shape"][1] = n
                if rng.random() < 0.5:
                    document["shape"][-1] = max(document["shape"][-1], 2)

            store.change(node, change)


def wide(store, rng):
    """Vectors that are wider than anybody's, none of which are there."""
    n = huge(rng)
    for node in rng.choice((("features/moco/vectors", "banks/moco/vectors"), ("embeddings/giga/vectors",))):

        def change(document):
            document["shape"][-1] = n
            document["chunk_grid"]["configuration"]["chunk_shape"][-1] = n

        store.change(node, change)
        for file in (p for p in (store.path / node / "c").rglob("*") if p.is_file()):
            file.unlink()


def weights(store, rng):
    """Weights whose header lies, or that are not there."""
    kind, node = rng.randrange(3), rng.choice(("models/giga", "encoders/moco")) + "/weights"
    if kind == 0:
        n = huge(rng)
        for key in ("shape",):
            store.change(node, lambda d, key=key: d.update({key: [n]}))
        store.change(node, lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[n]))
        if rng.random() < 0.5:
            store.chunk(node).unlink()
        return
    data = safetensors_lie(rng) if kind == 1 else struct.pack("<Q", huge(rng)) + b"{}"
    store.change(node, lambda d: d.update(shape=[len(data)]))
    store.change(node, lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[len(data)]))
    store.chunk(node).write_bytes(checked(data))


def links(store, rng):
    """Folders that lead back to themselves."""
    for name in ("a", "b", "c", "d"):
        for folder in rng.sample(["", "slides", "banks", "banks/moco", "embeddings"], 2):
            link = store.path / folder / name
            if not link.exists():
                link.symlink_to(rng.choice([".", store.path]))


# ---------------------------------------------------------------------- files


def safetensors_lie(rng):
    n = huge(rng)
    header = {"x": {"dtype": "F32", "shape": [n, 4], "data_offsets": [0, 16]}}
    if rng.random() < 0.5:
        header["x"] = {"dtype": "F32", "shape": [n, 0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def npy(shape, dtype="<f4", version=1):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
    length = struct.pack("<H", len(text)) if version == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


class Rebuilt:
    """Unpickles to a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def pickled(rng):
    """An array of texts whose pickle asks for memory."""
    n = rng.choice([10**9, 10**10, 10**12])
    kind = rng.randrange(6)
    if kind == 0:
        return pickle.dumps(Rebuilt(np.ndarray, ((n,),)))
    if kind == 1:
        return pickle.dumps(Rebuilt(np._core.multiarray._reconstruct, (np.ndarray, (n,), b"b")))
    if kind == 2:  # a memo with a number beyond everything
        return b"\x80\x04Nr" + struct.pack("<I", 2**31) + b"."
    if kind == 3:
        return b"\x80\x05\x96" + struct.pack("<Q", n) + b"."
    if kind == 4:
        return b"\x80\x04\x8d" + struct.pack("<Q", n) + b"x."
    state = (1, (n,), np.dtype(object), False, ["x"])
    return pickle.dumps(Rebuilt(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state))


def arrays(folder, rng):
    """``embeddings.npy`` and ``ids.npy``, one of which lies."""
    np.save(folder / "embeddings.npy", np.zeros((3, 4), dtype=np.float32))
    np.save(folder / "ids.npy", np.array(["a", "b", "c"]))
    kind = rng.randrange(5)
    if kind == 0:
        (folder / "embeddings.npy").write_bytes(npy((huge(rng), 4)) + bytes(48))
    elif kind == 1:
        (folder / "ids.npy").write_bytes(npy((huge(rng),), "<U4", version=2) + bytes(48))
    elif kind == 2:
        (folder / "ids.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}")
    elif kind == 3:
        (folder / "ids.npy").write_bytes(npy((3,), f"<U{huge(rng) % 2**29}") + bytes(48))
    else:
        (folder / "ids.npy").write_bytes(npy((3,), "|O") + pickled(rng))
    return ["import", folder / "out.zarr", folder / "embeddings.npy", folder / "ids.npy"]


def hdf5(folder, rng):
    """Features in HDF5 that are elsewhere, or more than the file holds."""
    kind, path = rng.randrange(8), folder / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(patch_size=256, patch_size_level0=512, target_magnification=20, level0_magnification=40)
        n = rng.choice([10**6, 10**7, 10**9])
        big, small = {"shape": (n, 1024), "dtype": "f4"}, {"shape": (12, 16), "dtype": "f4"}
        coords = {"shape": (n, 2), "dtype": "i8"}
        if kind == 0:  # nothing of it was ever written
            file.create_dataset("features", **big, chunks=(1, 1024))
            file.create_dataset("coords", **coords, chunks=(4096, 2))
        elif kind == 1:  # one chunk of 600 MiB of zeros, many times
            rows = 600 * 2**18 // 1024
            data = file.create_dataset("features", (rows * 20, 1024), "f4", chunks=(rows, 1024), compression="gzip")
            for i in range(20):
                data.id.write_direct_chunk((i * rows, 0), deflated(600))
            file.create_dataset("coords", data=np.zeros((rows * 20, 2), dtype="i8"), compression="gzip")
        elif kind == 2:  # coordinates instead
            file.create_dataset("features", **small)
            rows = 600 * 2**16
            data = file.create_dataset("coords", (rows * 2, 2), "i8", chunks=(rows, 2), compression="gzip")
            data.id.write_direct_chunk((0, 0), deflated(600))
        elif kind == 3:
            with h5py.File(folder / "elsewhere.h5x", "w") as other:
                other.create_dataset("features", data=np.ones((12, 16), dtype="f4"))
            file["features"] = h5py.ExternalLink("elsewhere.h5x", "/features")
            file.create_dataset("coords", data=np.arange(24).reshape(12, 2) * 512)
        elif kind == 4:
            outside = [(str(Path(__file__)), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("features", **small, external=outside)
            file.create_dataset("coords", data=np.arange(24).reshape(12, 2) * 512)
        elif kind == 5:
            layout = h5py.VirtualLayout(shape=(n, 1024), dtype="f4")
            layout[:12] = h5py.VirtualSource(__file__, "x", shape=(12, 1024))
            file.create_virtual_dataset("features", layout)
            file.create_dataset("coords", **coords, chunks=(4096, 2))
        elif kind == 6:  # a vector of a slide, and values that are no numbers
            file.create_dataset("features", (2 ** rng.randrange(24, 34),), "f4", chunks=(2**20,))
        else:
            file.create_dataset("features", (12, 16), f"S{2 ** rng.randrange(20, 30)}", chunks=(1, 1))
            file.create_dataset("coords", data=np.arange(24).reshape(12, 2) * 512)
    return ["import", folder / "out.zarr", path, *(["--mpp", "0.5"] if rng.random() < 0.5 else [])]


def tensors(folder, rng):
    """Tensors that are views of little, and archives that grow."""
    kind, path = rng.randrange(4), folder / "a.pt"
    n = rng.choice([10**6, 10**8, 10**9])
    if kind == 0:
        torch.save(torch.zeros(1).expand(n, 1024), path)
    elif kind == 1:
        torch.save(torch.zeros(1).expand(n), path)
    elif kind == 2:
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("features.npy", "w") as file:
            file.write(npy((600 * 2**8, 1024)))
            for _ in range(600):
                file.write(bytes(2**20))
    else:
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", npy((n, 1024)) + bytes(64))
    with h5py.File(folder / "a_patches.h5", "w") as file:
        file.create_dataset("coords", (n, 2), "i8", chunks=(4096, 2))
        file["coords"].attrs.update(patch_size=256, patch_size_level0=512, target_magnification=20)
    return ["import", folder / "out.zarr", path, folder / "a_patches.h5"]


@cache
def archive_bomb():
    """An archive of torch whose members are compressed, with a long one among them."""
    held, out = io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(300 * 2**20)[:1]}, held)
    data = held.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as again:
        for name in archive.namelist():
            with again.open(name, "w") as file:
                if name.endswith("/data/0"):
                    for _ in range(1200):
                        file.write(bytes(2**20))
                else:
                    file.write(archive.read(name))
    return out.getvalue()


def checkpoints(folder, rng):
    """Weights for ``--model`` and ``--encoder``."""
    store, kind, path = Victim(folder).path, rng.randrange(6), folder / "w.pth"
    mark, n = "sparse_pooling.0.0.conv1.weight", rng.choice([4096, 40000, 10**6])
    if kind == 0:
        torch.save({"state_dict": {mark: torch.zeros(1).expand(9, 1, n, n)}}, path)
    elif kind == 1:
        torch.save({"state_dict": {mark: torch.zeros(9, 1, 0, n)}}, path)
    elif kind == 2:
        torch.save({"conv1.weight": torch.zeros(1).expand(n, n)}, path)
    elif kind == 3:
        path.write_bytes(archive_bomb())
    else:
        path = folder / "w.safetensors"
        path.write_bytes(safetensors_lie(rng) if kind == 4 else struct.pack("<Q", huge(rng)) + b"{}")
    if rng.random() < 0.5:
        return ["embed", store, "--model", path, "--features", "moco", "--name", "x"]
    return ["bank", store, "--encoder", path, "--name", "x"]


OF_A_STORE = (
    shapes, registered, types, fills, documents, consolidated, bombs, roomy_bombs, other_codecs, texts, holes, counts,
    wide, weights, links,
)  # fmt: skip
OF_FILES = (arrays, hdf5, tensors, checkpoints)
KINDS = (*OF_A_STORE, *OF_FILES)


def make(number, folder):
    """Make one of them in a folder; what it is, and a command line that meets it."""
    kind, rng = KINDS[number % len(KINDS)], random.Random(number)
    folder.mkdir()
    if kind in OF_FILES:
        return kind.__name__, kind(folder, rng)
    store = Victim(folder)
    kind(store, rng)
    verb, *options = rng.choice(READERS)
    return kind.__name__, [verb, store.path, *(o.replace("OUT", str(folder / "out")) for o in options)]
