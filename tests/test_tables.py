from __future__ import annotations

import sys

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigacli.errors import InvalidInput, NotFound
from gigacli.tables import (
    EXTENSIONS,
    SYNONYMS,
    bare_id,
    find_column,
    name_of,
    read_columns,
    require_column,
    tcga_patient,
    tcga_site,
)


@pytest.fixture
def table(tmp_path):
    """Write a table and read it back."""

    def read(text):
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_columns(path)

    return read


def test_cells_stay_text(table):
    read = table("slide_id,label,n\n007, 01 ,1.50\n008,NA,\n")
    assert read == {"slide_id": ["007", "008"], "label": ["01", "NA"], "n": ["1.50", ""]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_decides_the_delimiter(table, delimiter):
    read = table(delimiter.join(["id", "label"]) + "\n" + delimiter.join(["a", "b c"]) + "\n")
    assert read == {"id": ["a"], "label": ["b c"]}


def test_what_spreadsheets_leave_behind(table):
    read = table(b'\xef\xbb\xbf\r\n,slide_id,label\r\n0,a,"x, y"\r\n1,b\r\n,,\r\n\r\n')
    assert read == {"slide_id": ["a", "b"], "label": ["x, y", ""]}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("slide_id,label\n", "no rows"),
        ("slide_id,label\n,\n", "no rows"),
        ("1,2\n3,4\n", "no header"),
        (",\na,b\n", "no header"),
        ("slide_id,label,label\na,1,2\n", "more than one column named 'label'"),
        ("slide_id,label\na,1,2\n", "Expected 2 fields in line 2, saw 3"),
        (b"slide_id,label\na,\xe9\n", "not UTF-8"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8"),
    ],
)
def test_unusable_files_say_why(table, text, complaint):
    with pytest.raises(InvalidInput, match=complaint) as error:
        table(text)
    assert "t.csv" in error.value.message
    assert error.value.hint


CELLS = [("slide_id", "label", "age", ""), ("007", 1.0, 63.5, "x"), ("008", None, 70.0, ""), (None, None, None, None)]
READ = {"slide_id": ["007", "008"], "label": ["1", ""], "age": ["63.5", "70"]}


def test_workbooks(tmp_path):
    """The first sheet; numbers as a person sees them."""
    book = openpyxl.Workbook()
    book.active.append([])
    for row in CELLS:
        book.active.append(row)
    book.active["H9"].font = openpyxl.styles.Font(bold=True)  # a cell far out, formatted and empty
    book.create_sheet("notes").append(["nothing"])
    book.save(tmp_path / "t.XLSX")
    assert read_columns(tmp_path / "t.XLSX") == READ
    (tmp_path / "damaged.xlsx").write_bytes((tmp_path / "t.XLSX").read_bytes()[:900])
    with pytest.raises(InvalidInput, match=r"damaged\.xlsx cannot be read as a workbook"):
        read_columns(tmp_path / "damaged.xlsx")
    with pytest.raises(InvalidInput, match="old format"):
        read_columns(tmp_path / "t.xls")
    with pytest.raises(NotFound, match="gone"):
        read_columns(tmp_path / "gone.xlsx")


def frame():
    return pd.DataFrame(CELLS[1:], columns=CELLS[0])


def test_parquet(tmp_path):
    frame().iloc[::-1].iloc[1:].iloc[::-1].to_parquet(tmp_path / "t.parquet")
    assert read_columns(tmp_path / "t.parquet") == READ
    frame().dropna(how="all").set_index("slide_id").to_parquet(tmp_path / "t.parquet")
    assert read_columns(tmp_path / "t.parquet") == {**READ, "slide_id": ["007", "008"]}
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_columns(tmp_path / "t.parquet")


def test_data_frames():
    assert read_columns(frame()) == READ
    assert read_columns(frame().set_index("slide_id")) == READ
    typed = pd.DataFrame(
        {"slide_id": ["a", "b"], "n": pd.array([1, None], dtype="Int64"), "f": np.array([2, 0.5], dtype=np.float32)}
    )
    typed["event"], typed["kind"] = [True, False], pd.Categorical(["x", None])
    assert read_columns(typed) == {
        "slide_id": ["a", "b"],
        "n": ["1", ""],
        "f": ["2", "0.5"],
        "event": ["True", "False"],
        "kind": ["x", ""],
    }
    assert (name_of(typed), name_of("a/t.csv")) == ("the DataFrame", "a/t.csv")
    with pytest.raises(InvalidInput, match="the DataFrame has more than one column named 'a'"):
        read_columns(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(InvalidInput, match="the DataFrame has no header"):
        read_columns(pd.DataFrame([[1, 2]]))
    with pytest.raises(InvalidInput, match=r"the DataFrame has a header \(a\) but no rows"):
        read_columns(pd.DataFrame({"a": []}))


@pytest.mark.parametrize(("package", "suffix"), [("openpyxl", "xlsx"), ("pyarrow", "parquet")])
def test_a_reader_that_is_not_installed(tmp_path, monkeypatch, package, suffix):
    (tmp_path / f"t.{suffix}").touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotFound, match=f"needs {package}") as error:
        read_columns(tmp_path / f"t.{suffix}")
    assert f".[{suffix}]" in error.value.hint


