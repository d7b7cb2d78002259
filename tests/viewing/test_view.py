"""The page's server: who may ask, what it answers, and that it leaves no trace in a store."""

import io
import re
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.config.tools import TileMapConfig
from gigacli.errors import InvalidInput, NotFound
from gigacli.reporting.attribution import explain
from gigacli.reporting.tile_map import LIMITS
from gigacli.store.store import Store
from gigacli.viewing import open_slides
from gigacli.viewing.open_slides import OpenSlides
from gigacli.wsi.slide import Slide
from tests.helpers import warm_server

# ---------------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:{port}"],
        ["127.0.0.1"],
        ["127.0.0.1:1"],
        [],
        ["127.0.0.1:{port}", "evil.example"],
    ],
)
def test_another_host_is_refused(page, hosts):
    headers = [("Host", host.format(port=page.view.port)) for host in hosts]
    status, _, body = page.raw(page.home + "slides.json", headers=headers)
    assert status == 403
    assert b"ids" not in body


def test_this_host_has_two_names(page):
    for name in ("127.0.0.1", "localhost"):
        assert page.raw(page.home, headers=[("Host", f"{name}:{page.view.port}")])[0] == 200


NOWHERE = """
/ // /slides.json /x/slides.json /TOKEN /TOKENx/ /SHORT/ //TOKEN/TOKEN/ /TOKEN//slides.json /TOKEN/slides.json/
/TOKEN/../slides.json /TOKEN/%2e%2e/slides.json /TOKEN/view.html /TOKEN/static/view.html /TOKEN/../../../../etc/passwd
/TOKEN/slide/9/about.json /TOKEN/slide/-1/about.json /TOKEN/slide/lab1_patient01_a/about.json
/TOKEN/slide/0/../1/about.json /TOKEN/slide/%D9%A3/about.json /TOKEN/slide/0/about.json%0a
/TOKEN/slide/0/near.json /TOKEN/slide/0/near.json?embedding=9 /TOKEN/slide/0/near.json?embedding=x
/TOKEN/slide/0/map.json?embedding=0&class=7 /TOKEN/slide/0/alike.json?tile=99999&embedding=0
/TOKEN/slide/0/level/99/0_0.jpg /TOKEN/slide/0/level/9/99_0.jpg /TOKEN/slide/0/tile/99999.jpg
"""


@pytest.mark.parametrize("path", NOWHERE.split())
def test_what_is_not_there_is_not_found(page, path):
    token = page.home.strip("/")
    status, headers, body = page.raw(path.replace("TOKEN", token).replace("SHORT", token[:-1]))
    assert status == 404, body
    assert headers["Cache-Control"] == "no-store"
    assert b"root:" not in body


