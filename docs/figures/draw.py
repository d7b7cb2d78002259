"""Draws the figures of the concepts as SVG. Text and lines have the colour of the text around them (site.css).

python docs/figures/draw.py
"""

from __future__ import annotations

import math
import random
from pathlib import Path

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, PURPLE = "#4f7cd8", "#e0823d", "#3f9e76", "#a066c4"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
FAINT = "#8a8f98"
RED = "#d64545"

SCORES: dict[str, tuple[float, float, list[float]]] = {
    "giga": (0.692, 1.0, [1.0, 1.0, 0.917, 0.875, 0.417, 1.0, 0.875, 1.0, 1.0, 0.75]),
    "whitened mean": (0.493, 1.0, [1.0, 0.958, 0.833, 0.875, 0.0, 1.0, 0.75, 0.875, 0.833, 0.833]),
    "difference": (-0.056, 0.231, []),
}
"""Ends of the 95 % interval, and ten splits: giga probe demo/cohort.zarr --labels demo/labels.csv -C auto --seed 0
--fraction 0.25, of the cohort of ``giga demo`` (29 November 2026)."""


def page(width: int, height: int, *parts: str) -> str:
    """An SVG of that size; alone it is black, on dark pages white."""
    style = ".giga-figure{color:#1f2328}@media (prefers-color-scheme:dark){.giga-figure{color:#e6e6e6}}"
    head = f'<svg class="giga-figure" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    text = 'font-family="system-ui, sans-serif" font-size="14" fill="currentColor"'
    return "\n".join([f"{head} {text}>", f"<style>{style}</style>", *parts, "</svg>"]) + "\n"


def n(value: float) -> str:
    """A number of an attribute."""
    return f"{value:.1f}".removesuffix(".0")


def label(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 14, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{n(x)}" y="{n(y)}" text-anchor="{anchor}" font-size="{size}"{bold}>{text}</text>'


def box(
    x: float, y: float, width: float, height: float, *, fill: str = "none", line: str = FAINT, more: str = ""
) -> str:
    place = f'x="{n(x)}" y="{n(y)}" width="{n(width)}" height="{n(height)}"'
    return f'<rect {place} fill="{fill}" stroke="{line}" {more}/>'


def dot(x: float, y: float, radius: float, colour: str, more: str = "") -> str:
    return f'<circle cx="{n(x)}" cy="{n(y)}" r="{n(radius)}" fill="{colour}" {more}/>'


def line(
    x: float, y: float, to_x: float, to_y: float, *, colour: str = "currentColor", width: float = 1.5, more: str = ""
) -> str:
    ends = f'x1="{n(x)}" y1="{n(y)}" x2="{n(to_x)}" y2="{n(to_y)}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" {more}/>'


def arrow(x: float, y: float, to_x: float, to_y: float, *, colour: str = "currentColor", both: bool = False) -> str:
    """A line with a head at its end, or at both."""
    angle = math.atan2(to_y - y, to_x - x)
    parts = [line(x, y, to_x, to_y, colour=colour)]
    for tip_x, tip_y, turn in [(to_x, to_y, 0.0), (x, y, math.pi)][: 1 + both]:
        corners = [(tip_x, tip_y)]
        corners += [
            (tip_x - 9 * math.cos(angle + turn + side), tip_y - 9 * math.sin(angle + turn + side))
            for side in (0.4, -0.4)
        ]
        points = " ".join(f"{n(a)},{n(b)}" for a, b in corners)
        parts.append(f'<polygon points="{points}" fill="{colour}"/>')
    return "".join(parts)


def inside(x: float, y: float) -> bool:
    """Whether a point of the unit square is tissue of the drawn slide."""
    angle = math.atan2(y - 0.5, x - 0.5)
    return math.hypot(x - 0.5, (y - 0.5) * 1.05) < 0.36 + 0.07 * math.sin(3 * angle + 0.6) + 0.03 * math.sin(5 * angle)


def outline(left: float, top: float, side: float) -> str:
    points = []
    for step in range(90):
        angle, radius = step * math.tau / 90, 0.0
        while inside(0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)):
            radius += 0.004
        points.append((left + side * (0.5 + radius * math.cos(angle)), top + side * (0.5 + radius * math.sin(angle))))
    path = " ".join(f"{n(x)},{n(y)}" for x, y in points)
    return f'<polygon points="{path}" fill="{PURPLE}" fill-opacity=".25" stroke="{PURPLE}" stroke-opacity=".6"/>'


