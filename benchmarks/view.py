"""Milliseconds a tile of `giga view`: over HTTP, as the page asks for them, before they were seen and after.

    python benchmarks/view.py STORE [--tiles 100]

Of every slide of the store, tiles drawn at random from all levels, `--tiles` at most, each asked for twice on one
connection. The slide's page is asked for first, as the page does: "opening" is that. The bar is 80 ms a tile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import time
from urllib.parse import urlsplit

import numpy as np

import gigacli as giga
from gigacli.wsi.zoom import TILE_PX


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--tiles", type=int, default=100)
    options = parser.parse_args()
    with giga.view(options.store) as page:
        link = urlsplit(page.url)
        connection = http.client.HTTPConnection(link.netloc, timeout=600)

        def ask(path: str) -> tuple[bytes, float]:
            started = time.perf_counter()
            connection.request("GET", link.path + path)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status} {data.decode()}")
            return data, 1000 * (time.perf_counter() - started)

        print("| slide | tiles | opening, ms | median, ms | 95 % | most | seen before, median |\n" + "|---" * 7 + "|")
        every: list[float] = []
        for row, name in enumerate(json.loads(ask("slides.json")[0])["ids"]):
            data, opening = ask(f"slide/{row}/about.json")
            about = json.loads(data)
            if "problem" in about:
                print(f"| {name} | {about['problem'].splitlines()[0]} |")
                continue
            _, seconds = ask(f"slide/{row}/overview.jpg")
            places = []
            for level in range(about["first"], about["last"] + 1):
                columns, rows = (
                    math.ceil(about[side] / 2 ** (about["last"] - level) / TILE_PX) for side in ("width", "height")
                )
                places += [(level, x, y) for x in range(columns) for y in range(rows)]
            chosen = random.Random(row).sample(places, min(options.tiles, len(places)))
            paths = [f"slide/{row}/level/{level}/{x}_{y}.jpg" for level, x, y in chosen]
            asked = [[ask(path)[1] for _ in range(2)] for path in paths]  # the second is seen before
            cold, warm = np.array(asked).T
            every += cold.tolist()
            print(
                f"| {name} | {len(cold)} | {opening + seconds:.0f} | {np.median(cold):.1f} | "
                f"{np.quantile(cold, 0.95):.1f} | {cold.max():.0f} | {np.median(warm):.2f} |"
            )
        print(f"all: median {np.median(every):.1f}, 95 % {np.quantile(every, 0.95):.1f}, most {max(every):.0f} ms")


if __name__ == "__main__":
    main()