def test_it_is_no_proxy(page):
    headers = [("Host", f"127.0.0.1:{page.view.port}")]
    for place in (f"http://evil.example{page.home}slides.json", f"{page.home[1:]}slides.json", "*"):
        assert page.raw(place, headers=headers)[0] == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(page, method):
    status, headers, _ = page.raw(page.home + "slides.json", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(("said", "status"), [(b"BREW / HTTP/1.1", 501), (b"GET /" + b"x" * 70_000, 414)])
def test_what_is_no_question_is_refused_like_the_rest(page, said, status):
    with socket.create_connection(("127.0.0.1", page.view.port), timeout=20) as connection:
        connection.sendall(said + b"\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.splitlines()[0]
    assert b"Content-Security-Policy: default-src 'none'" in head
    assert b"<" not in body


def test_a_body_is_refused_and_nothing_in_it_is_a_second_question(page):
    second = f"GET {page.home}slides.json HTTP/1.1\r\nHost: 127.0.0.1:{page.view.port}\r\n\r\n".encode()
    headers = [("Host", f"127.0.0.1:{page.view.port}"), ("Content-Length", str(len(second)))]
    status, headers, body = page.raw(page.home, headers=headers, body=second)
    assert (status, headers["Connection"]) == (400, "close")
    assert b"ids" not in body


def test_every_answer_says_what_a_browser_may_do(page):
    for path, status in ((page.home, 200), (page.home + "slides.json", 200), ("/", 404), (page.home + "x", 404)):
        found, headers, body = page.raw(path)
        assert found == status
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert (headers["Cache-Control"], headers["Server"]) == ("no-store", "giga ")
        assert "Access-Control-Allow-Origin" not in headers
        head, headers, nothing = page.raw(path, method="HEAD")
        assert (head, nothing, headers["Content-Length"]) == (status, b"", str(len(body)))


def test_the_page_asks_for_nothing_from_elsewhere(page):
    text = page.bytes("").decode()
    asked = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(asked) == 5
    for place in asked:
        assert place == "data:," or page.bytes(place)
    assert "<script>" not in text
    assert "style=" not in text
    for script in ("pane.js", "map.js", "view.js"):  # names of slides come from files and tables, and are text alone
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", page.bytes(script).decode()
        )


def test_it_listens_on_loopback_alone_and_links_differ(page, chain):
    assert page.view._server.server_address[0] == "127.0.0.1"
    with giga.view(chain("embed")) as other:
        assert other.url.split("/")[3] != page.view.url.split("/")[3]
        assert len(other.url.split("/")[3]) == 32
        with pytest.raises(InvalidInput, match=f"port {other.port} cannot be used"):
            giga.view(chain("embed"), port=other.port)
    with pytest.raises(ConnectionRefusedError):
        type(page)(other).raw("/")


# ---------------------------------------------------------------------- what it answers


def test_slides(page, chain):
    store, found = giga.open(chain("embed")), page.json("slides.json")
    assert found["ids"] == store.slides.ids
    assert found["tiles"] == store.tiles.done().values.tolist()
    assert found["width"] == [row.size_px[0] for row in store.slides.rows]
    assert found["embeddings"][0] == "giga"
    assert found["classes"] == ["glandular", "solid"]
    label = next(one for one in found["groups"] if one["name"] == "label")
    assert label["paint"]
    assert sorted(set(label["codes"])) == [0, 1]
    assert found["failures"] == [""] * 8


def test_pixels_are_those_of_the_slide(page, chain):
    store = giga.open(chain("embed"))
    slide, about = store.slides[1], page.json("slide/1/about.json")
    assert (about["width"], about["height"], about["mpp"]) == (*slide.size_px, slide.mpp)
    assert not about["dark"]
    with Slide(slide.path, mpp=slide.mpp) as opened:
        expected = opened.read(256, 512, tile_px=256, mpp=slide.mpp).astype(int)
        x, y = store.tiles.coords(1)[3].tolist()
        tile = opened.read(x, y, tile_px=128, mpp=slide.mpp * about["edge"] / 128)
    data = page.bytes(f"slide/1/level/{about['last']}/1_2.jpg")
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))) - expected).mean() < 6  # a JPEG
    assert page.bytes(f"slide/1/level/{about['last']}/1_2.jpg") == data
    crop = np.asarray(Image.open(io.BytesIO(page.bytes("slide/1/tile/3.jpg"))).resize((128, 128), Image.Resampling.BOX))
    assert np.abs(crop.astype(int) - tile).mean() < 8
    assert max(Image.open(io.BytesIO(page.bytes("slide/1/overview.jpg"))).size) <= 400


def test_tiles_and_tissue(page, chain):
    store = giga.open(chain("embed"))
    grid = np.frombuffer(page.bytes("slide/2/grid.bin"), "<i4").reshape(-1, 2)
    np.testing.assert_array_equal(grid, store.tiles.coords(2))
    lines = page.json("slide/2/outline.json")
    assert lines
    points = np.concatenate([np.reshape(line, (-1, 2)) for line in lines])
    assert (points.min(axis=0) >= 0).all()
    assert (points.max(axis=0) <= np.add(store.slides[2].size_px, 64)).all()


