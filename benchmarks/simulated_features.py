"""The simulated cohort of `benchmarks/simulated.py` in memory, for `benchmarks/operators.py`.

Its label is `mixture`. An augmentation moves all tiles of a view alike there, so operators can foresee all but noise;
it is so much stronger than tissue that encoders see features whitened on augmented tiles.
"""

from __future__ import annotations

import numpy as np
from feature_cohorts import BANK, CALIBRATION_TILES, FRESH, LEAST_SLIDES, SETS, Augmented, Cohort, Plain
from simulated import AUGMENTED, NOISE, SLIDES_OF_A_PATIENT, SMALL, STAIN, World, draw_bank, draw_slide, plan

from gigacli.nn.operators_fit import Calibration
from gigacli.nn.views import TilePositions
from gigacli.randomness import keyed_rng


def simulated(seed: int = 0) -> Cohort:
    """The simulated cohort; sets of the calibration are augmentations that all slides share."""
    world, size = World.of(seed), SMALL
    people = [p for p in plan(64) for _ in range(SLIDES_OF_A_PATIENT)]
    slides = [draw_slide(world, p, seed, i % SLIDES_OF_A_PATIENT, grid=size.grid) for i, p in enumerate(people)]
    plain = Plain(
        np.concatenate([one.features for one in slides]).astype(np.float16), np.array([len(one.kind) for one in slides])
    )
    rows = [draw_bank(world, one, keyed_rng(seed, "bank", i), draws=size.draws) for i, one in enumerate(slides)]
    vectors, tile = np.stack([one for one, _ in rows]), np.stack([one for _, one in rows]).astype(np.int32)
    chosen = np.sort(keyed_rng(seed, "calibration").permutation(len(slides))[:LEAST_SLIDES])
    share, rng = -(-CALIBRATION_TILES // LEAST_SLIDES), keyed_rng(seed, "sets")
    at = np.concatenate([plain.first[i] + rng.permutation(int(plain.counts[i]))[:share] for i in chosen])  # (n,)
    shift = AUGMENTED * rng.standard_normal((SETS, STAIN)) @ world.stains  # (k, d)
    noise = NOISE * rng.standard_normal((len(at), SETS, shift.shape[1]))
    augmented = (plain.vectors[at][:, None] + shift + noise).astype(np.float16)
    bank = Augmented(vectors[:, : BANK[0]], tile[:, : BANK[0]])
    return Cohort(
        name="simulated",
        plain=plain,
        positions=TilePositions((one.cells.astype(np.int32), 1.0) for one in slides),
        bank=bank,
        largest=bank,
        fresh=Augmented(vectors[:, -FRESH[0] :], tile[:, -FRESH[0] :]),
        calibrations=[Calibration(plain.vectors[at], augmented, chosen.repeat(share))],
        labels=np.array([p["mixture"] for p in people]),
        patients=np.array([p["number"] for p in people]),
        few=32,
        space_of_bank=True,
    )
