"""--dask: a cluster of two processes on this machine, one of which is killed in the middle."""

import os
import signal
import threading
import time

import pytest

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.store.groups import Bank
from gigacli.store.layout import NOT_DONE

NAME = "random-resnet18"
OPTIONS = {"encoder": NAME, "augmentations": 3, "draws": 8, "precision": "fp32"}


@pytest.fixture
def cluster(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the process whose bytes are compared
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with LocalCluster(**options, silence_logs=50) as started:
        yield started


def test_a_worker_killed_in_the_middle_changes_nothing(cluster, store_at, chain, chunks):
    path = store_at("tile")

    def kill_one():
        victim = next(iter(cluster.workers.values())).pid
        stop = time.monotonic() + 60
        while time.monotonic() < stop:
            store = giga.open(path)
            if store.names(Bank) and (store.root[f"banks/{NAME}/done"][:] != NOT_DONE).any():
                break
            time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = giga.bank(path, **OPTIONS, dask=cluster.scheduler_address)
    killer.join()
    assert (summary.slides, summary.failed, summary.done + summary.skipped) == (8, 0, 8)
    for group in ("banks", "features", "encoders"):
        assert chunks(path, group) == chunks(chain("bank"), group)
    again = giga.bank(path, dask=cluster.scheduler_address)
    assert (again.done, again.skipped) == (0, 8)


def test_tiling_on_a_cluster_is_tiling(cluster, tmp_path, cohort, chain, chunks):
    path, broken = tmp_path / "dask.zarr", tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    here = giga.tile(tmp_path / "here.zarr", [cohort.slides, broken], mpp=1.0, tile_px=64)
    there = giga.tile(path, [cohort.slides, broken], mpp=1.0, tile_px=64, dask=cluster.scheduler_address)
    assert chunks(path, "tiles") == chunks(tmp_path / "here.zarr", "tiles")
    assert {**vars(there), "seconds": 0} == {**vars(here), "seconds": 0}


def test_refusals(store_at):
    path = store_at("tile")
    with pytest.raises(InvalidInput, match="`dask` makes shards"):
        giga.bank(path, **OPTIONS, dask="tcp://127.0.0.1:1", shard="1/2")
    with pytest.raises(NotFound, match="no Dask scheduler answers at nowhere:x"):
        giga.bank(path, **OPTIONS, dask="nowhere:x")