def test_a_first_column_without_a_name_may_be_given_one(tmp_path):
    (tmp_path / "t.csv").write_text(",train,\na,True,x\nb,False,y\n")
    assert read_columns(tmp_path / "t.csv") == {"train": ["True", "False"]}
    assert read_columns(tmp_path / "t.csv", unnamed="slide_id") == {"slide_id": ["a", "b"], "train": ["True", "False"]}


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(NotFound, match="gone"):
        read_columns(tmp_path / "gone.csv")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_columns(tmp_path)


@pytest.mark.parametrize(
    ("header", "canonical", "found"),
    [
        ("ID,label,case_id", "slide_id", "ID"),  # the authors' tables
        ("ID,label,case_id", "patient_id", "case_id"),
        ("PATIENT,FILENAME", "slide_id", "FILENAME"),  # STAMP
        ("PATIENT,FILENAME", "patient_id", "PATIENT"),
        ("case_id,slide_id,label", "slide_id", "slide_id"),  # CLAM
        ("wsi,mpp", "path", "wsi"),  # TRIDENT
        ("sample_id,image_path,spacing_at_level_0", "path", "image_path"),  # slide2vec
        ("sample_id,image_path,spacing_at_level_0", "mpp", "spacing_at_level_0"),
        ("id,slide", "slide_id", "slide"),  # the more specific name, wherever it stands
        ("slide,SLIDE_ID", "slide_id", "SLIDE_ID"),  # our own name before any other
        ("Label,label", "label", "label"),  # the exact spelling before another case
        ("grade,stage", "label", None),
        ("Train,val", "train", "Train"),  # names without synonyms
    ],
)
def test_columns_are_found_under_the_names_of_other_tools(table, header, canonical, found):
    read = table(header + "\n" + ",".join("x" for _ in header.split(",")))
    assert find_column(read, canonical, path="t.csv") == found


def test_column_errors(table):
    read = table("Slide,SLIDE,b\nx,y,z\n")
    with pytest.raises(InvalidInput, match="'Slide', 'SLIDE' differ only in case"):
        find_column(read, "slide_id", path="t.csv")
    with pytest.raises(InvalidInput, match=r"no column 'mpp': found 'Slide', 'SLIDE', 'b'.*'spacing_at_level_0'"):
        require_column(read, "mpp", path="t.csv")


def test_synonyms_are_lower_case_and_no_one_elses_own_name():
    assert all(name == name.casefold() and name not in SYNONYMS for names in SYNONYMS.values() for name in names)


@given(st.text("abcdefgh.-", min_size=1).filter(lambda s: "." not in s[-6:]), st.sampled_from(sorted(EXTENSIONS)))
def test_bare_id_takes_off_one_known_extension_and_folders(stem, extension):
    assert bare_id(stem) == stem
    assert bare_id(f"{stem}.{extension.upper()}") == stem
    assert bare_id(f"a.b/c/{stem}.{extension}") == stem
    assert bare_id(f"C:\\x\\{stem}.{extension}") == stem


def test_bare_id_keeps_what_it_does_not_know():
    assert bare_id("TCGA-A1-A0SP-01Z-00-DX1.20D689C6-EFA5") == "TCGA-A1-A0SP-01Z-00-DX1.20D689C6-EFA5"
    assert bare_id(".svs") == ".svs"


def test_tcga_barcodes_name_a_patient_and_a_site():
    for name in ("TCGA-A1-A0SP-01Z-00-DX1.20D689C6-EFA5", "TCGA-A1-A0SP"):
        assert (tcga_patient(name), tcga_site(name)) == ("TCGA-A1-A0SP", "A1")
    for name in ("TCGA-A1-A0S", "CPTAC-TCGA-A1-A0SP", "TCGA_A1_A0SP", ""):
        assert (tcga_patient(name), tcga_site(name)) == ("", "")
