"""A report of the tiny cohort, made once; and stores that are only vectors."""

import numpy as np
import pytest

import gigacli as giga
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from tests.browser import browser

__all__ = ["browser"]

EVIL = ("</script><script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "$\\frac{a}{$ & \"'`")


@pytest.fixture(scope="session")
def page(chain, cohort, tmp_path_factory):
    """The report of the tiny cohort."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    summary = giga.report(chain("embed"), cohort.labels_csv, out=file)
    assert summary.pictures == 8
    return file


@pytest.fixture
def vectors_only(tmp_path):
    """``vectors_only(ids, name=...)``: a store of slides that are gone, with one vector each, and its labels."""

    def make(ids, *, labels=("a", "b"), name="cohort.zarr"):
        n, rng = len(ids), np.random.default_rng(0)
        store = Store.create(tmp_path / name)
        rows = [
            SlideRow(id=s, path=f"/gone/{i}.svs", patient=f"p{i // 2}", vendor="aperio", size_px=(9, 9), mpp=0.5)
            for i, s in enumerate(ids)
        ]
        store.write_slides(SlideTable(tuple(rows)))
        vectors = rng.normal(size=(n, 8)).astype(np.float32)
        vectors[:, 0] += 3 * (np.arange(n) // 2 % 2)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        recipe = Recipe("embed", {"aggregator": "model", "model": "m"}, {"features": "f"})
        store.embedding("giga").begin(recipe, vectors.shape[1], redo=False)
        store.embedding("giga").write(np.arange(n), vectors)
        table = tmp_path / f"{name}.csv"
        lines = [f"{_cell(s)},{_cell(labels[i // 2 % 2])},site {i % 3}" for i, s in enumerate(ids)]
        table.write_text("\n".join(["slide_id,label,centre", *lines]) + "\n", encoding="utf-8")
        return store, table

    return make


def _cell(text):
    return '"' + text.replace('"', '""') + '"'


@pytest.fixture(scope="session")
def evil():
    """Names that are harmless only as text."""
    return EVIL
