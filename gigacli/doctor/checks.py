"""``giga doctor``: checks of the machine, each made whatever the others find, and each with a remedy."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from gigacli.config.bank import BankConfig
from gigacli.config.base import options_of
from gigacli.config.tools import DoctorConfig
from gigacli.doctor import machine, probes
from gigacli.doctor.isolated import IsolatedCall, Outcome
from gigacli.errors import GigaError, NotFound
from gigacli.parallel import worker_count
from gigacli.progress import SILENT, Progress
from gigacli.shown import Block, Shown, some
from gigacli.version import __version__

State = Literal["ok", "note", "broken"]
TIMEOUT_S = 120.0
SELF_TEST_TIMEOUT_S = 300.0
SLOW_FSYNC_MS = 20.0
LEAST_MEMORY = 4 * 2**30
WIDTH = 256  # width of the features of a ResNet18, for the size of a bank

MODULES = {"mlflow-skinny": "mlflow", "scikit-survival": "sksurv", "tensorboard": "torch.utils.tensorboard"}
"""Modules to import of packages whose name is not that of a module."""

FOR_DEVELOPERS = ("docs", "test")
"""Extras whose packages giga does not use."""


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str  # what was looked at
    state: State  # ok; note: it works, but you would want to know; broken: something that giga needs does not work
    found: str  # what was found
    advice: str = ""  # what to do about it, "" where there is nothing to do


@dataclass(frozen=True)
class Report(Shown):
    """What the doctor found."""

    version: str  # version of giga
    python: str  # version of Python
    system: str  # operating system and processor
    packages: dict[str, str | None]  # version of every package that giga uses, None for one that is not installed
    checks: list[Check]  # everything that was looked at
    broken: int  # how many of the checks failed
    seconds: float  # time it took

    def blocks(self) -> Iterator[Block]:
        """What was found, and what to do about it."""
        yield f"giga {self.version}, Python {self.python}, {self.system}"
        yield ", ".join(f"{name} {version}" for name, version in self.packages.items() if version is not None)
        yield from some("", ("check", "state", "found"), ((c.name, c.state, c.found) for c in self.checks))
        yield from (f"{check.name}: {check.advice}" for check in self.checks if check.advice)
        yield "giga works here" if not self.broken else f"{self.broken} of the checks failed"


@options_of(DoctorConfig)
def doctor(
    config: DoctorConfig, store: str | Path | None = None, *, self_test: bool = True, progress: Progress = SILENT
) -> Report:
    """Look at everything giga needs on this machine.

    Args:
        store: A cohort store, or a folder where one shall be: its file system and the room it needs are looked at; by
            default $GIGA_STORE, or the folder one is in.
        progress: Progress receiver.

    Raises:
        NotFound: There is neither a store at `store` nor the folder it would be in.
    """
    started = time.monotonic()
    store = store if store is not None else os.environ.get("GIGA_STORE") or None
    folder = _folder(store)
    needed, optional = _requirements()
    packages = {name: _version(name) for name in (*needed, *optional)}
    extras = [name for name in optional if packages[name] is not None]
    trials = {name: IsolatedCall(getattr(probes, name)) for name in ("openslide", "zarr", "torch")}
    outcomes = {name: trial.outcome(timeout_s=TIMEOUT_S) for name, trial in trials.items()}
    torch = outcomes["torch"]
    checks = [
        *_packages(packages, needed),
        *(_library(name, outcomes[name]) for name in ("openslide", "zarr")),
        *_torch(torch),
        *_extras(extras, torch),
        *_processors(torch),
        *_disk(store, folder),
    ]
    if config.self_test and all(not outcome.error for outcome in outcomes.values()):
        progress.say("taking a few drawn slides through tile, bank, train and embed")
        checks.append(_self_test(IsolatedCall(probes.self_test).outcome(timeout_s=SELF_TEST_TIMEOUT_S)))
    return Report(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        checks=checks,
        broken=sum(check.state == "broken" for check in checks),
        seconds=time.monotonic() - started,
    )


def _folder(store: str | Path | None) -> Path | None:
    """Return the folder of a store, or the one it would be made in; None for a remote one."""
    if store is None:
        return Path()
    if "://" in str(store):
        return None
    path = Path(store)
    folder = path if path.is_dir() else path.absolute().parent
    if not folder.is_dir():
        raise NotFound(f"there is neither {path} nor the folder {folder}", "name a store, or where one shall be")
    return folder


def _requirements() -> tuple[list[str], list[str]]:
    """Return the packages that giga needs, and those that its extras bring."""
    needed: list[str] = []
    optional: list[str] = []
    for line in metadata.requires("gigacli") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        if name and name[0] != "gigacli" and (extra is None or extra[1] not in FOR_DEVELOPERS):
            (optional if extra else needed).append(name[0])
    return needed, list(dict.fromkeys(optional))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages(packages: dict[str, str | None], needed: list[str]) -> Iterator[Check]:
    missing = [name for name in needed if packages[name] is None]
    if missing:
        names = " ".join(missing)
        yield Check("packages", "broken", f"not installed: {names}", f"pip install {names}")
    else:
        yield Check("packages", "ok", f"all {len(needed)} that giga needs are installed")


def _library(name: str, outcome: Outcome) -> Check:
    if not outcome.error:
        found = f"{outcome.value}; a slide is written and read" if name == "openslide" else f"codecs {outcome.value}"
        return Check(name, "ok", found)
    packages = "openslide-python openslide-bin" if name == "openslide" else "zarr numcodecs"
    return Check(name, "broken", outcome.error, f"pip install --force-reinstall {packages}")


def _torch(outcome: Outcome) -> Iterator[Check]:
    """Check torch and its GPUs, or say why there are none."""
    if outcome.error:
        yield Check("torch", "broken", outcome.error, "install a build of torch for this machine: pytorch.org")
        return
    found, there = outcome.value, machine.nvidia_gpus()
    compiler = "" if found["compiles"] else "; no C++ compiler, so large banks are not compiled"
    processor = (
        f"{found['version']}, on the processor in {found['precision']} with {found['threads']} threads{compiler}"
    )
    yield Check("torch", "ok", processor)
    for i, gpu in enumerate(found["gpus"]):
        about = f"{gpu['name']}, {gpu['gib']:.0f} GiB, {gpu['architecture']}"
        if gpu["error"]:
            fix = f"install a build of torch for {gpu['architecture']}, or the processor: giga train STORE --device cpu"
            yield Check(f"cuda:{i}", "broken", f"{about}: {gpu['error']}", fix)
        else:
            yield Check(f"cuda:{i}", "ok", f"{about}, computes in {gpu['precision']}")
    if found["cuda"]:
        return
    if not there:
        yield Check("gpu", "ok", "no NVIDIA GPU here; everything is computed on the processor")
    elif found["cuda_build"] is None:
        fix = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
        yield Check("gpu", "note", f"{there} NVIDIA GPUs are here, but torch is built for the processor", fix)
    else:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = found["why_no_cuda"] or "it does not say why"
        if hidden is not None:
            why = f"CUDA_VISIBLE_DEVICES is {hidden!r}"
        fix = "see that `nvidia-smi` lists them and that the driver is new enough for this CUDA"
        yield Check(
            "gpu", "note", f"{there} NVIDIA GPUs are here, but torch (CUDA {found['cuda_build']}) sees none: {why}", fix
        )


def _extras(extras: list[str], torch: Outcome) -> Iterator[Check]:
    """Check the packages of extras that are installed: each must be importable, and spconv fit the device."""
    builds = sorted({str(d.name) for d in metadata.distributions() if re.match(r"spconv(-cu\d+)?$", str(d.name))})
    trials = {
        name: IsolatedCall(probes.importable, MODULES.get(name, name.replace("-", "_")))
        for name in extras
        if name != "spconv"
    }
    if builds:
        trials["spconv"] = IsolatedCall(probes.spconv)
    for name, trial in trials.items():
        outcome = trial.outcome(timeout_s=TIMEOUT_S)
        if name == "spconv":
            yield _spconv(builds, outcome, cuda=bool(torch.value and torch.value["cuda"]))
        elif outcome.error:
            fix = f"install a {name} that fits, or do without it: pip uninstall {name}"
            if "torchvision" in outcome.error:
                fix = "install the torchvision that was built for this torch, from the same index"
            yield Check(name, "note", f"installed, but cannot be imported: {outcome.error}", fix)
        else:
            yield Check(name, "ok", str(_version(name)))


def _spconv(builds: list[str], outcome: Outcome, *, cuda: bool) -> Check:
    """Check that the build of spconv fits the device."""
    names = " and ".join(builds)
    if len(builds) > 1:
        fix = f"pip uninstall {' '.join(builds)}, then install one of them"
        return Check("spconv", "note", f"{names} are installed and overwrite each other", fix)
    if cuda and builds == ["spconv"]:
        fix = "pip uninstall spconv cumm; pip install spconv-cu126"
        return Check("spconv", "note", "this is its build for the processor, and there is a GPU", fix)
    if outcome.error:
        return Check("spconv", "note", f"{names}: {outcome.error}", f"pip uninstall {' '.join(builds)}; torch does it")
    return Check("spconv", "ok", f"{names} {_version(builds[0])}: {outcome.value}")


def _processors(torch: Outcome) -> Iterator[Check]:
    allowed, quota = machine.processors()
    threads = torch.value["threads"] if torch.value else allowed
    text = f"{allowed} of {os.cpu_count()} processors; {worker_count(None)} readers, {threads} threads of torch"
    if quota is not None and max(threads, worker_count(None)) > max(1.0, quota) + 0.5:
        n = max(1, round(quota))
        fix = f"export OMP_NUM_THREADS={n}, and read with as many threads: giga bank STORE --workers {n}"
        yield Check("processors", "note", f"{text}; but the container gets the time of {quota:g}", fix)
    elif threads > allowed:
        yield Check("processors", "note", f"{text}: more than there are", f"export OMP_NUM_THREADS={allowed}")
    else:
        yield Check("processors", "ok", text)
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.upper() == "ACTIVE":
        found = "OMP_WAIT_POLICY=ACTIVE: threads that wait for each other take a processor each"
        yield Check("openmp", "note", found, "unset OMP_WAIT_POLICY")
    available = machine.memory()
    state: State = "ok" if available >= LEAST_MEMORY else "note"
    advice = "" if state == "ok" else "take less: giga bank STORE --workers 1 --batch-size 16"
    yield Check("memory", state, f"{_size(available)} available", advice)


def _disk(store: str | Path | None, folder: Path | None) -> Iterator[Check]:
    """Check the file system of the store, and the room it needs."""
    if folder is None:
        yield Check("disk", "ok", f"{store} is remote: nothing of it is measured here")
        return
    found = machine.file_system(folder)
    what = f"{folder.resolve()} ({found.kind or 'unknown file system'})"
    if found.error:
        advice = "only reading is possible here: info, validate, probe"
        yield Check("disk", "note" if store else "ok", f"{what} cannot be written: {found.error}", advice)
        return
    if not found.atomic:
        advice = "keep the store on another file system: one process at a time could work here, several cannot"
        yield Check("disk", "broken", f"{what}: a file that is being replaced is seen in pieces", advice)
    elif found.network:
        advice = "many jobs may write here; copy the store to a local disk for giga train, which reads at random"
        yield Check("disk", "note", f"{what} is served by others; fsync takes {found.fsync_ms:.1f} ms", advice)
    else:
        slow = "; slow: --no-sync does not wait for it" if found.fsync_ms > SLOW_FSYNC_MS else ""
        yield Check("disk", "ok", f"{what}: replaces files as a whole, fsync takes {found.fsync_ms:.1f} ms{slow}")
    yield from _room(store, folder, found)


def _room(store: str | Path | None, folder: Path, found: machine.FileSystem) -> Iterator[Check]:
    free = f"{_size(found.free)} free"
    if store is None or not Path(store, "zarr.json").is_file():  # a folder that a store shall be in
        yield Check("room", "ok", free)
        return
    try:
        from gigacli.store.space import space_needed
        from gigacli.store.store import Store

        opened = Store.open(store)
        usual = BankConfig()
        space = space_needed(opened, augmentations=usual.augmentations, draws=usual.draws, width=WIDTH)
    except GigaError as error:
        yield Check("store", "broken", error.message, error.hint)
        return
    except Exception as error:  # a damaged store raises anything
        yield Check("store", "broken", f"{type(error).__name__}: {error}", f"run: giga validate {store}")
        return
    need = f"{free}; a bank of what is not done of {space.slides} slides needs {_size(space.bytes)}"
    files = found.free_files is not None and found.free_files < space.files
    if space.bytes > found.free or files:
        text = f"{need} and {space.files} files, of which {found.free_files} can be made" if files else need
        yield Check("room", "note", text, "make room, or a smaller bank: giga bank STORE --draws 64")
    else:
        yield Check("room", "ok", need)


def _self_test(outcome: Outcome) -> Check:
    if outcome.error:
        return Check("self-test", "broken", outcome.error, "run: giga demo --debug, and report what it says")
    test: dict[str, Any] = outcome.value
    each = ", ".join(f"{verb} {seconds:.1f} s" for verb, seconds in test["seconds"].items())
    return Check("self-test", "ok", f"{each} on {test['device']} in {test['precision']}; the store is valid")


def _size(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
