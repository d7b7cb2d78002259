"""The page in a real browser: no complaint, everything drawn, the map answers, names do nothing."""

import pytest

import gigacli as giga

# The map is read from a copy: reading a canvas again and again makes the browser complain, of us.
COPY = """
const map = document.getElementById("map"), copy = document.createElement("canvas");
[copy.width, copy.height] = [map.width, map.height];
const pen = copy.getContext("2d", { willReadFrequently: true });
pen.drawImage(map, 0, 0);
const pixels = pen.getImageData(0, 0, copy.width, copy.height).data, w = copy.width;
const inside = (x, y) => pixels[4 * (y * w + x) + 3] > 0;
"""
DRAWN = (
    COPY
    + """
let drawn = 0;
for (let i = 3; i < pixels.length; i += 4) drawn += pixels[i] > 0;
return drawn;
"""
)
POINT = (
    COPY
    + """
// the middle of a dot: an opaque pixel whose neighbours are opaque, too
const box = map.getBoundingClientRect();
for (let y = 3; y < copy.height - 3; y++)
  for (let x = 3; x < w - 3; x++)
    if (inside(x, y) && inside(x + 3, y) && inside(x - 3, y) && inside(x, y + 3) && inside(x, y - 3))
      return [box.left + x * box.width / w, box.top + y * box.height / copy.height];
"""
)


def show_map(window):
    window.run("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")


def test_everything_is_drawn_and_the_map_answers(page, browser):
    window = browser()
    window.open(page)
    assert window.messages() == []
    pictures = window.run("return [...document.images].map((image) => image.naturalWidth)")
    assert len(pictures) == 8
    assert min(pictures) > 100
    figures = "return [...document.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect().height)"
    assert min(window.run(figures)) > 100
    assert window.run(DRAWN) > 8 * 50
    show_map(window)
    x, y = window.run(POINT)
    window.move(x, y)
    assert window.run("return document.getElementById('tip').hidden") is False
    assert window.run("return document.querySelector('#tip img').naturalWidth") > 100
    slide = window.run("return document.querySelector('#tip b').textContent")
    window.move(x, y, click=True)
    assert window.run("return document.querySelector('#chosen b').textContent") == slide
    near = window.run("return [...document.querySelectorAll('#chosen li b')].map((b) => b.textContent)")
    assert len(near) == len(set(near)) == 6
    assert slide not in near
    select = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.onchange();"
    for name, value in (("pick-map", "1"), ("pick-kind", "tsne"), ("pick-colour", "3"), ("pick-colour", "1")):
        window.run(select, name, value)
        assert window.run(DRAWN) > 8 * 50
    assert "lab1 (4)" in window.run("return document.getElementById('legend').textContent")
    drawn = window.run(DRAWN)
    window.run("document.querySelector('#legend button').click()")  # one group alone: the others fade
    assert window.run("return document.querySelectorAll('#legend [aria-pressed=true]').length") == 1
    assert window.run("return document.querySelectorAll('#legend [aria-pressed=false]').length") == 1
    assert 0 < window.run(DRAWN) <= drawn
    window.run("document.querySelector('#legend button').click()")
    window.run("const f = document.getElementById('find'); f.value = arguments[0]; f.oninput();", near[0])
    assert window.run("return document.querySelector('#chosen b').textContent") == near[0]
    assert window.messages() == []


@pytest.mark.parametrize(("size", "dark"), [((390, 844), True), ((1600, 1000), False)])
def test_it_fits_the_window_and_follows_the_reader_s_colours(page, browser, size, dark):
    window = browser(size=size, dark=dark)
    window.open(page)
    width, content = window.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert (width, content) == (size[0], size[0])
    colours = (
        "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor].map((c) => c.match(/\\d+/g))"
    )
    ink, paper = window.run(colours.replace("arguments[0]", "document.body"))
    assert (sum(map(int, ink)) > sum(map(int, paper))) == dark
    lines = window.run("return [...document.querySelectorAll('svg text')].map((t) => getComputedStyle(t).fill)")
    assert len(set(lines)) == 2
    assert all((sum(map(int, line.strip("rgb()").split(", "))) > 380) == dark for line in set(lines))
    assert window.messages() == []


def test_a_slide_s_name_does_nothing_but_stand_there(vectors_only, tmp_path, browser, evil):
    ids = [f"{evil[i % 3]} {i}" for i in range(24)]
    store, labels = vectors_only(ids, labels=(evil[0], evil[1]))
    giga.report(store, labels, out=tmp_path / "evil.html", fraction=(1.0,))
    window = browser()
    window.open(tmp_path / "evil.html")
    show_map(window)
    window.move(*window.run(POINT), click=True)
    assert window.run("return document.querySelector('#chosen b').textContent") in ids
    assert evil[0] in window.run("return document.getElementById('legend').textContent")
    assert window.run("return typeof window.hacked") == "undefined"
    assert window.run("return document.images.length") == 0
    assert window.messages() == []


def test_the_policy_of_the_page_stops_what_escaping_might_miss(page, tmp_path, browser):
    text = page.read_text(encoding="utf-8")
    planted = '<img src="x" onerror="window.hacked=1"><script>window.hacked=2</script></main>'
    (tmp_path / "planted.html").write_text(text.replace("</main>", planted), encoding="utf-8")
    window = browser()
    window.open(tmp_path / "planted.html")
    assert window.run("return typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in message for message in window.messages())
