"""Fixtures for the stages: a tiny cohort of drawn slides, and stores of it at every stage, made once."""

import argparse
import fcntl
import os
import shutil
import signal
import sys
import types
from contextlib import contextmanager
from pathlib import Path

# One thread: repeatable to the byte, and test processes do not wait for each other's threads.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("GIGA_STORE", None)
# Stores lie in memory where there is plenty: on a disk the tests wait half of their time for its journal. They take 3
# GB there, and each of two processes as much.
MEMORY, FREE, LIMIT = Path("/dev/shm"), Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
if MEMORY.is_dir() and FREE.is_file() and shutil.disk_usage(MEMORY).free > 6 << 30:
    available = next(int(line.split()[1]) << 10 for line in FREE.read_text().splitlines() if "MemAvailable" in line)
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else "max"
    if min(available, available if limit == "max" else int(limit)) > 14 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

import hypothesis  # noqa: E402 - after the environment is set
import pytest  # noqa: E402

from tests import warm  # noqa: E402

# No deadlines: a busy machine is no failure. No random seed: a failure must be repeatable anywhere.
hypothesis.settings.register_profile("giga", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("giga")

warm.keep_freed_memory()

SHARED = Path(__file__).parents[1].parent / "shared"

LANES = {
    "faults": ("faults/", "store/test_kills.py", "wsi/test_fuzz.py"),
    "scripts": ("test_paper.py", "test_wheel.py", "doctor/test_checks.py::test_this_machine"),
    "browser": ("reporting/test_browser.py", "viewing/test_browser.py"),
    "dask": ("stages/test_dask.py",),
    "s3": ("test_remote.py",),
    "slow": (
        "demo/test_draw.py",
        "reporting/test_tile_map.py",
        "stages/test_bank.py",
        "stages/test_bank_encoders.py",
        "stages/test_pretrain_tiles.py",
    ),
}
"""Files and folders that ``make fast`` leaves out, by the marker they get; single tests are marked where they stand."""


def pytest_collection_modifyitems(items):
    """Mark tests by their lane."""
    here = Path(__file__).parent
    for item in items:
        name = f"{item.path.relative_to(here).as_posix()}::{item.name}"
        for marker, places in LANES.items():
            if name.startswith(places):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real slides and label tables beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def slides(shared) -> Path:
    """The small real slides."""
    return shared / "slides"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """``with shared_folder("name") as folder:`` one folder for all test processes, which enter it one by one."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    @contextmanager
    def enter(name):
        folder = root / "shared" / name
        folder.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    return enter


@pytest.fixture(scope="session")
def cohort(shared_folder):
    """Eight small drawn slides of four patients from two labs."""
    from gigacli.demo.cohort import write_cohort

    with shared_folder("cohort") as folder:
        return write_cohort(folder, slides=8, patients=4, labs=2, seed=1, size_px=(1536, 1152))


TILE = {"mpp": 1.0, "tile_px": 64}
BANK = {"encoder": "random-resnet18", "augmentations": 3, "draws": 8, "precision": "fp32"}
TRAIN = {"epochs": 3, "batch_size": 4, "join": False}
EMBED = {"views": 5, "precision": "fp32"}


@pytest.fixture(scope="session")
def chain(cohort, shared_folder):
    """``chain("bank")``: path of a store made up to that stage. Made once; copy it before writing."""
    import gigacli as giga

    made: dict[str, dict[Path, int]] = {}  # stage -> when its large files were written
    steps = {
        "tile": lambda path: giga.tile(path, csv=cohort.cohort_csv, **TILE),
        "bank": lambda path: giga.bank(path, **BANK),
        "train": lambda path: giga.train(path, **TRAIN),
        "embed": lambda path: giga.embed(path, **EMBED),
    }

    def make(stage: str) -> Path:
        with shared_folder(stage) as folder:
            path, done = folder / "cohort.zarr", folder / "done"
            if not done.exists():
                earlier = list(steps)[: list(steps).index(stage)]
                if earlier:
                    copy_store(make(earlier[-1]), path)
                steps[stage](path)
                done.touch()
        return path

    def at(stage: str) -> Path:
        path = make(stage)
        large = {p: p.stat().st_mtime_ns for p in path.rglob("*") if is_large(p)}
        assert made.setdefault(stage, large) == large, "a test has written into a file that copies of this store share"
        return path

    return at


def is_large(file: Path) -> bool:
    """Whether copies of a store share a file: weights and checkpoints of megabytes."""
    return file.is_file() and file.stat().st_size > 1 << 20


def copy_store(store: Path, to: Path) -> Path:
    """Copy a store, to write into it; large files are hard links, as whoever writes a chunk puts a new file there."""

    def copy(source: str, target: str) -> None:
        (os.link if is_large(Path(source)) else shutil.copy2)(source, target)

    return Path(shutil.copytree(store, to, copy_function=copy))


@pytest.fixture
def store_at(chain, tmp_path):
    """``store_at("bank")``: a copy of a store made up to that stage, to write into."""
    return lambda stage, name="cohort.zarr": copy_store(chain(stage), tmp_path / name)


def chunk_files(store: Path, group: str = "") -> dict[str, bytes]:
    """Every chunk file of a group, byte for byte: what must not depend on how the work was split."""
    root = store / group
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "zarr.json")
    return {str(p.relative_to(root)): p.read_bytes() for p in files if not p.name.endswith(".partial")}


@pytest.fixture(scope="session")
def chunks():
    """The function `chunk_files`."""
    return chunk_files


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, here and in children, where the tests themselves run with it ignored (nohup, ``&``)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


OPERATORS = []


@pytest.fixture(scope="session")
def timm(tmp_path_factory):
    """The real timm: no network, an empty cache.

    torchvision, which timm imports, describes its compiled operators as it is imported, and so cannot be imported
    where that compiled part does not load: with a build of torch other than its own, such as one for the CPU. Declaring
    the two operators it describes without looking first is enough, as nothing here calls them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))
        import torch

        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))  # they go when it goes
            for name in ("nms", "qnms"):
                OPERATORS[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm

        yield timm


@pytest.fixture
def authors_checkpoint(monkeypatch):
    """Writes a file like the authors' released checkpoints, with random weights; gives its path and the encoder.

    Weights under two wrappers, and settings in two classes named Namespace, one of a module that only they have.
    """
    import torch

    from gigacli.nn.gigassl import GigasslEncoder
    from gigacli.weights.authors import authors_names

    def write(path, width_in=256, width=512, seed=0):
        encoder = GigasslEncoder(width_in, width=width, generator=torch.Generator().manual_seed(seed))
        state = {"projector.layer3.bias": torch.zeros(256)}
        for theirs, ours in authors_names().items():
            value = encoder.state_dict()[ours]
            if value.ndim == 3:  # (taps, in, out), rows along y -> (taps, 1, in, out), rows along x
                side = 3 if len(value) == 9 else 1
                value = value.reshape(side, side, *value.shape[1:]).transpose(0, 1).flatten(0, 1)[:, None]
            for wrapper in ("backbone.net.mil_model", "encoder.0.net.mil_model"):
                state[f"{wrapper}.sparse_pooling.0.{theirs}"] = value
        module = types.ModuleType("arguments")
        module.Namespace = type("Namespace", (argparse.Namespace,), {"__module__": "arguments"})
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "arguments", module)
            config = module.Namespace(model=argparse.Namespace(nb_tiles=5), lr=0.03)
            torch.save({"epoch": 100, "state_dict": state, "config": config}, path)
        return path, encoder

    return write
