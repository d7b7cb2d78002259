"""The doctor's findings: what is broken, what is worth a note, and what to do."""

import json

import pytest

from gigacli.doctor import checks as module
from gigacli.doctor import machine
from gigacli.doctor.isolated import Outcome
from gigacli.errors import NotFound
from tests.helpers import run_giga

TORCH = {
    "version": "2.13.0",
    "threads": 1,
    "precision": "bf16",
    "compiles": True,
    "cuda_build": None,
    "cuda": False,
    "why_no_cuda": "",
    "gpus": [],
}
GPU = {"name": "H100", "gib": 80.0, "architecture": "sm_90", "precision": "bf16", "error": ""}


@pytest.fixture
def round_of(monkeypatch):
    """``round_of(torch=Outcome(...))``: the doctor's round where some trials end as given, the others well."""

    def run(store=None, *, gpus=0, builds=(), **outcomes):
        good = {"openslide": "4.0.1", "zarr": "zstd", "torch": TORCH, "spconv": "infers"}
        good["self_test"] = {"device": "cpu", "precision": "bf16", "seconds": {"tile": 1.0}}

        class Trial:
            def __init__(self, check, *arguments):
                name = arguments[0] if arguments else check.__name__
                self.result = outcomes.get(name.replace(".", "_"), Outcome(good.get(name)))

            def outcome(self, *, timeout_s):
                return self.result

        monkeypatch.setattr(module, "IsolatedCall", Trial)
        monkeypatch.setattr(machine, "nvidia_gpus", lambda: gpus)
        monkeypatch.setattr(machine, "REPLACEMENTS", 2)
        if builds:
            packages = [type("Distribution", (), {"name": name})() for name in builds]
            monkeypatch.setattr(module.metadata, "distributions", lambda: packages)
        found = module.doctor(store)
        return {check.name: check for check in found.checks}, found

    return run


def test_a_machine_on_which_all_is_well(round_of, tmp_path):
    checks, found = round_of(tmp_path)
    assert found.broken == 0
    assert {"packages", "openslide", "zarr", "torch", "gpu", "processors", "memory", "disk", "self-test"} <= set(checks)
    assert found.packages["torch"].startswith("2.")
    assert "pytest" not in found.packages
    assert json.dumps([vars(check) for check in found.checks])


def test_what_is_needed_and_does_not_work_is_broken(round_of, tmp_path):
    gone = Outcome(None, "ModuleNotFoundError: Couldn't locate OpenSlide shared library")
    checks, found = round_of(tmp_path, openslide=gone)
    assert checks["openslide"].state == "broken"
    assert "pip install" in checks["openslide"].advice
    assert "self-test" not in checks  # it could not but fail for the same reason
    assert found.broken == 1
    checks, _ = round_of(tmp_path, torch=Outcome(None, "its process was killed by SIGILL"))
    assert (checks["torch"].state, checks["torch"].found) == ("broken", "its process was killed by SIGILL")
    checks, _ = round_of(tmp_path, self_test=Outcome(None, "GigaError: giga bank: no"))
    assert checks["self-test"].state == "broken"


def test_a_package_that_is_missing(round_of, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda name: None if name == "zarr" else "1.0")
    checks, _ = round_of(tmp_path)
    assert (checks["packages"].state, checks["packages"].advice) == ("broken", "pip install zarr")


