"""Tissue detection against the demo's known tissue: intersection over union per lab, and the shares of tiles.

python benchmarks/tissue.py FOLDER [--seeds 0 1 2]

Draws the demo cohort of every seed into FOLDER, unless it is there. Where ink lies on tissue no picture tells what is
below it; those pixels are left out of the comparison in the first table and counted as tissue in the second.

The last lines say how much more tissue is found in tiles of 256 px on a border (2 to 98 % of them are tissue) than they
hold, in shares of a tile, and how many of the tiles that are kept should be (precision), and the other way round
(recall), of all tiles and of those on a border. Tiles with tissue under ink do not count.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.demo.cohort import write_cohort
from gigacli.wsi.grid import tile_grid, tissue_fraction
from gigacli.wsi.slide import Slide
from gigacli.wsi.tissue import MASK_MPP, tissue_mask

MPP = 0.5  # of the demo's slides


def iou(slide: Path, truth: Path) -> tuple[float, float]:
    """Intersection over union without and with the tissue under ink, at the resolution of the truth."""
    with np.load(truth) as known:
        tissue, ink = known["tissue"], known["pen"].astype(bool)
        times = round(MASK_MPP / (MPP * int(known["downsample"])))  # truth pixels along a mask pixel
    with Slide(slide, mpp=MPP) as opened:
        mask = tissue_mask(opened.thumbnail(MASK_MPP), mpp=MASK_MPP)
    height, width = tissue.shape
    found = mask.repeat(times, axis=0).repeat(times, axis=1)[:height, :width]
    scores = []
    for counted in (~(ink & tissue), np.ones_like(tissue)):
        both, either = (found & tissue & counted).sum(), ((found | tissue) & counted).sum()
        scores.append(float(both / either))
    return scores[0], scores[1]


def shares(slide: Path, truth: Path, tile_mpp: float) -> NDArray[np.float32]:
    """Share of tissue that is found in each tile, and that it holds: (2, tiles)."""
    with np.load(truth) as known:
        tissue, under, cell = known["tissue"], known["tissue"] & known["pen"].astype(bool), int(known["downsample"])
    with Slide(slide, mpp=MPP) as opened:
        mask, size_px = tissue_mask(opened.thumbnail(MASK_MPP), mpp=MASK_MPP), opened.size_px
    scale: dict[str, Any] = {"mpp": tile_mpp, "slide_mpp": MPP, "tile_px": 256}
    coords = tile_grid(size_px, **scale)
    found = tissue_fraction(mask, coords, mask_mpp=MASK_MPP, **scale)
    held, hidden = (tissue_fraction(m, coords, mask_mpp=MPP * cell, **scale) for m in (tissue, under))
    return np.stack([found, held])[:, hidden < 0.01]


def show_shares(slides: list[tuple[Path, Path]]) -> None:
    """Print what is wrong with the shares of tiles of both resolutions."""
    for mpp in (0.5, 1.0):
        found, held = np.concatenate([shares(*slide, mpp) for slide in slides], axis=1)
        border = (held > 0.02) & (held < 0.98)
        kept = border & (found >= 0.5)
        line = f"tiles of {mpp} microns: {border.sum()} on a border hold {(found - held)[border].mean():+.3f} more, "
        line += f"those kept {(found - held)[kept].mean():+.3f};"
        for which, some in (("of all", np.ones_like(border)), ("on a border", border)):
            yes, should = (found >= 0.5)[some], (held >= 0.5)[some]
            both = (yes & should).sum()
            line += f" {which} precision {both / yes.sum():.3f} recall {both / should.sum():.3f}"
        print(line)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    drawn: list[tuple[Path, Path]] = []
    for seed in options.seeds:
        cohort = write_cohort(options.folder / f"seed{seed}", slides=36, patients=18, seed=seed)
        labs = defaultdict(list)
        for slide in sorted(cohort.slides.glob("*.tif")):
            drawn.append((slide, cohort.truth / f"{slide.stem}.npz"))
            labs[slide.name.split("_")[0]].append(iou(*drawn[-1]))
        for lab, scores in sorted(labs.items()):
            without, under = zip(*scores, strict=True)
            print(
                f"seed {seed} {lab}: {len(scores)} slides, least {min(without):.3f} median {median(without):.3f}; "
                f"with tissue under ink least {min(under):.3f} median {median(under):.3f}"
            )
    show_shares(drawn)


if __name__ == "__main__":
    main()
