"""Stores that are the same and stores that are not."""

import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks import compare_stores
from benchmarks.compare_stores import differences


@pytest.fixture
def pair(tmp_path):
    """Two equal folders like stores: a document above a group with a chunk."""
    one, other = tmp_path / "one.zarr", tmp_path / "other.zarr"
    (one / "tiles").mkdir(parents=True)
    attributes = {"giga": {"created_by": "giga 1", "format_version": "0.1"}, "groups": [{"created_by": "giga 1"}]}
    (one / "zarr.json").write_text(json.dumps({"zarr_format": 3, "attributes": attributes}))
    (one / "tiles" / "0").write_bytes(b"chunk")
    shutil.copytree(one, other)
    return one, other


def test_equal_stores_have_no_differences(pair):
    one, other = pair
    document = json.loads((other / "zarr.json").read_text().replace("giga 1", "giga 2"))
    (other / "zarr.json").write_text(json.dumps(dict(reversed(document.items())), indent=1))
    (other / "tiles" / "1.partial").write_bytes(b"killed")
    assert differences(one, other) == []


def test_every_difference_is_named(pair):
    one, other = pair
    (one / "tiles" / "0").write_bytes(b"chunK")
    (one / "zarr.json").write_text((one / "zarr.json").read_text().replace("0.1", "0.2"))
    (other / "tiles" / "1").write_bytes(b"")
    (one / "slides.bin").write_bytes(b"")
    assert differences(one, other) == [
        f"only in {one}: slides.bin",
        "differs: tiles/0",
        f"only in {other}: tiles/1",
        "differs: zarr.json",
    ]


@pytest.mark.parametrize(("name", "equal"), [("history.per_second", True), ("history.loss", False)])
def test_times_in_a_checkpoint_do_not_count(pair, name, equal):
    for i, store in enumerate(pair):
        for array in ("checkpoint", name.replace(".", "/")):
            (store / "models" / "giga" / array / "c").mkdir(parents=True)
        tensors = {"epoch": np.array(3), name: np.array([i, 2.0])}
        (store / "models" / "giga" / "checkpoint" / "c" / "0").write_bytes(save(tensors) + bytes([i] * 4))
        (store / "models" / "giga" / name.replace(".", "/") / "c" / "0").write_bytes(bytes([i]))
    assert len(differences(*pair)) == (0 if equal else 2)


@pytest.mark.parametrize("change", [False, True])
def test_the_exit_code_says_whether_they_differ(pair, change, monkeypatch, capsys):
    if change:
        (pair[1] / "tiles" / "0").unlink()
    monkeypatch.setattr(sys, "argv", ["compare_stores.py", *map(str, pair)])
    with pytest.raises(SystemExit) as stop:
        compare_stores.main()
    assert stop.value.code == int(change)
    assert ("tiles/0" in capsys.readouterr().out) is change


def test_what_is_no_store_is_no_equal_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_stores.py", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        compare_stores.main()
    assert stop.value.code == 2
    assert "no store" in capsys.readouterr().err
