"""Slides that lie: mutated files are registered and tiled in a process of their own, which must live and be quick.

30 mutants by default, more with GIGA_FUZZ=500 in the environment.
"""

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SECONDS = 20.0
MEMORY = 6 * 2**30  # of addresses: far above what a slide of a few megapixels needs
EXTREME = (0, 1, 2, 255, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
# Size, bits, compression, colour, strips, samples, resolution, tiles, sub-directories, JPEG tables.
TAGS = (256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 282, 283, 296, 322, 323, 324, 325, 330, 347, 530)
DICOM = {b"\x28\x00\x10\x00US": 2, b"\x28\x00\x11\x00US": 2, b"\x48\x00\x06\x00UL": 4, b"\x48\x00\x07\x00UL": 4}


def flip(data, rng):
    for _ in range(rng.choice((1, 8, 64, 512))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_ends(data, rng):
    """Headers and directories stand at the beginning or at the end."""
    for _ in range(rng.choice((1, 4, 16))):
        place = rng.randrange(min(4096, len(data)))
        data[rng.choice((place, -1 - place))] ^= 1 << rng.randrange(8)
    return data


def truncate(data, rng):
    return data[: int(len(data) * rng.choice((rng.random(), 0.999, 0.001)))]


def blank(data, rng):
    start, size = rng.randrange(len(data)), rng.choice((16, 1000, 100_000))
    data[start : start + size] = rng.choice((b"\0", b"\xff")) * len(data[start : start + size])
    return data


def directories(data):
    """Where the directories of a TIFF are, how many entries they have, and where each stores the offset of the next."""
    order = "<" if data[:2] == b"II" else ">"
    offset, found = struct.unpack_from(order + "I", data, 4)[0], []
    while offset and offset + 2 < len(data) and offset not in [f[0] for f in found] and len(found) < 30:
        count = struct.unpack_from(order + "H", data, offset)[0]
        found.append((offset, count, offset + 2 + 12 * count))
        if found[-1][2] + 4 > len(data):
            break
        offset = struct.unpack_from(order + "I", data, found[-1][2])[0]
    return order, found


def lie(data, rng):
    """One entry of a directory says something else: a size, an offset, a count, a type."""
    if data[:2] not in (b"II", b"MM"):
        return lie_dicom(data, rng)
    order, found = directories(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        offset, count, _ = rng.choice(found)
        entries = [offset + 2 + 12 * i for i in range(count) if offset + 14 + 12 * i <= len(data)]
        known = [e for e in entries if struct.unpack_from(order + "H", data, e)[0] in TAGS]
        entry = rng.choice(known or entries)
        what = rng.randrange(8)
        value = rng.choice((*EXTREME, rng.randrange(len(data)), offset))
        if what == 0:
            struct.pack_into(order + "H", data, entry + 2, rng.randrange(20))  # type
        elif what <= 2:
            struct.pack_into(order + "I", data, entry + 4, value)  # count
        elif struct.unpack_from(order + "H", data, entry + 2)[0] == 3:
            struct.pack_into(order + "H", data, entry + 8, value & 0xFFFF)
        else:
            struct.pack_into(order + "I", data, entry + 8, value)
    return data


def lie_dicom(data, rng):
    tag, size = rng.choice(sorted(DICOM.items()))
    place = data.find(tag)
    if place < 0:
        return flip_ends(data, rng)
    data[place + 8 : place + 8 + size] = (rng.choice(EXTREME) % 256**size).to_bytes(size, "little")
    return data


def loop(data, rng):
    """Directories that follow each other in a circle, or point into themselves, or into nothing."""
    if data[:2] not in (b"II", b"MM"):
        return lie_dicom(data, rng)
    order, found = directories(data)
    target = rng.choice([f[0] for f in found] + [f[0] + 2 for f in found] + [4, len(data) - 3, 2**32 - 2])
    offset, count, pointer = rng.choice(found)
    if rng.random() < 0.5 and pointer + 4 <= len(data):
        struct.pack_into(order + "I", data, pointer, target)
    else:  # an entry becomes a sub-directory
        entry = offset + 2 + 12 * rng.randrange(count)
        struct.pack_into(order + "HHII", data, entry, 330, 4, 1, target)
    return data


MUTATIONS = (flip, flip_ends, truncate, blank, lie, lie, lie, loop)


def make_mutant(number, sources, folder):
    """Write mutant `number` and return its path, and a name for what was done."""
    rng = random.Random(number)
    source, mutation = sources[number % len(sources)], MUTATIONS[number // len(sources) % len(MUTATIONS)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if source.is_dir():
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
        path = rng.choice(sorted(folder.iterdir()))
    else:
        path = folder / f"mutant{source.suffix}"
        shutil.copyfile(source, path)
    path.write_bytes(mutation(bytearray(path.read_bytes()), rng))
    return path, f"{number} {mutation.__name__} {source.name}"


def tile_mutant(path, store, sizes):
    """What the library makes of a slide: "done N", "failed REASON", or "wrong ..."."""
    import numpy as np

    from gigacli.errors import GigaError
    from gigacli.stages.tile import tile
    from gigacli.store.store import Store

    try:
        summary = tile(store, path, slide_mpp=0.5, workers=1)
    except GigaError as error:
        return f"refused {error.message}"
    if summary.failed:
        return f"failed {next(iter(summary.failures.values()))}"
    opened = Store.open(store)
    count = int(opened.root["tiles/count"][0])
    coords = opened.root["tiles/coords"][0, :count]
    row = opened.slides[0]
    side = 256 * 1.0 / row.mpp
    if count and (coords.min() < 0 or (coords + side > np.array(row.size_px) + 1e-6).any()):
        return f"wrong tile outside {row.size_px}"
    if count and (coords + side > np.array(sizes) + 1e-6).any():
        return f"wrong size {row.size_px} for {sizes}, {count} tiles"
    return f"done {count}"


def work(plan):
    """The process that may die: tile one mutant after another, saying which before and what after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sources, folder = [Path(s) for s in plan["sources"]], Path(plan["folder"])
    for number in range(plan["first"], plan["last"]):
        path, name = make_mutant(number, sources, folder / "slide")
        shutil.rmtree(folder / "store", ignore_errors=True)
        say({"number": number, "name": name})
        started = time.monotonic()
        try:
            found = tile_mutant(path, folder / "store", plan["sizes"][number % len(sources)])
        except BaseException as error:
            found = f"escaped {type(error).__name__}: {error}"
        say({"number": number, "found": found, "seconds": time.monotonic() - started})


def say(record):
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def fuzz(first, last, sources, sizes, folder):
    """The fate of mutants `first` to `last`: their names, what was found and how long it took."""
    import select

    fates = []
    while first < last:
        plan = {"first": first, "last": last, "sources": [str(s) for s in sources], "sizes": sizes}
        plan["folder"] = str(folder)
        command = [sys.executable, "-W", "ignore", __file__, json.dumps(plan)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        name, found = "", {}
        while True:
            ready, _, _ = select.select([process.stdout], [], [], SECONDS + 10 * (not name))
            line = process.stdout.readline() if ready else b""
            if not line:
                break
            record = json.loads(line)
            name = record.get("name", name)
            first = record["number"]
            if "found" in record:
                fates.append((name, record["found"], record["seconds"]))
                found = record
        if not ready:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        process.stdout.close()
        if not ready or code:
            assert name, "the process died before the first mutant"
            if found.get("number") != first:
                fates.append((name, "hung" if not ready else f"died of {code}", SECONDS))
        first += 1
    return fates


@pytest.fixture
def sources(tmp_path):
    import numpy as np
    from openslide import OpenSlide

    from gigacli.demo.draw import LABS, draw_slide
    from gigacli.demo.pyramid import write_pyramid

    image = draw_slide(np.random.default_rng(0), label="solid", lab=LABS[0], size_px=(2048, 1536)).image
    write_pyramid(tmp_path / "demo.tif", image, mpp=0.5)
    real = Path(__file__).parents[2].parent / "shared" / "slides"
    files = [tmp_path / "demo.tif"]
    if real.is_dir():
        names = ("CMU-1-Small-Region.svs", "hamamatsu_test3-DAPI-2-387.ndpi", "CMU-1-Small-Region.pyramid.tif")
        names += ("TCGA-CR-7395-01A-01-TS1.svs",)
        files += [*(real / name for name in names), real / "dicom"]
    sizes = []
    for file in files:
        with OpenSlide(sorted(file.iterdir())[0] if file.is_dir() else file) as slide:
            sizes.append(slide.dimensions)
    return files, sizes


@pytest.mark.timeout(3600)
def test_mutated_slides_neither_hang_nor_kill_nor_lie(sources, tmp_path):
    count = int(os.environ.get("GIGA_FUZZ", "30"))
    fates = fuzz(0, count, *sources, tmp_path / "work")
    if report := os.environ.get("GIGA_FUZZ_REPORT"):
        Path(report).write_text("\n".join(f"{s:6.2f} {name}: {found}" for name, found, s in fates) + "\n")
    assert len(fates) == count
    bad = [fate for fate in fates if fate[1].split()[0] not in ("done", "failed", "refused")]
    assert not bad, bad
    kinds = Counter(fate[1].split()[0] for fate in fates)
    assert kinds["done"] > count / 10  # most mutations of pixels hurt nothing at the resolution of a thumbnail
    assert kinds["failed"] > count / 10


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
