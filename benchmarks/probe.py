"""CPU-seconds of ``giga probe``: the whole command, from the start of the process to the table.

python benchmarks/probe.py LABELS.csv SPLITS [--features 512] [--repeats 5]

Draws one vector per labelled slide (unit length, a little signal), puts them into a store, and runs the command on
them with the given splits: the paper's 1,041 BRCA slides and ten splits took 1.25 CPU-seconds (section 4.3). Beside it
the shortest script that does the same with pandas and scikit-learn, vectors and ids in two files; one BLAS thread,
which suits it best. Prints user plus system seconds of the processes, of their imports alone, and of the fits alone,
interleaved, and by how much the AUC of any split differs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from gigacli.probing.labels import read_labels
from gigacli.probing.linear import score
from gigacli.probing.splits import Split, read_splits
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

IMPORTS = "import gigacli.cli.console, gigacli.cli.verbs, gigacli.stages.probe"
PLAIN_IMPORTS = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
"""
PLAIN = (
    PLAIN_IMPORTS
    + """
vectors, ids, labels, splits = sys.argv[1:]
vectors = pd.DataFrame(np.load(vectors), index=np.load(ids))
table = pd.read_csv(labels)
label = dict(zip(table.iloc[:, 0], table["label"].astype(str)))
for file in sorted(Path(splits).glob("split_*.csv"), key=lambda file: int(file.stem.removeprefix("split_"))):
    split = pd.read_csv(file)
    train, test = (split[side].dropna() for side in ("train", "test"))
    train, test = train[train.isin(label)], test[test.isin(label)]
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
    model.fit(vectors.loc[train].to_numpy(), train.map(label))
    found = model.predict_proba(vectors.loc[test].to_numpy())
    found = found[:, 1] if found.shape[1] == 2 else found
    print(roc_auc_score(test.map(label), found, multi_class="ovr"))
"""
)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def make_store(path: Path, ids: tuple[str, ...], vectors: np.ndarray) -> None:
    """A store that holds nothing but one embedding."""
    store = Store.create(path)
    store.write_slides(SlideTable(tuple(SlideRow(id=slide, path="-", patient="") for slide in ids)))
    recipe = Recipe("embed", {"aggregator": "model", "model": "giga"}, {"features": "none"})
    store.embedding("giga").begin(recipe, vectors.shape[1], redo=False)
    store.embedding("giga").write(np.arange(len(ids)), vectors)


def cpu_seconds(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, str]:
    """User plus system time of a child process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def plain_fits(vectors: np.ndarray, names: np.ndarray, splits: list[Split]) -> None:
    """The fits alone, with scikit-learn, in this process and with one thread."""
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1):
        for split in splits:
            model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
            model.fit(vectors[split.train], names[split.train]).predict_proba(vectors[split.test])


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
        files = Path(folder, "vectors.npy"), Path(folder, "ids.npy")
        np.save(files[0], vectors)
        np.save(files[1], np.array(table.slide_id))
        giga = [str(Path(sys.executable).with_name("giga")), "probe", str(path)]
        command = [*giga, "--labels", str(options.labels), "--splits", str(options.splits)]
        plain = [sys.executable, "-c", PLAIN, *map(str, files), str(options.labels), str(options.splits)]
        cpu_seconds(command)  # compiles what is not compiled yet
        cpu_seconds(plain, ONE_THREAD)
        plain_fits(vectors, names, splits[:1])  # imports what is not imported yet
        figures: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(options.repeats):
            figures["giga probe, whole command"].append(cpu_seconds(command)[0])
            seconds, printed = cpu_seconds(plain, ONE_THREAD)
            figures["plain script, whole"].append(seconds)
            figures["giga probe, imports"].append(cpu_seconds([sys.executable, "-c", IMPORTS])[0])
            seconds = cpu_seconds([sys.executable, "-c", PLAIN_IMPORTS], ONE_THREAD)[0]
            figures["plain script, imports"].append(seconds)
            started = time.process_time()
            folds = score(vectors, names, splits)
            figures[f"giga probe, {len(splits)} fits"].append(time.process_time() - started)
            started = time.process_time()
            plain_fits(vectors, names, splits)
            figures[f"plain script, {len(splits)} fits"].append(time.process_time() - started)
    ours, theirs = np.array([fold.auc for fold in folds]), np.array(printed.split(), dtype=float)  # (splits,)
    apart = np.abs(ours - theirs).max()
    print(f"{len(y)} slides x {options.features}, {len(splits)} splits, AUC {ours.mean():.3f}; CPU-seconds")
    for name, seconds in figures.items():
        print(f"{name:>26}: median {median(seconds):.3f}, least {min(seconds):.3f}")
    print(f"AUC of a split differs from the plain script's by at most {apart:.1e}")


if __name__ == "__main__":
    main()
