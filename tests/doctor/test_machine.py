"""What a process gets of a machine, read from files like those of Linux; a file system as it is."""

import os

import pytest

from gigacli.doctor import machine


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_processors_of_a_container(tmp_path):
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/batch/job\n"})
    cgroup = write(tmp_path / "cgroup", {"batch/cpu.max": "250000 100000", "batch/job/cpu.max": "max 100000"})
    allowed = len(os.sched_getaffinity(0))
    assert machine.processors(cgroup, proc) == (allowed, 2.5)
    old = {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}
    assert machine.processors(write(tmp_path / "old", old), tmp_path / "none") == (allowed, 4.0)
    free = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    assert machine.processors(write(tmp_path / "free", free), tmp_path / "none") == (allowed, None)
    assert machine.processors(tmp_path / "none", tmp_path / "none") == (allowed, None)


def test_memory_of_a_container(tmp_path):
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/job\n", "meminfo": "MemTotal: 900 kB\nMemAvailable: 800 kB\n"})
    assert machine.memory(tmp_path / "none", proc) == 800 * 1024
    cgroup = write(tmp_path / "cgroup", {"job/memory.max": "5000", "job/memory.current": "1000"})
    assert machine.memory(cgroup, proc) == 4000
    assert machine.memory(write(tmp_path / "cgroup", {"job/memory.max": "max"}), proc) == 800 * 1024


def test_gpus_that_the_system_shows(tmp_path):
    assert machine.nvidia_gpus(tmp_path, tmp_path) == 0
    write(tmp_path, {"nvidia0": "", "nvidia1": "", "nvidiactl": "", "driver/nvidia/gpus/0000:01:00.0/information": ""})
    assert machine.nvidia_gpus(tmp_path, tmp_path) == 2


@pytest.mark.parametrize(
    ("folder", "kind", "network"), [("data/scans", "nfs4", True), ("data", "ext4", False), ("my disk/x", "xfs", False)]
)
def test_the_file_system_is_that_of_the_innermost_mount(tmp_path, folder, kind, network):
    (tmp_path / folder).mkdir(parents=True)
    spaced = str(tmp_path / "my disk").replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw\n"
        f"30 22 0:33 / {tmp_path}/data/scans rw - nfs4 server:/scans rw\n"
        f"31 22 0:34 / {spaced} rw - xfs /dev/sdb rw\n"
    )
    found = machine.file_system(tmp_path / folder, mounts)
    assert (found.kind, found.network, found.error) == (kind, network, "")
    assert found.atomic
    assert found.free > 0
    assert found.fsync_ms > 0
    assert not list((tmp_path / folder).glob(".giga*"))


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(machine.tempfile, "TemporaryDirectory", refuse)
    found = machine.file_system(tmp_path)
    assert (found.error, found.atomic) == ("Read-only file system", False)
    assert found.free > 0


def test_a_file_system_that_shows_pieces(tmp_path, monkeypatch):
    from pathlib import Path

    def copy(part, target):
        target.write_bytes(part.read_bytes()[:100])

    monkeypatch.setattr(Path, "replace", copy)
    assert not machine.file_system(tmp_path).atomic