@pytest.mark.parametrize(
    ("torch", "hidden", "says"),
    [
        ({}, None, "built for the processor"),
        ({"cuda_build": "12.6", "why_no_cuda": "The NVIDIA driver is too old"}, None, "driver is too old"),
        ({"cuda_build": "12.6"}, "", "CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_a_gpu_that_torch_does_not_see(round_of, tmp_path, monkeypatch, torch, hidden, says):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    checks, found = round_of(tmp_path, gpus=1, torch=Outcome({**TORCH, **torch}))
    assert checks["gpu"].state == "note"
    assert says in checks["gpu"].found
    assert checks["gpu"].advice
    assert found.broken == 0


def test_gpus(round_of, tmp_path):
    there = {**TORCH, "cuda_build": "12.6", "cuda": True}
    old = {**GPU, "architecture": "sm_37", "error": "no kernel image is available"}
    checks, found = round_of(tmp_path, gpus=2, torch=Outcome({**there, "gpus": [GPU, old]}))
    assert (checks["cuda:0"].state, checks["cuda:1"].state) == ("ok", "broken")
    assert "sm_37" in checks["cuda:1"].advice
    assert "gpu" not in checks
    assert found.broken == 1


@pytest.mark.parametrize(
    ("builds", "cuda", "outcome", "state", "says"),
    [
        (("spconv",), True, Outcome("trains"), "note", "build for the processor"),
        (("spconv-cu126",), True, Outcome("trains"), "ok", "spconv-cu126"),
        (("spconv", "spconv-cu126"), True, Outcome("trains"), "note", "overwrite each other"),
        (("spconv",), False, Outcome("infers"), "ok", "infers"),
        (("spconv",), False, Outcome(None, "ImportError: no"), "note", "ImportError"),
    ],
)
def test_builds_of_spconv(round_of, tmp_path, monkeypatch, builds, cuda, outcome, state, says):
    monkeypatch.setattr(module, "_version", lambda name: "2.3.8")
    torch = {**TORCH, "cuda": cuda, "cuda_build": "12.6" if cuda else None, "gpus": [GPU] if cuda else []}
    checks, _ = round_of(tmp_path, gpus=int(cuda), builds=builds, torch=Outcome(torch), spconv=outcome)
    assert checks["spconv"].state == state
    assert says in checks["spconv"].found


def test_a_torchvision_that_was_built_for_another_torch(round_of, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda name: "1.0")
    bad = Outcome(None, "RuntimeError: operator torchvision::nms does not exist")
    checks, found = round_of(tmp_path, timm=bad)
    assert checks["timm"].state == "note"
    assert "torchvision" in checks["timm"].advice
    assert found.broken == 0


def test_more_threads_than_the_container_gets(round_of, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda: (8, 2.0))
    monkeypatch.setattr(module, "worker_count", lambda asked: 8)
    checks, _ = round_of(tmp_path)
    assert (checks["processors"].state, "OMP_NUM_THREADS=2" in checks["processors"].advice) == ("note", True)


def test_threads_that_spin(round_of, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert round_of(tmp_path)[0]["openmp"].state == "note"


def disk(**changes):
    return machine.FileSystem(**{"kind": "ext4", "network": False, "free": 10**9, "free_files": 10**6, "fsync_ms": 1.0,
                                 "atomic": True, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "state", "says"),
    [
        ({}, "ok", "fsync takes 1.0 ms"),
        ({"fsync_ms": 80.0}, "ok", "slow"),
        ({"kind": "nfs4", "network": True}, "note", "served by others"),
        ({"atomic": False}, "broken", "in pieces"),
        ({"error": "Read-only file system"}, "note", "Read-only"),
    ],
)
def test_file_systems(round_of, tmp_path, monkeypatch, changes, state, says):
    monkeypatch.setattr(machine, "file_system", lambda folder: disk(**changes))
    check = round_of(tmp_path / "cohort.zarr")[0]["disk"]
    assert check.state == state
    assert says in check.found


def test_the_room_a_store_needs(round_of, store_at, monkeypatch):
    path = store_at("tile")
    need = 8 * 12 * 256 * 256 * 2  # bytes of the bank; the features come on top
    monkeypatch.setattr(machine, "file_system", lambda folder: disk(free=need))
    checks, _ = round_of(path)
    assert checks["room"].state == "note"
    assert "12 MiB" in checks["room"].found
    monkeypatch.setattr(machine, "file_system", lambda folder: disk(free=2 * need))
    assert round_of(path)[0]["room"].state == "ok"
    monkeypatch.setattr(machine, "file_system", lambda folder: disk(free=2 * need, free_files=60))
    assert "64 files, of which 60" in round_of(path)[0]["room"].found


def test_a_bank_that_is_there_needs_no_more_room(chain):
    from gigacli.store.space import space_needed
    from gigacli.store.store import Store

    space = space_needed(Store.open(chain("bank")), augmentations=50, draws=256, width=256)
    assert (space.slides, space.bytes, space.files) == (8, 0, 0)


def test_a_store_that_is_none(round_of, tmp_path):
    (tmp_path / "cohort.zarr").mkdir()
    (tmp_path / "cohort.zarr" / "zarr.json").write_text("{")
    checks, _ = round_of(tmp_path / "cohort.zarr")
    assert checks["store"].state == "broken"
    with pytest.raises(NotFound, match="nowhere"):
        round_of(tmp_path / "nowhere" / "cohort.zarr")
    assert round_of("s3://bucket/cohort.zarr")[0]["disk"].state == "ok"


def test_this_machine(chain):
    """The real round, with nothing stood in for."""
    result = run_giga("doctor", chain("bank"), "--json")
    found = json.loads(result.stdout)
    assert [c for c in found["checks"] if c["state"] == "broken"] == []
    assert [c for c in found["checks"] if f"named '{c['name'].replace('-', '_')}'" in c["found"]] == []
    assert result.returncode == 0
    names = [check["name"] for check in found["checks"]]
    assert names[:4] == ["packages", "openslide", "zarr", "torch"]
    assert names[-2:] == ["room", "self-test"]
    assert {"torch", "zarr", "openslide-python", "spconv"} <= found["packages"].keys()
