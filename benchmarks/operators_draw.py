"""What drawing the views of a step from operators costs beside the step of each encoder, two views of T 5 a slide.

python benchmarks/operators_draw.py

In processor time of one thread, so that other programs on the machine do not count.
"""

from __future__ import annotations

import itertools
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from feature_cohorts import CPU, SETS, Plain

from gigacli.config.training import REGIMES
from gigacli.nn.giga import GigaSSL
from gigacli.nn.operators import AppliedOperators, Gate, Operators
from gigacli.nn.sampler import Sampler
from gigacli.nn.views import TilePositions
from gigacli.nn.whitening import FeatureSpace

if TYPE_CHECKING:
    from collections.abc import Callable

TILES, ENCODERS = 5, ("transformer", "sparse-resnet")


def draw() -> None:
    """Print what the views of a step cost beside the step itself, by width and rank, in processor time."""
    rng = np.random.default_rng(0)
    sizes = [(192, 192), (192, 64), (256, 256), (256, 128), (256, 64), *((1536, rank) for rank in (32, 64, 128, 256))]
    groups = itertools.groupby(sizes, key=lambda cell: cell[0])
    print(
        "| encoder | features | rank | drawing fp32, ms | of a step of | share | drawing bf16 | of a step of | share |"
    )
    print("|---" * 9 + "|")
    for aggregator, (width, of_width) in itertools.product(ENCODERS, [(w, list(g)) for w, g in groups]):
        slides = REGIMES[aggregator].batch_size
        plain = Plain(rng.standard_normal((slides * 40, width)).astype(np.float16), np.full(slides, 40))
        corner = np.stack(np.divmod(np.arange(40), 7), axis=1).astype(np.int32)
        positions = TilePositions((corner, 1.0) for _ in range(slides))
        method = GigaSSL(width, temperature=0.2, seed=0, standardise=True, whiten=True, aggregator=aggregator)
        optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, fused=True)
        options = {"tiles": TILES, "slide_aug": True, "seed": 0, "batch_size": slides, "device": CPU}
        views = Sampler(plain, positions, **options).views(np.arange(slides), rng)

        def step(half: bool, method: GigaSSL = method, optimizer: Any = optimizer, views: Any = views) -> None:  # noqa: FBT001
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = method((views,)).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        whole = [milliseconds(partial(step, half), repeats=5) for half in (False, True)]
        for _, rank in of_width:
            operators, cells = made_up(width, rank), []
            for precision, of in zip(("fp32", "bf16"), whole, strict=True):
                applied = AppliedOperators(operators, device=CPU, precision=precision)
                drawn = operators.draw(rng, 2 * slides, TILES)
                spent = milliseconds(partial(applied, views.features, drawn), repeats=15)
                cells += [f"{spent:.1f}", f"{of:.0f}", f"{100 * spent / of:.1f} %"]
            print(f"| {aggregator} | {width} | {rank} | {' | '.join(cells)} |", flush=True)


def milliseconds(work: Callable[[], object], *, repeats: int) -> float:
    """Median processor time of a thread: other programs on this machine do not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times[1:])


def made_up(width: int, rank: int) -> Operators:
    """Operators of random numbers."""
    rng = np.random.default_rng(0)
    parts = {"shift": (SETS, width), "left": (width, rank), "core": (SETS, rank, rank), "right": (rank, width)}
    numbers = {name: rng.standard_normal(shape, dtype=np.float32) / rank for name, shape in parts.items()}
    space, centre = FeatureSpace(None, None), np.zeros(width, dtype=np.float32)
    r2 = np.zeros((SETS, 3), dtype=np.float32)
    return Operators(space=space, centre=centre, **numbers, gate=Gate(1, 1, 0), r2=r2, penalty=1.0, kept=1.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw()
