"""Draws the pictures of the README, with what giga shows of a finished demo.

python docs/pictures.py demo
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import gigacli as giga
from gigacli.reporting import plots
from gigacli.reporting.slides import picture_of
from gigacli.tables import read_columns

HERE = Path(__file__).parent / "figures"
SLIDES = 6
COLOURS = 96  # of a picture: enough for tissue, and half of the bytes
WIDTH_PX = 640


def draw(store: str | Path, labels: Path, *, embedding: str, positive: str, width_px: int) -> dict[str, Image.Image]:
    """The pictures, by name: slides with their tiles, the map of one slide's tiles, and the map of the vectors.

    Args:
        store: A cohort with vectors.
        labels: Its labels.
        embedding: The vectors to show.
        positive: The class whose tiles are looked for, on the slide of it that has the most tiles.
        width_px: Of the pictures.
    """
    opened, table = giga.open(store), read_columns(labels)
    of_slide = dict(zip(table["slide_id"], table["label"], strict=True))
    values = [of_slide[slide] for slide in opened.slides.ids]
    counts = opened.tiles.done().values
    mine = np.flatnonzero(np.array(values) == positive)
    slide = opened.slides.ids[int(mine[counts[mine].argmax()])]
    return {
        "slides": _finished(_slides(opened, values), width_px),
        "tile-map": _finished(_tile_map(store, slide, labels, embedding, positive), width_px),
        "vectors": _finished(_vectors(opened, values, embedding), width_px),
    }


def _slides(store: giga.Store, values: list[str]) -> Image.Image:
    """Some slides with the tiles that were kept, as many of each class."""
    classes = sorted(set(values))
    rows = [[i for i, value in enumerate(values) if value == name][: SLIDES // len(classes)] for name in classes]
    figure = Figure(figsize=(7.2, 4.9), layout="constrained")
    for at, row in enumerate(row for several in rows for row in several):
        picture = picture_of(store, row, tiles=int(store.tiles.done().values[row]))
        axes = figure.add_subplot(len(classes), SLIDES // len(classes), at + 1)
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.set_title(f"{values[row]}, {picture.note}", fontsize=9, loc="left")
        if picture.image is not None:
            axes.imshow(np.asarray(picture.image))
    return _picture(figure)


def _tile_map(store: str | Path, slide: str, labels: Path, embedding: str, positive: str) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        found = giga.tile_map(store, slide, labels, positive=positive, embedding=embedding, out=folder)
        (file,) = (name for name in found.files if name.endswith(".png"))
        return Image.open(file).convert("RGB")


def _vectors(store: giga.Store, values: list[str], embedding: str) -> Image.Image:
    figure = Figure(figsize=(7.2, 4.9), layout="constrained")
    axes = figure.add_subplot()
    plots.vector_map(store, embedding, axes, colour=values)
    axes.set_title(f"{len(values)} slides, a point each", fontsize=10, loc="left")
    return _picture(figure)


def _picture(figure: Figure) -> Image.Image:
    drawn = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, format="png", dpi=200)
    return Image.open(drawn).convert("RGB")


def _finished(picture: Image.Image, width_px: int) -> Image.Image:
    """Of that width and of few colours."""
    size = (width_px, round(width_px * picture.height / picture.width))
    return picture.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS, dither=Image.Dither.NONE)


def write(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write them as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    demo = Path(sys.argv[1])
    write(
        draw(demo / "cohort.zarr", demo / "labels.csv", embedding="giga", positive="glandular", width_px=WIDTH_PX), HERE
    )
