import pytest

from gigacli.cohort import discovery as discover
from gigacli.cohort.discovery import EXTENSIONS, find_slides, slide_id_of
from gigacli.errors import NotFound


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder, found):
    return [str(path.relative_to(folder)) for path in found]


def test_folders_are_searched_and_sorted(tmp_path):
    touch(tmp_path, "b.svs", "a/z.NDPI", "a/m.tiff", "c/d/e.mrxs", "c/d/e/Slidedat.ini", "c/d/e/Data0000.dat")
    touch(tmp_path, "notes.txt", "labels.csv", "picture.png", "svs")
    assert names(tmp_path, find_slides([tmp_path])) == ["a/m.tiff", "a/z.NDPI", "b.svs", "c/d/e.mrxs"]


def test_hidden_files_and_stores_are_passed_over(tmp_path):
    touch(tmp_path, "a.svs", "._a.svs", ".trash/b.svs", "cohort.zarr/c.tif")
    assert names(tmp_path, find_slides([tmp_path])) == ["a.svs"]


def test_files_are_taken_as_given_in_order_and_once(tmp_path):
    touch(tmp_path, "b.svs", "a.svs", "odd.qptiff", "folder/c.svs")
    found = find_slides(
        [tmp_path / "odd.qptiff", tmp_path / "b.svs", tmp_path, tmp_path / "b.svs", tmp_path / "folder"]
    )
    assert names(tmp_path, found) == ["odd.qptiff", "b.svs", "a.svs", "folder/c.svs"]


def test_relative_and_absolute_paths_are_one_slide(tmp_path, monkeypatch):
    touch(tmp_path, "a.svs")
    monkeypatch.chdir(tmp_path)
    given = type(tmp_path)("a.svs")
    assert find_slides([given, tmp_path]) == [given]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "here/a.svs", "elsewhere/b.svs")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "here")
    assert names(tmp_path, find_slides([tmp_path / "here"])) == ["here/a.svs", "here/linked/b.svs"]


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound, match=r"nowhere does not exist.*\.svs"):
        find_slides([tmp_path / "nowhere"])
    touch(tmp_path, "notes.txt")
    with pytest.raises(NotFound) as caught:
        find_slides([tmp_path])
    assert str(tmp_path) in caught.value.message
    assert all(extension in caught.value.message for extension in EXTENSIONS)
    with pytest.raises(NotFound, match="empty list"):
        find_slides([])


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("007.svs", "007"),
        ("TCGA-AA-0001-01Z-00-DX1.8A2B.svs", "TCGA-AA-0001-01Z-00-DX1.8A2B"),
        ("slide.ome.tiff", "slide.ome"),
        ("no extension", "no extension"),
        ("not there.dcm", "not there"),
    ],
)
def test_ids_are_stems(tmp_path, name, slide_id):
    assert slide_id_of(tmp_path / name) == slide_id


@pytest.fixture
def series(monkeypatch):
    """The series of .dcm files by name; everything else cannot be opened."""
    known = {}
    monkeypatch.setattr(discover, "series_of", lambda path: known.get(path.name))
    return known


def test_a_series_is_one_slide(tmp_path, series):
    touch(tmp_path, "one/a.dcm", "one/b.dcm", "two/a2.dcm", "two/c.dcm", "two/d.dcm", "two/report.dcm", "x.svs")
    series.update({"a.dcm": "1.1", "b.dcm": "1.1", "a2.dcm": "1.1", "c.dcm": "1.2", "d.dcm": "1.2"})
    found = find_slides([tmp_path])
    assert names(tmp_path, found) == ["one/a.dcm", "two/a2.dcm", "two/c.dcm", "x.svs"]
    assert [slide_id_of(path) for path in found] == ["one", "1.1", "1.2", "x"]
    listed = find_slides(sorted((tmp_path / "two").iterdir()))
    assert names(tmp_path, listed) == ["two/a2.dcm", "two/c.dcm"]


def test_a_folder_whose_dicom_cannot_be_opened_is_kept_to_fail_later(tmp_path):
    touch(tmp_path, "broken/a.dcm", "broken/b.dcm")
    found = find_slides([tmp_path])
    assert names(tmp_path, found) == ["broken/a.dcm"]
    assert slide_id_of(found[0]) == "a"


def test_real_slides(slides, monkeypatch):
    found = find_slides([slides])
    assert [slide_id_of(path) for path in found] == [
        "CMU-1-Small-Region.pyramid",
        "CMU-1-Small-Region",
        "CMU-1-Small-Region.wrong-mpp",
        "TCGA-CR-7395-01A-01-TS1",
        "dicom",
        "hamamatsu_test3-DAPI-2-387",
    ]
    monkeypatch.chdir(slides / "dicom")
    here = type(slides)(".")
    assert [slide_id_of(path) for path in find_slides([here])] == ["dicom"]
    assert len(find_slides(sorted(here.iterdir()))) == 1


def test_two_real_series_in_one_folder_go_by_their_uid(slides, tmp_path):
    (first, *_) = sorted((slides / "dicom").iterdir())
    uid = discover.series_of(first)
    other = uid[:-1] + ("1" if uid[-1] != "1" else "2")
    for path in (slides / "dicom").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content)
        (tmp_path / f"other{path.name}").write_bytes(content.replace(uid.encode(), other.encode()))
    assert sorted(slide_id_of(path) for path in find_slides([tmp_path])) == sorted([uid, other])
