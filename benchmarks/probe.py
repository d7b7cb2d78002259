"""CPU-seconds of ``giga probe``: the whole command, from the start of the process to the table.

python benchmarks/probe.py LABELS.csv SPLITS [--features 512] [--repeats 5]

Draws one vector per labelled slide (unit length, a little signal), puts them into a store, and runs the command on
them with the given splits: the paper's 1,041 BRCA slides and ten splits took 1.25 CPU-seconds (section 4.3). Prints
user plus system seconds of the child process, of its imports alone, and of the fits alone, interleaved.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from gigacli.probing.labels import read_labels
from gigacli.probing.linear import score
from gigacli.probing.splits import read_splits
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable

IMPORTS = "import gigacli.console, gigacli.cli, gigacli.stages.probe"


def make_store(path: Path, ids: tuple[str, ...], vectors: np.ndarray) -> None:
    """A store that holds nothing but one embedding."""
    store = Store.create(path)
    store.write_slides(SlideTable(tuple(SlideRow(id=slide, path="-", patient="") for slide in ids)))
    recipe = Recipe("embed", {"aggregator": "model", "model": "giga"}, {"features": "none"})
    store.begin("embeddings/giga", recipe, {"vectors": vectors.shape, "done": (len(ids),)})
    store.array("embeddings/giga/vectors")[:] = vectors
    store.array("embeddings/giga/done")[:] = 1


def cpu_seconds(command: list[str]) -> float:
    """User plus system time of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    table = read_labels(options.labels)
    names = np.array(table.label)
    y = np.unique(names, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(y), options.features)) + 0.1 * np.outer(y, rng.standard_normal(options.features))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    splits, _ = read_splits(options.splits, table.slide_id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cohort.zarr")
        make_store(path, table.slide_id, vectors)
        giga = [str(Path(sys.executable).with_name("giga")), "probe", str(path)]
        command = [*giga, "--labels", str(options.labels), "--splits", str(options.splits)]
        cpu_seconds(command)  # compiles what is not compiled yet
        figures: dict[str, list[float]] = {"whole command": [], "imports": [], f"{len(splits)} fits": []}
        for _ in range(options.repeats):
            figures["whole command"].append(cpu_seconds(command))
            figures["imports"].append(cpu_seconds([sys.executable, "-c", IMPORTS]))
            started = time.process_time()
            mean = score(vectors, names, splits).auc_mean
            figures[f"{len(splits)} fits"].append(time.process_time() - started)
    print(f"{len(y)} slides x {options.features}, {len(splits)} splits, AUC {mean:.3f}; CPU-seconds")
    for name, seconds in figures.items():
        print(f"{name:>14}: median {median(seconds):.3f}, least {min(seconds):.3f}")


if __name__ == "__main__":
    main()
