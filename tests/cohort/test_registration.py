"""Registration: what files and tables say of slides, put together."""

import pytest

from gigacli.cohort.registration import _Candidate, _merge, register
from gigacli.errors import InvalidInput, NotFound
from gigacli.store.table import SlideRow, SlideTable


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_without_a_path_completes_the_slide_of_its_id(tmp_path):
    known = SlideTable((SlideRow(id="a", path=""), SlideRow(id="b", path="", patient="p")))
    found = [_Candidate(tmp_path / "c.tif", "c")]
    csv = table(tmp_path / "t.csv", "slide_id,mpp,patient_id", "b,0.5,", "c,,q", "a,0.25,")
    merged = _merge(known, found, [csv])
    assert [(c.id, c.mpp, c.patient) for c in merged] == [("b", 0.5, "p"), ("c", None, "q"), ("a", 0.25, "")]


def test_rows_of_slides_that_are_not_there_are_refused_together_or_left_out(tmp_path):
    known = SlideTable((SlideRow(id="k", path=""),))
    (tmp_path / "a.tif").touch()
    csv = table(tmp_path / "t.csv", "path,slide_id", "a.tif,", "b.tif,b", ",K", ",k", "c.tif,c")
    with pytest.raises(
        NotFound, match=r"3 of 5 slides that .*t.csv names are not there: 'b.tif', 'K', 'c.tif'"
    ) as error:
        _merge(known, [], [csv])
    assert "1 differ in capitals only: 'K' is 'k' there" in error.value.message
    assert f"paths start at {tmp_path}" in error.value.hint
    assert [c.id for c in _merge(known, [], [csv], allow_missing=True)] == ["a", "k"]


def test_a_row_with_a_path_renames_a_slide(tmp_path):
    (tmp_path / "a.tif").touch()
    csv = table(tmp_path / "t.csv", "path,slide_id,mpp", "a.tif,b,0.5", ",b,0.25")
    merged = _merge(SlideTable(()), [_Candidate(tmp_path / "a.tif", "a")], [csv])
    assert [(c.path.name, c.id, c.mpp) for c in merged] == [("a.tif", "b", 0.25)]


def test_two_files_of_one_id_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.tif").touch()
    csv = table(tmp_path / "t.csv", "slide_id,patient_id", "a,p")
    for tables in ([], [csv]):
        with pytest.raises(InvalidInput, match=r"'a' is .*x/a.tif, .*y/a.tif|'a' is .*y/a.tif, .*x/a.tif"):
            register(None, [tmp_path / "x", tmp_path / "y", *tables])
