"""The golden store as today's code writes it: every kind of group once, in a few kilobytes."""

import shutil
from pathlib import Path

import pytest

from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from spec.golden import make_golden


@pytest.fixture(scope="session")
def maker():
    """The module that writes the golden store."""
    return make_golden


@pytest.fixture(scope="session")
def tiny_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.zarr"
    make_golden.build(path)
    return path


@pytest.fixture
def tiny(tiny_once, tmp_path):
    """Path of a small store with everything in it, to write into."""
    return Path(shutil.copytree(tiny_once, tmp_path / "tiny.zarr"))


@pytest.fixture(scope="session")
def table_of():
    """A slide table of some ids."""
    return lambda *ids, **values: SlideTable(tuple(SlideRow(id=i, path=f"/slides/{i}.svs", **values) for i in ids))


@pytest.fixture
def store(tmp_path, table_of):
    """A store with the slides a, b and c, of which nothing is made yet."""
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(table_of("a", "b", "c", size_px=(4000, 3000), mpp=0.5, mpp_source="openslide"))
    return store