def test_nearest_slides_are_those_of_giga_search(page, chain, cohort):
    store, found = giga.open(chain("embed")), page.json("slide/0/near.json?embedding=0")
    expected = giga.search(chain("embed"), store.slides.ids[0], cohort.labels_csv, embedding="giga", k=6).found
    assert [store.slides.ids[row] for row in found["rows"]] == [one.slide for one in expected]
    assert found["similar"] == [round(1000 * one.similarity) for one in expected]


def test_a_map_of_tiles_is_that_of_giga_tile_map(page, chain, cohort):
    store, found = giga.open(chain("embed")), page.json("slide/3/map.json?embedding=0&class=1")
    config = TileMapConfig(positive="solid", embedding="giga")
    expected = explain(store, store.slides.ids[3], cohort.labels_csv, config)
    assert (found["positive"], found["logit"]) == ("solid", expected.probe.logit)
    np.testing.assert_array_equal(found["sure"], expected.attribution.significant)
    pull = np.array(found["pull"]) * found["most"] / 1000
    np.testing.assert_allclose(pull, expected.attribution.value, atol=found["most"] / 1999)
    assert LIMITS in found["notes"]


def test_places_on_the_map(page, chain):
    found = page.json("vectors.json?embedding=0")
    assert found["rows"] == list(range(8))
    assert (len(found["pca"]), found["tsne"]) == (16, None)
    assert len(page.json("vectors.json?embedding=0&tsne=1")["tsne"]) == 16


def test_tiles_like_a_tile(page, chain):
    store = giga.open(chain("embed"))
    features = store.features("random-resnet18")
    own = features.read(0).astype(np.float64)
    mean, deviation = own.mean(0), own.std(0)

    def units(tiles):
        z = (tiles.astype(np.float64) - mean) / np.where(deviation > 0, deviation, 1)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    found = page.json("slide/0/alike.json?tile=5&embedding=0")
    np.testing.assert_allclose(found["similar"], 1000 * units(own) @ units(own)[5], atol=6)
    assert found["similar"][5] == 1000
    assert (found["features"], found["note"]) == ("random-resnet18", "")
    near = page.json("slide/0/near.json?embedding=0")["rows"]
    best = {}
    for row in near:
        best[row] = max(units(features.read(row)) @ units(own)[5])
    first = found["others"][0]
    assert first[0] == max(best, key=best.get)
    assert abs(first[2] - 1000 * best[first[0]]) < 6
    assert [one[2] for one in found["others"]] == sorted((one[2] for one in found["others"]), reverse=True)


def test_without_labels_or_vectors_there_is_less(ask, chain):
    with giga.view(chain("tile")) as view:
        page = ask(view)
        found = page.json("slides.json")
        assert (found["classes"], found["embeddings"]) == ([], [])
        assert page.json("slide/0/about.json")["edge"] == 64 / giga.open(chain("tile")).slides[0].mpp
        for place in ("vectors.json?embedding=0", "slide/0/near.json?embedding=0"):
            status, said = page.error(place)
            assert status == 404
            assert "giga embed" in said
        status, said = page.error("slide/0/alike.json?tile=0&embedding=0")
        assert status == 404
        assert "giga bank" in said


def test_a_slide_to_begin_with(chain, cohort, tmp_path):
    with giga.view(chain("embed"), "lab1_patient01_b") as view:
        assert view.url.endswith("/#1")
        assert view.url in view._repr_html_()
    with pytest.raises(NotFound, match="no slide 'nobody'"):
        giga.view(chain("embed"), "nobody")
    with pytest.raises(NotFound, match="no 'nothing' in embeddings"):
        giga.view(chain("embed"), embedding="nothing")
    with pytest.raises(NotFound):
        giga.view(chain("embed"), None, tmp_path / "lost.csv")
    with pytest.raises(InvalidInput, match="holds no slides yet"):
        giga.view(Store.create(tmp_path / "empty.zarr"))


