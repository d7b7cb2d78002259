"""Files appear as a whole or not at all."""

import os
import stat

import pytest

from gigacli.files import PARTIAL, new_file, partial_path


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    with new_file(path) as partial:
        partial.write_text("a,b\n")
        assert partial.name.startswith(".table.csv.")
        assert partial.suffix == PARTIAL
        assert not path.exists()
    assert path.read_text() == "a,b\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("before")

    def write():
        with new_file(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with new_file(tmp_path / "file") as partial:
            partial.write_bytes(b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_writers_of_one_file_do_not_share_a_partial_one(tmp_path):
    assert partial_path(tmp_path / "file") != partial_path(tmp_path / "file")
