"""Tissue detection against the demo's known tissue: intersection over union per lab.

python benchmarks/tissue.py FOLDER [--seeds 0 1 2]

Draws the demo cohort of every seed into FOLDER, unless it is there. Where ink lies on tissue no picture tells what is
below it; those pixels are left out of the comparison in the first table and counted as tissue in the second.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from gigacli.demo.cohort import write_cohort
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


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for seed in options.seeds:
        cohort = write_cohort(options.folder / f"seed{seed}", slides=36, patients=18, seed=seed)
        labs = defaultdict(list)
        for slide in sorted(cohort.slides.glob("*.tif")):
            labs[slide.name.split("_")[0]].append(iou(slide, cohort.truth / f"{slide.stem}.npz"))
        for lab, scores in sorted(labs.items()):
            without, under = zip(*scores, strict=True)
            print(
                f"seed {seed} {lab}: {len(scores)} slides, least {min(without):.3f} median {median(without):.3f}; "
                f"with tissue under ink least {min(under):.3f} median {median(under):.3f}"
            )


if __name__ == "__main__":
    main()
