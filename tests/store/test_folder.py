"""Symbolic links in a store: read, named by validate, never written through."""

import shutil

import pytest

import gigacli as giga
import gigacli.cli.verbs
from gigacli.cli.command import run_command
from gigacli.errors import Mismatch
from gigacli.store.folder import links
from gigacli.store.store import Store

EMBED = {"views": 5}


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("link", ["embeddings/giga", "embeddings/giga/vectors", "embeddings"])
def test_another_store_is_not_written_through_a_link(link, store_at, capsys):
    mine, other = store_at("embed", "mine.zarr"), store_at("embed", "other.zarr")
    shutil.rmtree(mine / link)
    (mine / link).symlink_to(other / link)
    before = contents(other), contents(mine)
    assert run_command(["embed", str(mine), "--redo", "--views", "7"]) == 2
    assert f"{link} is a symbolic link" in "".join(capsys.readouterr().err.split("\n"))
    assert (contents(other), contents(mine)) == before
    assert [(p.rule, p.path) for p in giga.validate(mine).problems] == [("ROOT-5", link)]
    assert giga.open(mine).embedding("giga").read().shape[0] == 8


def test_a_linked_chunk_is_not_written(store_at):
    mine, other = store_at("embed", "mine.zarr"), store_at("embed", "other.zarr")
    chunk = "tiles/count/c/3"
    (mine / chunk).unlink()
    (mine / chunk).symlink_to(other / chunk)
    before = contents(other)
    store = Store.open(mine, write=True)
    with pytest.raises(Mismatch, match=f"{chunk} is a symbolic link"):
        store.tiles.take_back([3])
    assert contents(other) == before
    assert [p.path for p in giga.validate(mine).problems] == [chunk]


def test_slides_are_not_added_where_a_part_is_elsewhere(store_at):
    mine, other = store_at("bank", "mine.zarr"), store_at("bank", "other.zarr")
    shutil.rmtree(mine / "banks")
    (mine / "banks").symlink_to(other / "banks")
    before = contents(mine)
    with pytest.raises(Mismatch, match="banks is a symbolic link"):
        giga.tile(mine, redo=True)
    assert contents(mine) == before


def test_the_root_may_be_a_link(store_at, tmp_path):
    store = store_at("train", "real.zarr")
    (tmp_path / "link.zarr").symlink_to(store)
    assert giga.embed(tmp_path / "link.zarr", **EMBED).done == 8
    assert giga.validate(tmp_path / "link.zarr").problems == []
    assert (store / "embeddings" / "giga").is_dir()


def test_links_are_named_wherever_they_are(store_at, tmp_path):
    store = store_at("embed")
    for path in ("embeddings/c", "stray", "tiles/count/c/stray", "models/giga/history/loss/stray"):
        (store / path).symlink_to(tmp_path)
    root = Store.open(store).root
    assert sorted(links(root)) == ["embeddings/c", "models/giga/history/loss/stray", "stray"]
    assert "tiles/count/c/stray" in list(links(root, chunks=True))
    assert list(links(root, "embeddings/c")) == ["embeddings/c"]
    assert list(links(Store.create("memory://without-links.zarr").root)) == []
