"""A cohort of loose patches: images that were cut out of slides that nobody has any more.

Their slide and their corner, in level-0 pixels, stand in their names, ``SLIDE_x512_y1024.png``, or in a table. For
every slide a file that lists its patches is written beside the store; it is registered in the place of the slide.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from gigacli.config.verbs import TileConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.files import new_file
from gigacli.progress import Progress
from gigacli.store.address import is_remote
from gigacli.store.store import Store
from gigacli.tables import bare_id, find_column, read_columns
from gigacli.wsi.patches import ENDING, index_text

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
NAME = re.compile(r"(.+?)_+x(\d+)_y(\d+)(?:_.*)?")
"""Slide and corner in the name of a patch; some tools add more, such as AtlasPatch."""

EXAMPLE = "SLIDE_x512_y1024.png"
FEWEST_PX = 16  # corners closer than that are numbers of columns and rows

Patch = tuple[Path, str, int, int]  # file, slide, level-0 x and y


def list_patches(config: TileConfig, store: str, progress: Progress) -> tuple[TileConfig, list[Path]]:
    """List the patches of every slide in a file.

    Returns:
        The configuration for tiles that are these patches, all of them; and the files, by slide.

    Raises:
        NotFound: There are no patches.
        InvalidInput: They do not say where they lay, are of several sizes, or one corner has two.
        Mismatch: The store has tiles of another size or resolution; its lists stay as they are.
    """
    if is_remote(store):
        raise InvalidInput(
            f"{store} is remote, and the lists of patches are written beside the store",
            "make the store here, then copy it",
        )
    source = config.patches
    assert source is not None
    if not source.exists():
        raise NotFound(f"{source} does not exist", "name the folder of patches, or a table of path, slide_id, x, y")
    patches = _of_folder(source, progress) if source.is_dir() else _of_table(source)
    of_slide: dict[str, list[Patch]] = {}
    for patch in sorted(patches, key=lambda one: (one[1], one[3], one[2], one[0])):
        of_slide.setdefault(patch[1], []).append(patch)
    for slide, mine in of_slide.items():
        _refuse_twins(slide, mine)
    patch_px = _one_size(of_slide)
    if "tile_px" in config.given and config.tile_px != patch_px:
        raise InvalidInput(f"`tile_px` is {config.tile_px}, but the patches are {patch_px} px", "leave out `tile_px`")
    _refuse_others(config, store, patch_px)
    edges = _edges(of_slide, patch_px, config)
    folder = Path(f"{store.rstrip('/')}-patches")
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(folder, source, mine, patch_px, edges[slide], config.mpp) for slide, mine in of_slide.items()]
    said = ", ".join(f"{edge:g}" for edge in sorted(set(edges.values())))
    progress.say(f"{len(patches)} patches of {len(of_slide)} slides: {patch_px} px, {said} level-0 pixels a side")
    least = config.min_tissue if "min_tissue" in config.given else 0.0
    return config.but(tile_px=patch_px, min_tissue=least), written


def _of_folder(folder: Path, progress: Progress) -> list[Patch]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.name[0] != ".")
    named = [(path, NAME.fullmatch(path.stem)) for path in images]
    patches = [(path, found[1], int(found[2]), int(found[3])) for path, found in named if found]
    others = [path for path, found in named if not found]
    if not patches:
        what = f"{len(images)} images, such as {images[0].name}" if images else f"no image ({' '.join(IMAGES)})"
        raise NotFound(
            f"{folder} has {what}; patches are called {EXAMPLE}",
            "name them so, or give a table: --patches TABLE with the columns path, slide_id, x and y",
        )
    if others:
        progress.say(f"{len(others)} images are not called {EXAMPLE} and are left out, such as {others[0]}")
    return patches


def _of_table(table: Path) -> list[Patch]:
    cells = read_columns(table)
    path = find_column(cells, "path", path=table)
    slide = find_column([name for name in cells if name != path], "slide_id", path=table)
    x, y = (find_column(cells, name, path=table) for name in ("x", "y"))
    if path is None or slide is None or x is None or y is None:
        raise InvalidInput(f"{table} has the columns {', '.join(cells)}; expected path, slide_id, x and y")
    rows = list(zip(cells[path], cells[slide], cells[x], cells[y], strict=True))
    patches, missing = [], []
    for name, of, left, top in rows:
        if not (left.isdigit() and top.isdigit()):
            raise InvalidInput(f"{table}: the corner of {name} is ({left!r}, {top!r}); expected level-0 pixels")
        file = (table.parent / name).absolute()
        missing += [name] * (not file.is_file())
        patches.append((file, bare_id(of), int(left), int(top)))
    if wrong := [of for _, of, _, _ in patches if not of or of in (".", "..")]:
        raise InvalidInput(f"{table}: {wrong[0]!r} is no slide id", "give every patch the id of its slide")
    if missing:
        raise NotFound(
            f"{len(missing)} of {len(rows)} patches that {table} names are not there, such as {missing[0]}",
            f"paths start at {table.parent.absolute()}",
        )
    return patches


def _refuse_twins(slide: str, patches: list[Patch]) -> None:
    twice = [corner for corner, n in Counter((x, y) for _, _, x, y in patches).items() if n > 1]
    if twice:
        files = ", ".join(str(path) for path, _, x, y in patches if (x, y) == twice[0])
        raise InvalidInput(f"slide {slide} has {len(twice)} corners with several patches; {twice[0]} has {files}")


def _one_size(of_slide: dict[str, list[Patch]]) -> int:
    """Edge of a patch in pixels, by the first patch of every slide; the others are looked at as they are read."""
    sizes: dict[tuple[int, int], Path] = {}
    for patches in of_slide.values():
        try:
            with Image.open(patches[0][0]) as image:
                sizes.setdefault(image.size, patches[0][0])
        except OSError as error:
            raise InvalidInput(f"{patches[0][0]} cannot be read: {error}", "leave it out") from None
    (size, first), *others = sizes.items()
    if others or size[0] != size[1]:
        also = f", {others[0][1]} {others[0][0]}" if others else ""
        raise InvalidInput(f"patches are squares of one size; {first} is {size}{also}")
    return size[0]


def _refuse_others(config: TileConfig, store: str, patch_px: int) -> None:
    """Refuse patches that the store's tiles could not be: lists that say so would change slides that are done."""
    made = Store.open(store).tiles.found if Store.exists(store) else None
    if made is None or config.redo:
        return
    there = (made.config["tile_px"], made.config["mpp"])
    if there != (patch_px, config.mpp):
        raise Mismatch(
            f"{store} has tiles of {there[0]:g} px at {there[1]:g} microns per pixel; the patches are {patch_px} px at "
            f"{config.mpp:g}",
            "make another store of them, or replace the tiles there: --redo",
        )


