"""Files appear as a whole or not at all."""

import os
import stat
import subprocess
import sys
import time

import pytest

from gigacli.files import ABANDONED_S, PARTIAL, abandoned, new_file, partial_path


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


DEAD = 2**22 + 1
"""No process has this number."""


def left_by(path, pid=DEAD):
    """A temporary file of a killed process; the time of its last change is an hour ago."""
    parts = partial_path(path).name.rsplit("-", 2)
    left = path.with_name(f"{parts[0]}-{pid}-{parts[2]}")
    left.write_text("half")
    os.utime(left, (time.time() - 3600,) * 2)
    return left


def test_what_a_killed_process_left_is_removed_with_the_next_file(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from gigacli.files import new_file\n"
        "with new_file(Path(sys.argv[1])) as partial: partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "table.csv")], check=False)
    assert [p.suffix for p in tmp_path.iterdir()] == [PARTIAL]
    with new_file(tmp_path / "table.csv") as partial:
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_only_what_giga_left_is_taken_for_abandoned(tmp_path):
    path = tmp_path / "table.csv"
    mine, gone = left_by(path, os.getpid()), left_by(path)
    machine = gone.name.split(".")[3].split("-")[0]
    elsewhere = gone.with_name(gone.name.replace(machine, "0" * 8))
    elsewhere.write_text("half")
    others = [".table.csv.partial", ".notes.partial", ".table.csv.0123abcd.partial", gone.name[1:]]
    for name in others:
        (tmp_path / name).write_text("a user's")
    (tmp_path / gone.name.replace(f"-{DEAD}-", f"-{DEAD + 1}-")).symlink_to(path)
    assert abandoned(tmp_path) == [gone]
    assert abandoned(tmp_path, name="other.csv") == []
    os.utime(elsewhere, (time.time() - ABANDONED_S - 1,) * 2)
    assert sorted(abandoned(tmp_path)) == sorted([gone, elsewhere])
    assert mine.exists()
