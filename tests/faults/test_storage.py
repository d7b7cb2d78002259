"""The disk is full, or may not be written: a clear end, a valid store, and the same bytes once there is room."""

import errno
import math
import shutil

import pytest

import gigacli.cli.verbs  # noqa: F401 - registers the verbs
from gigacli.cli.command import run_command
from gigacli.nn import loop
from gigacli.store.durable import DurableStore
from gigacli.store.validate import validate

pytestmark = pytest.mark.timeout(3600)  # the long form takes what it takes


@pytest.fixture
def disk(monkeypatch):
    """``disk.fail(at, number)``: from its at-th write on, the disk gives an error; ``disk.writes`` counts them."""

    class Disk:
        writes, at, number = 0, None, 0

        def fail(self, at, number):
            self.writes, self.at, self.number = 0, at, number

        def write(self):
            self.writes += 1
            if self.at is not None and self.writes >= self.at:
                raise OSError(self.number, f"{errno.errorcode[self.number]} of the test")

    disk = Disk()

    def failing(method):
        async def attempt(self, *arguments, **options):
            disk.write()
            return await method(self, *arguments, **options)

        return attempt

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step: as many writes in every run
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)
    for name in ("set", "set_if_not_exists"):
        monkeypatch.setattr(DurableStore, name, failing(getattr(DurableStore, name)))
    return disk


def command(scene, store):
    return [str(word) for word in scene.line(store)]


WRITING = ("tile", "import", "pretrain-tiles", "bank", "train", "embed")


@pytest.mark.parametrize("verb", WRITING)
def test_the_disk_is_full(verb, scene, disk, rng, repeats, capsys):
    scene = scene(verb)
    disk.fail(None, 0)  # counts from here
    counted = scene.fresh("counted")
    assert run_command(command(scene, counted)) == 0
    shutil.rmtree(counted.parent)
    writes = disk.writes
    for i in range(repeats(1)):
        store = scene.fresh(f"full-{i}")
        disk.fail(rng.randint(1, writes), errno.ENOSPC)
        code = run_command(command(scene, store))
        said = capsys.readouterr().err
        assert code == 1, f"{disk.writes} writes, the disk was full from {disk.at} on: {said}"
        assert "ENOSPC" in said
        assert "Traceback" not in said
        assert "kept" in said or "run the same command again" in said
        disk.fail(None, 0)
        if (store / "zarr.json").exists():
            assert validate(store).problems == []
        assert run_command(command(scene, store)) == 0, capsys.readouterr().err
        assert scene.contents(store) == scene.wanted
        shutil.rmtree(store.parent)
    print(f"\n{verb}: {repeats(1)} times a full disk, at one of its {writes} writes")


@pytest.mark.parametrize("verb", WRITING)
def test_the_store_may_not_be_written(verb, scene, disk, capsys):
    scene = scene(verb)
    store = scene.fresh("read-only")
    before = scene.contents(store)
    disk.fail(1, errno.EROFS)
    assert run_command(command(scene, store)) in (1, 2)
    assert "EROFS" in capsys.readouterr().err
    after = {k: v for k, v in scene.contents(store).items() if not k.startswith("cohort.zarr-tiles/")}
    assert after == before  # tiles that were read for a training are kept beside the store, not in it


def test_what_only_reads_needs_no_writing(scene, disk, chain, capsys):
    store, labels = chain("embed"), scene("probe").cohort.labels_csv
    disk.fail(1, errno.EROFS)
    for line in (("info", store), ("validate", store), ("probe", store, "--labels", labels)):
        assert run_command([str(word) for word in line]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("verb", ["bank", "train"])
def test_a_limit_of_the_system_on_the_size_of_files(verb, scene):
    """No stand-in: the kernel refuses to write more, in the middle of a file."""
    scene = scene(verb)
    store = scene.fresh("limited")
    assert scene.victims.run(scene.line(store), file_bytes=20_000) in (1, 2)
    said = scene.victims.said()
    assert "File too large" in said
    assert "Traceback" not in said
    assert validate(store).problems == []
    assert scene.run(store) == 0, scene.victims.said()
    assert scene.contents(store) == scene.wanted
