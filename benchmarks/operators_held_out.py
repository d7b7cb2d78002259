"""Whether sets that operators hold out judge vectors as fresh encodings do.

python benchmarks/operators_held_out.py --folder DIR [--cohorts drawn-moco] [--aggregators transformer]

Trains slide encoders on the drawn cohort of `benchmarks/operators.py`, from un-augmented tiles and from operators that
hold out 8 of 64 sets, and judges both by fresh encodings and by what operators make of tiles under the sets held out.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path

import numpy as np
from feature_cohorts import CPU, Cohort, Plain, drawn
from operators import embedded, judged, learnt_for, trained

from gigacli.nn.operators import AppliedOperators

AS_MADE = "operators, as made"


def compare(cohort: Cohort, aggregators: list[str], seeds: int) -> None:
    """Print both judgements of every training."""
    learnt = learnt_for(cohort, AS_MADE)
    assert learnt
    applied, sets = AppliedOperators(learnt, device=CPU), range(learnt.drawn, learnt.sets)
    plain = cohort.plain
    seen = [Plain(applied.under(plain.vectors, k).astype(np.float16), plain.counts) for k in sets]
    for aggregator, variant, seed in itertools.product(aggregators, ("nothing", AS_MADE), range(seeds)):
        embed = partial(embedded, trained(cohort, aggregator, variant, seed), cohort)
        clean = embed(plain, 0)
        fresh = [embed(cohort.fresh, a) for a in range(cohort.fresh.augmentations)]
        for name, others in (("fresh encodings", fresh), ("sets held out", [embed(one, 0) for one in seen])):
            scores = " ".join(f"{k} {v:.3f}" for k, v in judged(cohort, clean, others).items())
            print(f"{cohort.name}, {aggregator} from {variant}, seed {seed}, by {name}: {scores}", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cohorts", nargs="+", default=["drawn-moco"])
    parser.add_argument("--aggregators", nargs="+", default=["transformer"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name in options.cohorts:
        compare(drawn(options.folder, name.removeprefix("drawn-")), options.aggregators, options.seeds)


if __name__ == "__main__":
    main()
