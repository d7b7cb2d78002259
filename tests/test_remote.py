"""Stores on S3 (a server of moto's on the loopback) and in memory: the verbs write the same bytes as on a disk."""

import json
import logging
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest

import gigacli as giga
import gigacli.cli.verbs
from gigacli.cli.command import run_command
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.groups import Model
from gigacli.store.info import info
from gigacli.store.store import Store
from gigacli.store.validate import validate
from tests.conftest import EMBED, TRAIN
from tests.helpers import run_giga

GIGA = Path(sys.executable).with_name("giga")
GOLDEN = Path(__file__).parents[1] / "spec/golden/0.2"
TILE = {"mpp": 1.0, "tile_px": 64}
BANK = {"encoder": "random-resnet18", "augmentations": 3, "draws": 8, "precision": "fp32"}
TIMINGS = tuple(f"models/giga/{name}/" for name in ("history/per_second", "history/waiting", "checkpoint"))
"""What holds times, and so is never the same twice."""

SECRET = "w7Jx-a-secret-nobody-may-read"


def forget_clients():
    """What is opened next looks for credentials and server anew; connections are closed where they were opened."""
    import s3fs
    from zarr.core.sync import sync

    for filesystem in s3fs.S3FileSystem._cache.values():
        if filesystem._s3 is not None:
            sync(filesystem._s3.close())
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def bucket():
    """``s3://...`` of an empty bucket, with credentials where libraries look for them; its client beside it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_PROFILE", raising=False)
        forget_clients()
        client = boto3.client("s3")
        client.create_bucket(Bucket="cohorts")
        yield client
    forget_clients()
    client.close()
    server.stop()


def keys(client, prefix):
    """Keys below a prefix, without it."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="cohorts", Prefix=f"{prefix}/")
    return [item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", [])]


def objects(client, prefix):
    """{key below the prefix: bytes} of everything in the bucket."""
    return {
        key: client.get_object(Bucket="cohorts", Key=f"{prefix}/{key}")["Body"].read() for key in keys(client, prefix)
    }


def written(found, *groups):
    """The chunks of some groups."""
    return {key: data for key, data in found.items() if key.split("/")[0] in groups and not key.endswith("zarr.json")}


@pytest.fixture(scope="module")
def made(bucket, chain):
    """A store on S3 with the files that the verbs make on a disk, which are those that they make there."""
    store = chain("embed")
    for file in store.rglob("*"):
        if file.is_file():
            bucket.upload_file(str(file), "cohorts", f"studies/made.zarr/{file.relative_to(store)}")
    return "s3://cohorts/studies/made.zarr"


def test_the_verbs_write_the_same_bytes_as_on_a_disk(bucket, cohort, chain, chunks, tmp_path_factory):
    url, cache = "s3://cohorts/studies/verbs.zarr", tmp_path_factory.mktemp("cache")
    giga.tile(url, csv=cohort.cohort_csv, **TILE)
    giga.pretrain_tiles(url, epochs=1, batch_size=8, queue=16, max_tiles=16, max_slides=2, workers=1)
    giga.bank(url, **BANK)
    giga.train(url, **TRAIN, cache=cache)
    giga.embed(url, **EMBED)
    assert list(cache.iterdir()) == []
    here, there = chunks(chain("embed")), objects(bucket, "studies/verbs.zarr")
    groups = ("slides", "tiles", "encoders", "features", "banks", "models", "embeddings")
    assert not [key for key, data in there.items() if SECRET.encode() in data or b"AKIDEXAMPLE" in data]
    there = {key: data for key, data in there.items() if not key.startswith("encoders/moco/")}
    assert written(there, *groups).keys() == written(here, *groups).keys()
    differing = [key for key, data in written(here, *groups).items() if there[key] != data]
    assert [key for key in differing if not key.startswith(TIMINGS)] == []


def test_what_is_done_is_skipped(made, cohort):
    assert giga.train(made, **TRAIN).skipped == 1
    with pytest.raises(Mismatch, match="tile_px: 64 here, 128 asked for"):
        giga.tile(made, csv=cohort.cohort_csv, tile_px=128)


def test_reading(made, cohort):
    result = giga.probe(made, cohort.labels_csv)
    names = {row.embedding for row in result.scores}
    assert names == {"giga", "mean-random-resnet18", "whitened-mean-random-resnet18"}
    found = info(made)
    assert {g.path: (g.done, g.total) for g in found.groups}["embeddings/giga"] == (8, 8)
    assert found.next == f"giga probe {made} --labels labels.csv"
    assert repr(giga.open(made)).startswith(f"<giga store {made}: 8 slides, tiles: 8 done")
    report = validate(made)
    assert (report.problems, report.checked[-1]) == ([], "values of 8 slides")


def test_damage_is_found(made, bucket):
    key = "studies/made.zarr/banks/random-resnet18/vectors/c/3/0/0/0"
    whole = bucket.get_object(Bucket="cohorts", Key=key)["Body"].read()
    try:
        bucket.put_object(Bucket="cohorts", Key=key, Body=whole[:-2])
        with pytest.raises(Mismatch, match=r"c/3/0/0/0 has \d+ bytes, expected"):
            giga.train(made, name="other", epochs=1, batch_size=4)
        bucket.delete_object(Bucket="cohorts", Key=key)
        with pytest.raises(Mismatch, match="c/3/0/0/0 is missing"):
            giga.train(made, name="other", epochs=1, batch_size=4)
        assert Store.open(made).names(Model) == ["giga"]
    finally:
        bucket.put_object(Bucket="cohorts", Key=key, Body=whole)


def run(*arguments, **environment):
    return run_giga(*arguments, env={"AWS_MAX_ATTEMPTS": "1", **environment})


def test_killed_and_run_again(bucket, cohort, chain, chunks):
    url, prefix = "s3://cohorts/killed.zarr", "killed.zarr"
    process = subprocess.Popen(
        [str(GIGA), "tile", url, "--csv", str(cohort.cohort_csv), "--tile-px", "64", "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not any("tiles/count/c/" in key for key in keys(bucket, prefix)) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert validate(url).problems == []
    again = run("tile", url, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["done"] + summary["skipped"] == 8
    assert written(objects(bucket, prefix), "slides", "tiles") == written(chunks(chain("tile")), "slides", "tiles")


def test_what_other_processes_write_is_seen(made, bucket):
    mine = Store.open(made)
    assert mine.names(Model) == ["giga"]
    twins = [f"studies/made.zarr/models/{name}/zarr.json" for name in ("giga", "twin")]
    bucket.copy_object(Bucket="cohorts", CopySource={"Bucket": "cohorts", "Key": twins[0]}, Key=twins[1])
    assert mine.names(Model) == ["giga", "twin"]
    bucket.delete_object(Bucket="cohorts", Key=twins[1])
    assert mine.names(Model) == ["giga"]


# ---------------------------------------------------------------------- what is not there, and secrets

COMMANDS = ["tile", "pretrain-tiles", "bank", "train", "embed", "probe", "info", "validate"]


def in_process(command, url, cohort, capsys):
    """Exit code and standard error of a command line, and that nothing went to standard output."""
    code = run_command([command, url, *(("--labels", str(cohort.labels_csv)) if command == "probe" else ())])
    output = capsys.readouterr()
    assert output.out == ""
    return code, output.err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_store_there(bucket, cohort, command, capsys):
    code, said = in_process(command, "s3://cohorts/none.zarr", cohort, capsys)
    assert (code, "no store at s3://cohorts/none.zarr" in said) == (2, True), said


@pytest.mark.parametrize("command", COMMANDS)
def test_secrets_in_an_url_are_refused_and_not_repeated(cohort, command, capsys):
    code, said = in_process(command, f"s3://AKIDEXAMPLE:{SECRET}/with+slash@cohorts/c.zarr", cohort, capsys)
    assert (code, "holds no secret" in said, "AWS_PROFILE" in said) == (2, True, True), said
    assert SECRET not in said
    assert "with+slash" not in said


def test_no_bucket_and_no_store(bucket):
    with pytest.raises(NotFound, match="cannot be made: The specified bucket does not exist"):
        Store.create("s3://no-such-bucket/c.zarr")
    bucket.put_object(Bucket="cohorts", Key="foreign/notes.txt", Body=b"")
    for opening in (Store.open, Store.create):
        with pytest.raises(Mismatch, match="holds no zarr group"):
            opening("s3://cohorts/foreign")
    assert objects(bucket, "foreign").keys() == {"notes.txt"}


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_nothing_answers(bucket, debug):
    result = run("info", "s3://cohorts/c.zarr", *debug, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert result.returncode in (1, 2)
    assert "cannot be reached" in result.stderr
    assert SECRET not in result.stderr
    assert ("Traceback" in result.stderr) == bool(debug)


def test_no_credentials(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    with pytest.raises(Mismatch, match="Unable to locate credentials") as caught:
        Store.open("s3://cohorts/c.zarr")
    assert "AWS_PROFILE" in caught.value.hint
    forget_clients()


# ---------------------------------------------------------------------- memory


def test_the_verbs_in_memory(cohort, tmp_path, monkeypatch):
    url = f"memory://{uuid.uuid4()}/cohort.zarr"
    giga.tile(url, sorted(cohort.slides.iterdir())[:4], **TILE)
    giga.bank(url, **BANK)
    monkeypatch.setenv("GIGA_CACHE", str(tmp_path))
    giga.train(url, epochs=1, batch_size=4)
    giga.embed(url, views=2)
    assert giga.probe(url, cohort.labels_csv, folds=2, group="none").scores
    assert validate(url).problems == []
    assert info(url).next == f"giga probe {url} --labels labels.csv"
    assert giga.tile(url).skipped == 4
    assert np.isfinite(giga.open(url).root["embeddings/giga/vectors"][:]).all()
    assert list(tmp_path.iterdir()) == []
    giga.embed(url, views=3, redo=True)
    assert validate(url).problems == []


def test_slides_without_resolution_are_listed_in_the_current_folder(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"memory://{uuid.uuid4()}/cohort.zarr"
    giga.tile(url, shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs", mpp=1.0, plan=True)
    assert (tmp_path / "cohort.missing-mpp.csv").read_text().splitlines()[0] == "path,slide_id,mpp"


def test_a_cluster_does_not_see_this_memory(cohort):
    url = f"memory://{uuid.uuid4()}.zarr"
    giga.tile(url, sorted(cohort.slides.iterdir())[:1], **TILE)
    with pytest.raises(InvalidInput, match="where no worker sees it"):
        giga.tile(url, dask="tcp://127.0.0.1:9")


def test_a_packed_store_is_read_by_ranges(bucket, tmp_path, monkeypatch):
    with zipfile.ZipFile(GOLDEN / "packed.zarr.zip") as archive:
        archive.extractall(tmp_path / "packed.zarr")
    for file in (path for path in (tmp_path / "packed.zarr").rglob("*") if path.is_file()):
        key = f"packed.zarr/{file.relative_to(tmp_path / 'packed.zarr').as_posix()}"
        bucket.put_object(Bucket="cohorts", Key=key, Body=file.read_bytes())
    there, here = Store.open("s3://cohorts/packed.zarr"), Store.open(tmp_path / "packed.zarr")
    asked, fetch = [], there.root.store.fs._cat_file
    monkeypatch.setattr(there.root.store.fs, "_cat_file", lambda path, **r: asked.append((path, r)) or fetch(path, **r))
    assert there.progress() == here.progress()
    for row in range(2):  # of which the second lies beside the shards
        np.testing.assert_array_equal(there.features("moco").read(row), here.features("moco").read(row))
        np.testing.assert_array_equal(there.tiles.coords(row), here.tiles.coords(row))
    shards = [ranges for path, ranges in asked if path.endswith("features/moco/vectors/c.0.0.0")]
    assert shards
    assert all(ranges.get("start") is not None for ranges in shards)
    mapped = there.bank("moco").mapped()
    mapped.load(cache=tmp_path)
    np.testing.assert_array_equal(mapped.vectors, here.bank("moco").mapped().vectors[:])
    assert validate("s3://cohorts/packed.zarr").problems == []
    with pytest.raises(InvalidInput, match="is not a folder: whether somebody writes to it cannot be known"):
        giga.pack("s3://cohorts/packed.zarr")
