"""What tables say of slides: rows with a path are slides, rows without one complete them."""

from gigacli.cohort.registration import _merge
from gigacli.store.table import SlideRow, SlideTable


def test_a_table_completes_registered_slides_whose_files_are_not_known(tmp_path):
    known = SlideTable((SlideRow(id="a", path=""), SlideRow(id="b", path="")))
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,mpp\na,0.5\nb,0.25\na,1.0\n")
    assert [(entry.id, entry.mpp) for entry in _merge(known, [], [table])] == [("b", 0.25), ("a", 1.0)]


def test_a_later_table_renames_and_completes_what_an_earlier_one_named(tmp_path):
    (tmp_path / "x.svs").touch()
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("path,slide_id\nx.svs,old\n")
    second.write_text("path,slide_id\nx.svs,new\n")
    third = tmp_path / "third.csv"
    third.write_text("slide_id,patient_id\nnew,p1\n")
    [entry] = _merge(SlideTable(()), [], [first, second, third])
    assert (entry.id, entry.patient, entry.path) == ("new", "p1", tmp_path / "x.svs")
