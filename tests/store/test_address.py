"""Addresses of stores: what is remote, what is a secret, what is empty."""

import pytest
import zarr
from zarr.storage import FsspecStore

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.address import address_of, create_root, is_empty, is_remote, open_root
from gigacli.store.store import Store


@pytest.mark.parametrize("url", ["s3://bucket/c.zarr", "gs://b/c", "memory://c.zarr", "S3://bucket/c.zarr"])
def test_urls_are_remote(url):
    assert is_remote(url)
    assert address_of(url) == url


@pytest.mark.parametrize("path", ["c.zarr", "/data/c.zarr", "C:/data/c.zarr", "a:b.zarr", "folder/with://in.zarr"])
def test_paths_are_not(path):
    assert not is_remote(path)
    assert address_of(path) == path


def test_a_file_url_is_a_path(tmp_path):
    url = f"file://{tmp_path}/c.zarr"
    assert Store.create(url).url == f"{tmp_path}/c.zarr"
    assert Store.open(url).registered == 0


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKID:pass-word@bucket/c.zarr",
        "s3://AKID:pass-word/with/slashes@bucket/c.zarr",
        "https://host/c.zarr?X-Amz-Signature=pass-word",
        "az://container/c.zarr?sig=pass-word",
    ],
)
def test_a_secret_is_refused_and_not_repeated(url):
    for opening in (Store.open, Store.create, Store.exists):
        with pytest.raises(InvalidInput, match=r"no secret and no query; found \w+://") as caught:
            opening(url)
        assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("url", ["sftp://user@host/c.zarr", "http://host:8080/a@b.zarr", "s3://bucket/a@b.zarr"])
def test_what_looks_like_a_secret_and_is_none(url):
    assert address_of(url) == url


def test_what_is_empty(tmp_path):
    assert is_empty(str(tmp_path / "none.zarr"))
    (tmp_path / "zarr.01.partial").write_text("left by a killed writer")
    assert is_empty(str(tmp_path))
    (tmp_path / "notes.txt").write_text("")
    assert not is_empty(str(tmp_path))
    assert not is_empty(str(tmp_path / "notes.txt"))
    assert is_empty("memory://nothing-here.zarr")
    zarr.open_group("memory://a-group.zarr", mode="w")
    assert not is_empty("memory://a-group.zarr")


def test_a_package_that_is_missing_is_named(monkeypatch):
    def no_such_package(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(zarr, "open_group", no_such_package)
    with pytest.raises(Mismatch, match="Install s3fs") as caught:
        open_root("s3://bucket/c.zarr", write=False)
    assert caught.value.hint == "run, in the clone of giga: pip install '.[s3]'"


def test_what_cannot_be_reached_says_so_only_where_something_is_to_be_reached(monkeypatch, tmp_path):
    class NoConnection(Exception):
        pass

    def broken(*_, **__):
        raise NoConnection("no route to host")

    monkeypatch.setattr(zarr, "open_group", broken)
    with pytest.raises(Mismatch, match="cannot be reached: NoConnection: no route to host"):
        open_root("s3://bucket/c.zarr", write=False)
    with pytest.raises(NoConnection):
        open_root(str(tmp_path), write=False)


def test_looking_whether_there_is_anything_can_fail_as_opening_can(monkeypatch):
    def no_such_package(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(FsspecStore, "from_url", no_such_package)
    with pytest.raises(Mismatch, match="Install s3fs"):
        Store.exists("s3://bucket/c.zarr")
    with pytest.raises(Mismatch, match="cannot be opened"):
        Store.create("gibberish://bucket/c.zarr")


def test_no_bucket_to_make_a_store_in(monkeypatch):
    def no_bucket(*_, **__):
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(zarr, "open_group", no_bucket)
    with pytest.raises(NotFound, match="cannot be made: The specified bucket"):
        create_root("s3://nowhere/c.zarr", {})
