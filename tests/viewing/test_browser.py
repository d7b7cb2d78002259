"""The page in a real browser: no complaint, the slide and what is on it drawn, the map and the list answer."""

import time

import pytest

import gigacli as giga

READY = (
    "return document.documentElement.dataset.ready === 'yes' && document.getElementById('legend').children.length > 0"
)
TITLE = "return document.querySelector('.pane b').textContent"
# Canvases are read from copies: reading one again and again makes the browser complain, of us.
PIXELS = """
const copy = document.createElement("canvas");
[copy.width, copy.height] = [canvas.width, canvas.height];
const pen = copy.getContext("2d", { willReadFrequently: true });
pen.drawImage(canvas, 0, 0);
const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
"""
INK = f"""
const canvas = document.querySelectorAll(arguments[0])[arguments[1] || 0];
{PIXELS}
let drawn = 0;
for (let i = 3; i < pixels.length; i += 4) drawn += pixels[i] > 0;
return drawn;
"""
OVER = "canvas.over"
BOX = "const b = document.querySelector('.slide').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
POINT = f"""
const canvas = document.getElementById("points");
canvas.scrollIntoView();
{PIXELS}
const box = canvas.getBoundingClientRect(), w = canvas.width, h = canvas.height;
const solid = (x, y) => pixels[4 * (y * w + x) + 3] > 200;
for (let y = h - 5; y > 4; y--)
  for (let x = 4; x < w - 4; x++)
    if (solid(x, y) && solid(x - 3, y) && solid(x + 3, y) && solid(x, y - 3) && solid(x, y + 3))
      return [box.left + x * box.width / w, box.top + y * box.height / h];
"""


def until(window, script, *arguments, seconds=30):
    """Wait until a script gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := window.run(script, *arguments)):
        assert time.monotonic() < deadline, (script, window.messages())
        time.sleep(0.05)
    return found


def click(window, selector, number=0):
    window.run("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, number)


@pytest.fixture
def shown(page, browser):
    def show(**options):
        window = browser(**options)
        window.open(page.view.url)
        until(window, READY)
        until(window, INK, ".openseadragon-canvas canvas")
        return window

    return show


def test_everything_answers(page, shown, chain):
    store = giga.open(chain("embed"))
    window = shown()
    assert window.run(TITLE) == store.slides.ids[0]
    bare = window.run(INK, OVER)  # the ruler alone
    drawn = {}
    for box in ("outline", "grid", "map"):
        click(window, f"#{box}")
        until(window, INK.replace("return drawn;", f"return drawn > {bare} + 200;"), OVER)
        drawn[box] = window.run(INK, OVER)
        click(window, f"#{box}")
        until(window, INK.replace("return drawn;", f"return drawn === {bare};"), OVER)
    assert len(set(drawn.values())) == 3
    click(window, "#map")
    assert "Pull towards glandular" in page_text(window, "#key")
    # sorted by what is similar, the first is the nearest slide, and it opens beside
    click(window, "#columns button", 2)
    assert window.run("return document.querySelector('th[aria-sort]').textContent") == "similar"
    near = page.json("slide/0/near.json?embedding=0")["rows"]
    assert page_text(window, "#slides td") == store.slides.ids[near[0]]
    click(window, "#near .name", 0)
    until(window, "return document.querySelectorAll('.pane').length === 2")
    assert window.run("return document.querySelectorAll('.pane b')[1].textContent") == store.slides.ids[near[0]]
    until(window, INK, OVER, 1)
    click(window, ".pane [aria-label='Close this slide']")
    assert window.run("return document.querySelectorAll('.pane').length") == 1
    # a tile that is clicked has others like it
    click(window, "#alike")
    window.run("document.querySelector('.slide .openseadragon-canvas').focus()")
    x, y, edge = tile_on_screen(window, page)
    window.move(x + edge / 2, y + edge / 2, click=True)
    until(window, "return document.querySelectorAll('#like li').length >= 8")
    assert page_text(window, "#like span") == "this"
    assert "cosine 1.00" in page_text(window, ".foot")
    # a point of the map opens its slide
    window.run("const s = document.getElementById('pick-kind'); s.value = 'tsne'; s.dispatchEvent(new Event('change'))")
    until(window, "return document.getElementById('map-note').textContent.startsWith('t-SNE of 8')")
    window.move(*window.run(POINT))
    named = page_text(window, "#tip b")
    window.move(*window.run(POINT), click=True)
    until(window, TITLE + f" === {named!r}")
    assert window.run("return document.querySelector('#slides tr[aria-current] button').textContent") == named
    assert window.run("return location.hash") == f"#{store.slides.index[named]}"
    assert window.messages() == []


def page_text(window, selector):
    return window.run("return document.querySelector(arguments[0]).textContent", selector)


def tile_on_screen(window, page):
    """Left, top and edge of the first tile of the slide that is open, in the window."""
    about = page.json("slide/0/about.json")
    box = window.run(BOX)
    scale = min(box[2] / about["width"], box[3] / about["height"])
    left, top = box[0] + (box[2] - scale * about["width"]) / 2, box[1] + (box[3] - scale * about["height"]) / 2
    x, y = memoryview(page.bytes("slide/0/grid.bin")).cast("i")[:2]
    return left + scale * x, top + scale * y, scale * about["edge"]


def test_it_has_the_reader_s_colours_and_a_switch(shown):
    window = shown(dark=True)
    colours = (
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map((c) => c.match(/\\d+/g))"
    )
    for dark in (True, False, True):
        ink, paper = window.run(colours)
        assert (sum(map(int, ink)) > sum(map(int, paper))) == dark
        click(window, "#theme")
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.messages() == []