def vector() -> str:
    """From a slide over its tiles and a view to a vector."""
    side, top, cells = 190, 40, 10
    cell = side / cells
    tissue = [(i, j) for j in range(cells) for i in range(cells) if inside((i + 0.5) / cells, (j + 0.5) / cells)]
    view = [(3, 3), (5, 2), (5, 5), (2, 6), (5, 7)]
    parts = [box(10, top, side, side, more='rx="6"'), outline(10, top, side), label(105, 254, "slide")]
    parts.append(label(105, 274, "billions of pixels", size=12))
    parts.append(arrow(208, 135, 240, 135))
    for i, j in tissue:
        chosen = (i, j) in view
        place = (250 + i * cell, top + j * cell, cell, cell)
        parts.append(
            box(
                *place,
                fill=ORANGE if chosen else PURPLE,
                line=FAINT,
                more=f'fill-opacity="{".95" if chosen else ".18"}"',
            )
        )
    parts += [label(345, 254, "tiles"), label(345, 274, "squares of tissue, encoded once", size=12)]
    parts += [arrow(448, 135, 480, 135), box(492, 80, 110, 110, more='rx="6" stroke-dasharray="4 3"')]
    turn = 0.5
    for i, j in view:
        x, y = (i - 4.5) * 13, (j - 4.5) * 13
        place = (547 + x * math.cos(turn) - y * math.sin(turn), 135 + x * math.sin(turn) + y * math.cos(turn))
        parts.append(dot(*place, 7, ORANGE))
    parts += [label(547, 254, "view"), label(547, 274, "a few tiles, one augmentation", size=12)]
    parts += [arrow(612, 135, 644, 135)]
    rng = random.Random(3)
    for row in range(12):
        parts.append(
            box(
                660,
                top + 16 + row * 13.5,
                60,
                10.5,
                fill=BLUE,
                line="none",
                more=f'fill-opacity="{rng.uniform(0.15, 1):.2f}"',
            )
        )
    parts += [label(690, 254, "vector"), label(690, 274, "of the slide", size=12)]
    parts += [label(626, 56, "slide", size=12), label(626, 71, "encoder", size=12), label(224, 120, "tile", size=12)]
    return page(750, 284, *parts)


def training() -> str:
    """What the loss does with the views of two slides."""
    places = {BLUE: [(190, 80), (300, 130)], ORANGE: [(470, 190), (560, 110)]}
    parts = []
    for colour, ((x, y), (to_x, to_y)) in places.items():
        parts += [arrow(x + 22, y + (to_y - y) * 0.2, to_x - 22, to_y - (to_y - y) * 0.2, colour=colour, both=False)]
        parts += [arrow(to_x - 22, to_y - (to_y - y) * 0.2, x + 22, y + (to_y - y) * 0.2, colour=colour)]
        for i, place in enumerate([(x, y), (to_x, to_y)]):
            parts += [
                dot(*place, 15, colour),
                f'<g fill="#fff">{label(place[0], place[1] + 5, str(i + 1), weight="bold")}</g>',
            ]
    parts += [arrow(385, 160, 335, 142, colour=FAINT), arrow(385, 160, 435, 178, colour=FAINT)]
    parts += [label(190, 42, "slide A, two views"), label(575, 72, "slide B, two views")]
    parts += [label(240, 168, "pulled together", size=12), label(385, 215, "pushed apart", size=12)]
    return page(750, 240, *parts)


def bank() -> str:
    """What is encoded for the two kinds of banks."""
    parts = [label(170, 24, "bank of tiles", weight="bold"), label(560, 24, "operators", weight="bold")]
    for row in range(5):
        y = 44 + 30 * row
        parts += [
            label(30, y + 15, f"slide {row + 1}", anchor="start", size=12),
            box(85, y, 26, 20, fill=PURPLE, line="none", more='rx="2"'),
        ]
        parts += [
            box(119 + 17 * k, y, 13, 20, fill=ORANGE, line="none", more=f'fill-opacity="{0.3 + 0.06 * k:.2f}" rx="2"')
            for k in range(12)
        ]
        parts += [
            label(420, y + 15, f"slide {row + 1}", anchor="start", size=12),
            box(475, y, 26, 20, fill=PURPLE, line="none", more='rx="2"'),
        ]
        if row == 1:
            parts += [
                box(509 + 8 * k, y + 3, 6, 14, fill=ORANGE, line="none", more=f'fill-opacity="{0.3 + 0.035 * k:.2f}"')
                for k in range(20)
            ]
    parts += [label(98, 212, "as it is", size=12), label(225, 212, "under 12 augmentations", size=12)]
    parts += [label(488, 212, "as it is", size=12), label(610, 212, "some tiles, 64 augmentations", size=12)]
    parts += [
        arrow(590, 100, 590, 140),
        box(520, 144, 140, 34, line=BLUE, more='rx="5"'),
        label(590, 166, "operators, learnt", size=13),
    ]
    parts += [line(375, 30, 375, 210, colour=FAINT, width=1, more='stroke-dasharray="3 4"')]
    return page(750, 224, *parts)