def _edges(of_slide: dict[str, list[Patch]], patch_px: int, config: TileConfig) -> dict[str, float]:
    """Slide -> edge of its patches in level-0 pixels: by the resolution of the slides, else by their distances.

    Neighbours in a row or column that do not overlap are as far apart as they are long. Where they are less far apart
    than they have pixels they overlap, and their pixels are taken to be those of level 0.
    """
    if config.slide_mpp is not None:
        return dict.fromkeys(of_slide, patch_px * config.mpp / config.slide_mpp)
    apart: dict[str, int] = {}
    for slide, patches in of_slide.items():
        if step := _usual_step([(x, y) for _, _, x, y in patches]):
            apart[slide] = step
    if (close := [slide for slide, step in apart.items() if step < FEWEST_PX]) and patch_px >= FEWEST_PX:
        raise InvalidInput(
            f"patches of {close[0]} are {apart[close[0]]} px apart: that looks like numbers of columns and rows",
            "name them by the level-0 pixel of their corner, or give the resolution of the slides with `slide_mpp`",
        )
    usual = median(apart.values()) if apart else patch_px
    return {slide: float(max(patch_px, apart.get(slide, usual))) for slide in of_slide}


def _usual_step(corners: list[tuple[int, int]]) -> int:
    """The most frequent distance of neighbours in a row or a column, 0 where none has a neighbour."""
    steps: Counter[int] = Counter()
    for axis in (0, 1):
        lines: dict[int, list[int]] = {}
        for corner in corners:
            lines.setdefault(corner[1 - axis], []).append(corner[axis])
        for line in lines.values():
            steps.update(np.diff(sorted(line)).tolist())
    return min(step for step, n in steps.items() if n == max(steps.values())) if steps else 0


def _write(folder: Path, source: Path, patches: list[Patch], patch_px: int, edge_px: float, mpp: float) -> Path:
    """Write the list of one slide; one that says the same stays as it is, so that the slide has not changed."""
    root = (source if source.is_dir() else source.parent).absolute()
    text = index_text(
        folder=root,
        patch_px=patch_px,
        edge_px=edge_px,
        mpp=patch_px * mpp / edge_px,
        patches=[(_below(root, path), x, y, path.stat().st_size) for path, _, x, y in patches],
    )
    file = folder / f"{patches[0][1]}{ENDING}"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with new_file(file) as path:
            path.write_text(text, encoding="utf-8")
    return file


def _below(root: Path, path: Path) -> str:
    path = path.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
