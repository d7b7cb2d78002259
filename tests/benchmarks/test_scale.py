"""The stores that scale is measured on are stores: valid, and written as the store's own classes write them."""

import pytest

from benchmarks import scale
from gigacli.store.store import Store
from gigacli.store.validate import validate


def test_a_simulated_store_is_valid_and_made_once(tmp_path):
    scale.make(tmp_path / "s.zarr", 5)  # compares files with those that the store's classes write
    store = Store.open(tmp_path / "s.zarr")
    assert store.progress() == {"tiles": 5, "features/simulated": 5, "banks/simulated": 5}
    report = validate(store)
    assert (report.problems, report.unfinished) == ([], [])
    before = (tmp_path / "s.zarr" / "zarr.json").stat().st_mtime_ns
    scale.make(tmp_path / "s.zarr", 5)
    assert (tmp_path / "s.zarr" / "zarr.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("times", "wanted"), [(1.0, 0.0), (10.0, 1.0), (100.0, 2.0)])
def test_the_exponent_is_of_what_is_beyond_the_start(times, wanted):
    start, small = {"cpu": 2.0}, {"cpu": 3.0}
    assert scale.exponent(small, {"cpu": 2.0 + times}, start, 10.0, "cpu") == pytest.approx(wanted)
