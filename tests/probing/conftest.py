from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tcga():
    """The authors' published tables and splits, where they lie beside the checkout."""
    folder = Path(__file__).parents[2].parent / "shared" / "labels" / "tcga"
    if not folder.is_dir():
        pytest.skip("no ../shared/labels beside the checkout")
    return folder


@pytest.fixture
def csv(tmp_path):
    """Write a table and return its path."""

    def write(text, name="labels.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