def test_a_slide_that_is_gone_says_so_and_comes_back(ask, store_at, cohort, tmp_path):
    folder = tmp_path / "slides"
    shutil.copytree(cohort.slides, folder)
    store = tmp_path / "moved.zarr"
    giga.tile(store, [folder], mpp=1.0, tile_px=64)
    row, path = 0, Path(giga.open(store).slides[0].path)
    with giga.view(store) as view:
        page = ask(view)
        path.rename(f"{path}-")
        assert "is not there" in page.json(f"slide/{row}/about.json")["problem"]
        assert page.error(f"slide/{row}/level/8/0_0.jpg")[0] == 422
        Path(f"{path}-").rename(path)
        assert page.json(f"slide/{row}/about.json")["width"] > 0
        assert page.bytes(f"slide/{row}/level/8/0_0.jpg")
        with path.open("r+b") as file:
            file.truncate(1000)
        assert "has changed since it was registered" in page.json(f"slide/{row}/about.json")["problem"]


# ---------------------------------------------------------------------- a store is left as it is


def test_a_store_is_left_as_it_is_and_verbs_go_on(ask, store_at, cohort):
    path = store_at("train")

    def state():
        return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in path.parent.rglob("*")}

    before = state()
    with giga.view(path, None, cohort.labels_csv) as view:
        page = ask(view)
        page.json("slides.json")
        page.json("slide/0/about.json")
        page.json("slide/0/outline.json")
        page.json("slide/0/alike.json?tile=0&embedding=0")
        assert state() == before
        kept = view._server.answers._alike._kept
        page.json("slides.json")
        assert len(kept) == 1
        giga.embed(path, views=5, precision="fp32")  # another command writes meanwhile
        assert "giga" in page.json("slides.json")["embeddings"]  # and the page shows it, loaded anew
        assert len(kept) == 0
        assert page.json("slide/0/near.json?embedding=0")["rows"]
        assert giga.pack(path).groups


def test_few_slides_are_open_at_a_time_and_threads_share_them(chain, monkeypatch):
    monkeypatch.setattr(open_slides, "MOST_OPEN", 2)
    monkeypatch.setattr(open_slides, "ENCODED_BYTES", 40_000)
    rows, closed, slides = giga.open(chain("tile")).slides.rows, [], OpenSlides()
    monkeypatch.setattr(Slide, "close", lambda self: closed.append(self.path))
    work = [(row, column) for _ in range(2) for row in range(8) for column in range(3)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: slides.tile(one[0], rows[one[0]], 11, one[1], 1), work))
    assert len(slides._open) == 2
    assert slides._bytes == sum(map(len, slides._encoded.values())) <= 40_000
    by_place = dict(zip(work, found, strict=True))
    assert [by_place[one] for one in work] == found
    assert len(set(by_place.values())) == len(by_place)
    slides.close()
    assert len(closed) >= 8


def test_a_slide_is_not_closed_while_it_is_read(chain, monkeypatch):
    monkeypatch.setattr(open_slides, "MOST_OPEN", 1)
    rows, closed, slides = giga.open(chain("tile")).slides.rows, [], OpenSlides()
    monkeypatch.setattr(Slide, "close", lambda self: closed.append(self.path))
    with slides.zoom(0, rows[0]), slides.zoom(1, rows[1]):
        assert closed == []
    assert [str(path) for path in closed] == [rows[0].path]
    slides.close()
    assert len(closed) == 2


# ---------------------------------------------------------------------- the command


def test_the_command_serves_until_it_is_told_to_stop(ask, chain, interruptible):
    command = [warm_server() / "giga", "view", str(chain("embed")), "lab1_patient01_b"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/#1", url)
        page = ask(type("", (), {"url": url, "port": int(url.split(":")[2].split("/")[0])}))
        assert len(page.json("slides.json")["ids"]) == 8
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    assert (process.returncode, "Traceback" in said) == (0, False)
    assert "Ctrl-C" in said
    assert page.home.strip("/") not in said
