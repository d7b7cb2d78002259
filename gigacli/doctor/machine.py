"""What this machine gives a process: processors, memory, GPUs, and the file system a store lies on."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from gigacli.files import new_file

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
NETWORK = re.compile("nfs|cifs|smb|lustre|gpfs|beegfs|ceph|glusterfs|9p|afs|panfs|wekafs|fuse")
"""Beginnings of the names of file systems that other machines, or other programs, serve."""

FSYNCS, REPLACEMENTS, READS, BLOCK = 15, 200, 20, 4096


def processors(cgroup: Path = CGROUP, proc: Path = PROC) -> tuple[int, float | None]:
    """Return the processors that this process may use, and how many its container grants; None without a limit."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = []
    for text in _cgroup_files("cpu.max", cgroup, proc):  # version 2: "quota period", "max" for no quota
        quota, _, period = text.partition(" ")
        limits += [int(quota) / int(period)] if quota != "max" else []
    for quota, period in zip(
        _cgroup_files("cpu/cpu.cfs_quota_us", cgroup, proc),  # version 1: -1 for no quota
        _cgroup_files("cpu/cpu.cfs_period_us", cgroup, proc),
        strict=False,
    ):
        limits += [int(quota) / int(period)] if int(quota) > 0 else []
    return allowed, min(limits, default=None)


def memory(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Return the bytes of memory that this process may take: those available, or left of its container's limit."""
    lines = dict(line.split(":", 1) for line in _text(proc / "meminfo").splitlines() if ":" in line)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else physical
    for name, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        for limit, taken in zip(_cgroup_files(name, cgroup, proc), _cgroup_files(used, cgroup, proc), strict=False):
            if limit != "max":
                available = min(available, int(limit) - int(taken))
    return available


def nvidia_gpus(proc: Path = PROC, dev: Path = Path("/dev")) -> int:
    """Count the NVIDIA GPUs that the system shows, whether or not torch can use them."""
    listed = proc / "driver" / "nvidia" / "gpus"
    devices = [p for p in dev.glob("nvidia[0-9]*") if p.name.removeprefix("nvidia").isdigit()]
    return max(len(list(listed.iterdir())) if listed.is_dir() else 0, len(devices))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cgroup_files(name: str, cgroup: Path, proc: Path) -> list[str]:
    """Read a control file of the group of this process and of every group above it, where they have one."""
    own = [line.split(":", 2)[2] for line in _text(proc / "self" / "cgroup").splitlines() if line.startswith("0::")]
    folder = cgroup / own[0].lstrip("/") if own else cgroup
    folders = [f for f in (folder, *folder.parents) if f.is_relative_to(cgroup)]
    return [text for f in folders if (text := _text(f / name))]


@dataclass(frozen=True)
class FileSystem:
    """What the file system of a folder can do."""

    kind: str  # type of its file system, "" where the system does not say
    network: bool  # whether other machines, or a program, serve it
    free: int  # bytes free
    free_files: int | None  # files that can still be made; None where there is no limit
    fsync_ms: float  # time until 4 KiB are on the disk, the median
    atomic: bool  # whether a file that is replaced is always seen whole
    error: str = ""  # why it cannot be written, "" where it can; if not, `fsync_ms` is 0 and `atomic` is false


def file_system(folder: Path, mounts: Path = PROC / "self" / "mountinfo") -> FileSystem:
    """Try a folder out with a few small files, which are removed again."""
    folder = folder.resolve()
    room = os.statvfs(folder)
    kind = _kind(folder, mounts)
    free, files = room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None
    known = kind, NETWORK.match(kind) is not None, free, files
    try:
        with tempfile.TemporaryDirectory(prefix=".giga-doctor-", dir=folder) as place:
            return FileSystem(*known, _fsync_ms(Path(place)), _replaces_atomically(Path(place)))
    except OSError as error:
        return FileSystem(*known, 0.0, atomic=False, error=error.strerror or str(error))


def _kind(folder: Path, mounts: Path) -> str:
    """Return the type of the file system of the innermost mount that holds the folder."""
    best, kind = -1, ""
    for line in _text(mounts).splitlines():
        fields, _, after = line.partition(" - ")
        point = Path(fields.split(" ")[4].encode().decode("unicode_escape"))  # a space is written \040
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def _fsync_ms(place: Path) -> float:
    times = []
    for i in range(FSYNCS):
        with (place / f"sync{i}").open("wb") as file:
            file.write(bytes(BLOCK))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return median(times)


def _replaces_atomically(place: Path) -> bool:
    """Whether a thread that reads a file always sees it whole while it is replaced again and again."""
    target, torn, stop, reads = place / "target", [], threading.Event(), 0
    target.write_bytes(bytes(BLOCK))

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                data = target.read_bytes()
            except OSError as error:
                torn.append(str(error))
                return
            if len(data) != BLOCK or len(set(data)) != 1:
                torn.append(f"{len(data)} bytes")
            reads += 1

    def replace(i: int) -> None:
        with new_file(target) as partial:
            partial.write_bytes(bytes([i % 256]) * BLOCK)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        replace(0)
        before = reads
        for i in count(1):  # on a busy machine the reader may not have had its turn yet
            if torn or (i >= REPLACEMENTS and reads - before >= READS):
                break
            replace(i)
    finally:
        stop.set()
        reader.join()
    return not torn