def whitening() -> str:
    """Tiles of two slides before and after."""
    rng = random.Random(1)
    parts = []
    for origin, long, title in ((190, 66.0, "features"), (560, 20.0, "whitened")):
        parts += [arrow(origin - 150, 200, origin + 150, 200), arrow(origin - 150, 200, origin - 150, 30)]
        parts.append(label(origin, 24, title, weight="bold"))
        turn = -0.62 if long > 30 else 0.0
        for colour, side in ((BLUE, -1), (ORANGE, 1)):
            for _ in range(60):
                along, across = rng.gauss(0, long), rng.gauss(0, 9 if long > 30 else 20)
                across += side * (14 if long > 30 else 32)
                x = along * math.cos(turn) - across * math.sin(turn)
                y = along * math.sin(turn) + across * math.cos(turn)
                if abs(x) < 145 and abs(y) < 80:
                    parts.append(dot(origin + x, 115 + y, 3.2, colour, 'fill-opacity=".75"'))
    parts += [arrow(352, 115, 392, 115), label(190, 220, "long: stain, focus. Short: what tells slides apart", size=12)]
    parts += [label(560, 220, "all directions count alike", size=12)]
    parts += [
        dot(305, 20, 5, BLUE),
        label(316, 25, "slide A", anchor="start", size=12),
        dot(375, 20, 5, ORANGE),
        label(386, 25, "slide B", anchor="start", size=12),
    ]
    return page(750, 232, *parts)


def leakage() -> str:
    """Slides of four patients, split by slide and by patient."""
    parts = []
    splits = {"by slide": ["++", "+-", "--", "-+"], "by patient": ["++", "++", "--", "--"]}
    for origin, (title, sides) in zip((40, 420), splits.items(), strict=True):
        parts.append(label(origin + 145, 24, title, weight="bold"))
        for row, (patient, marks) in enumerate(zip("ABCD", sides, strict=True)):
            y = 42 + 36 * row
            parts.append(label(origin, y + 19, f"patient {patient}", anchor="start", size=13))
            for i, mark in enumerate(marks):
                parts.append(
                    box(
                        origin + 90 + 46 * i,
                        y,
                        38,
                        27,
                        fill=BLUE if mark == "+" else ORANGE,
                        line="none",
                        more='rx="4"',
                    )
                )
            if len(set(marks)) > 1:
                parts.append(
                    f'<g fill="{RED}">{label(origin + 192, y + 19, "on both sides", anchor="start", size=13)}</g>'
                )
    parts += [
        box(270, 196, 16, 12, fill=BLUE, line="none", more='rx="2"'),
        label(292, 207, "training", anchor="start", size=12),
    ]
    parts += [
        box(390, 196, 16, 12, fill=ORANGE, line="none", more='rx="2"'),
        label(412, 207, "test", anchor="start", size=12),
    ]
    return page(750, 218, *parts)


def interval() -> str:
    """Ten splits of two vectors, and their differences."""
    parts = []
    rows = {"giga": SCORES["giga"], "whitened mean": SCORES["whitened mean"]}
    start, step = 170, 360
    for row, (name, (low, high, values)) in enumerate(rows.items()):
        parts += spread(
            62 + 62 * row, [start + step * v for v in (low, high)], [start + step * v for v in values], COLOURS[row]
        )
        parts.append(label(150, 67 + 62 * row, name, anchor="end"))
    parts += [line(start, 160, start + step, 160, colour=FAINT, width=1)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [line(start + step * tick, 160, start + step * tick, 165, colour=FAINT, width=1)]
        parts.append(label(start + step * tick, 180, f"{tick:g}", size=12))
    parts += [label(start + step / 2, 200, "AUC of ten splits, mean and 95 % interval", size=12)]
    low, high, _ = SCORES["difference"]
    differences = [a - b for a, b in zip(rows["giga"][2], rows["whitened mean"][2], strict=True)]
    zero, wide = 620, 220
    parts += spread(93, [zero + wide * v for v in (low, high)], [zero + wide * v for v in differences], GREEN)
    parts += [
        line(zero, 40, zero, 160, colour=FAINT, width=1, more='stroke-dasharray="3 4"'),
        label(zero, 180, "0", size=12),
    ]
    parts += [
        label(655, 200, "difference, split by split", size=12),
        label(zero + 6, 50, "giga is better", anchor="start", size=12),
    ]
    return page(750, 212, *parts)


def spread(y: float, ends: list[float], places: list[float], colour: str) -> list[str]:
    """Dots, one a split, and below them their mean with its interval."""
    parts = []
    for i, x in enumerate(places):
        higher = sum(abs(x - other) < 6 for other in places[:i])  # dots on one place stand above each other
        parts.append(dot(x, y - 9 * higher, 4, colour, 'fill-opacity=".75"'))
    parts.append(line(ends[0], y + 14, ends[1], y + 14, colour=colour, width=3))
    parts.append(dot(sum(places) / len(places), y + 14, 5, "currentColor"))
    return parts


FIGURES = {
    "vector": vector,
    "training": training,
    "bank": bank,
    "whitening": whitening,
    "leakage": leakage,
    "interval": interval,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (HERE / f"{name}.svg").write_text(draw(), encoding="utf-8")
