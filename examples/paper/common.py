"""What the scripts of this folder share: the tasks, models and embeddings by name, probes that are kept, tables.

Every step is a function of gigacli and skips what the store holds already, so a script can be interrupted and
repeated. Probes write nothing into a store; what came of one is kept in OUT/probes, by everything it depends on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line of giga sets it, before torch is loaded

import gigacli as giga
from gigacli.cli.console import ConsoleProgress
from gigacli.config.base import fingerprint
from gigacli.errors import NotFound
from gigacli.probing.results import ProbeRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TASKS = {
    "lung": "NSCLC subtyping",
    "brca": "BRCA subtyping",
    "kidney": "RCC subtyping",
    "tnbc": "BRCA molecular",
    "mhrd": "BRCA mHRD",
    "thrd": "BRCA tHRD",
}
"""The tasks of the paper's table 1, in the order of table 2, by the name of their label table and folder of splits."""

MEAN = "mean over the tasks"

R = 50
"""Views averaged per slide (paper, section 4.2)."""


def parser(description: str | None, tasks: Iterable[str] = TASKS) -> argparse.ArgumentParser:
    """Options of every script. Those that shrink a run are there to try it out."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("store", help="cohort store with tiles and a tile encoder")
    made.add_argument("labels", type=Path, help="folder with tables/TASK.csv and splits/TASK/BUDGET/split_*.csv")
    made.add_argument("--out", type=Path, default=Path("paper"), help="folder for tables and figures (paper)")
    made.add_argument("--tasks", nargs="+", choices=tuple(tasks), default=list(tasks), help="only some of the tasks")
    made.add_argument("--encoder", default="moco", help="tile encoder in the store (moco)")
    made.add_argument(
        "--recipe", choices=("paper", "default"), default="paper", help="settings of giga bank and giga train (paper)"
    )
    made.add_argument("--epochs", type=int, help="of giga train (1000)")
    made.add_argument("--augmentations", type=int, help="of giga bank (50)")
    made.add_argument("--draws", type=int, help="of giga bank (256)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:I (auto)")
    made.add_argument("--quiet", action="store_true", help="no progress")
    return made


@dataclass(frozen=True)
class Run:
    """A store, the label tables, and what was asked for on the command line."""

    options: argparse.Namespace
    progress: ConsoleProgress

    def bank(self, name: str, encoder: str, **changes: Any) -> str:
        """``giga bank``; its name. Fill it with --shard beforehand where one machine is too slow."""
        sizes = {key: getattr(self.options, key) for key in ("augmentations", "draws")}
        given = {key: value for key, value in sizes.items() if value is not None}
        made = giga.bank(
            self.options.store,
            encoder=encoder,
            name=name,
            preset=self.options.recipe,
            device=self.options.device,
            progress=self.progress,
            **given,
            **changes,
        )
        if made.failed:
            print(f"bank {name}: {made.failed} slides could not be read and are left out", file=sys.stderr)
        return name

    def model(self, name: str = "giga", *, bank: str | None = None, **changes: Any) -> str:
        """``giga train`` and ``giga embed``; the name of both, "giga" for the paper's own settings."""
        bank = bank or self.bank(self.options.encoder, self.options.encoder)
        epochs = {} if self.options.epochs is None else {"epochs": self.options.epochs}
        trained = giga.train(
            self.options.store,
            name=name,
            bank=bank,
            preset=self.options.recipe,
            device=self.options.device,
            progress=self.progress,
            **{**epochs, **changes},
        )
        if trained.warning:
            print(f"model {name}: {trained.warning}", file=sys.stderr)
        return self.embedding(name)

    def embedding(self, model: str, views: int = R) -> str:
        """``giga embed``; its name, which says the number of views where that is not the paper's."""
        name = model if views == R else f"{model}-r{views}"
        common = {"device": self.options.device, "progress": self.progress}
        giga.embed(self.options.store, model=model, views=views, name=name, **common)
        return name

    def probe(self, task: str, budget: str, embedding: str, **changes: Any) -> list[ProbeRow]:
        """``giga probe`` on given splits; the rows of its table, kept in OUT/probes."""
        table, splits, drawn = given_labels(self.options.labels, task, budget)
        store = giga.open(self.options.store)
        options = {"embedding": [embedding], **drawn, **changes}
        group = store.embedding(embedding)
        behind = [group, *([group.features] if group.features else [])]
        key = fingerprint(
            {
                "version": giga.__version__,
                "options": options,
                "done": {group.path: group.done().values.tolist() for group in behind},
                "recipes": {group.path: group.fingerprint for group in behind},
                "files": [sha256(file.read_bytes()).hexdigest() for file in (table, *sorted(splits.glob("*.csv")))],
            }
        )
        kept = self.options.out / "probes" / f"{task}-{budget}-{embedding}-{key[:12]}.json"
        if not kept.exists():
            common = {"device": self.options.device, "progress": self.progress}
            # the published splits name slides that the published tables leave out, and a cohort may lack some
            result = giga.probe(store, table, splits=splits, allow_missing=True, **options, **common)
            left_out = [note for note in result.notes if "have no label or vector" in note]
            for warning in [*left_out, *result.warnings]:
                print(f"{TASKS[task]}, {budget}: {warning}", file=sys.stderr)
            rows = [asdict(row) for row in result.scores if not row.embedding.startswith("whitened-mean")]  # not theirs
            _write(kept, json.dumps(rows, indent=1))
        return [ProbeRow(**row) for row in json.loads(kept.read_text())]

    def write(self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
        """Write OUT/NAME.csv and show it."""
        path = self.options.out / f"{name}.csv"
        lines = [header, *([("" if cell is None else cell) for cell in row] for row in rows)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
        print(path, path.read_text(encoding="utf-8"), sep="\n")
        return path

    def draw(self, name: str, lines: dict[str, list[tuple[float, float]]], *, x: str, y: str, zero: bool) -> Path:
        """Draw OUT/NAME.png: a line of (x, y) for each name, x on a logarithmic axis."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for line, points in lines.items():
            style = {"color": "black", "linewidth": 2} if line == MEAN else {"linewidth": 1}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=line, **style)
        ticks = sorted({place for points in lines.values() for place, _ in points})
        axes.set(xscale="log", xlabel=x, ylabel=y)
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        if zero:
            axes.axhline(0, color="red", linewidth=0.8)
        figure.legend(fontsize=7, loc="outside right upper")
        path = self.options.out / f"{name}.png"
        figure.savefig(path, dpi=200)
        return path


def run(work: Callable[[Run], object], options: argparse.Namespace, *, budgets: Iterable[str]) -> int:
    """Look for the label tables and splits of every task, then do the work; the exit code."""
    try:
        for task in options.tasks:
            for budget in budgets:
                given_labels(options.labels, task, budget)
        with ConsoleProgress(quiet=options.quiet) as progress:
            work(Run(options, progress))
    except giga.GigaError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def given_labels(folder: Path, task: str, budget: str) -> tuple[Path, Path, dict[str, Any]]:
    """Table and folder of splits of a task, and what must still be drawn from them.

    The authors published splits of 250 slides for one task only; for three others their 25 % are 250 slides. For the
    rest, 250 slides are drawn from each training set of all labels.

    Raises:
        NotFound: There is no such table or folder.
    """
    table, all_splits = folder / "tables" / f"{task}.csv", folder / "splits" / task
    drawn: dict[str, Any] = {}
    splits = all_splits / budget
    if budget == "250" and not splits.is_dir():
        if task in ("lung", "brca", "kidney"):
            splits = all_splits / "25p"
        else:
            splits, drawn = all_splits / "full", {"n_train": (250,)}
    for path in (table, splits):
        if not path.exists():
            raise NotFound(
                f"there is no {path}",
                "LABELS must hold tables/TASK.csv and splits/TASK/BUDGET/split_*.csv, as the authors publish them.",
            )
    return table, splits, drawn


def row_of(rows: Iterable[ProbeRow], *, method: str = "linear", scaled: bool = False, c: str | None = None) -> ProbeRow:
    """The one row of that method; `scaled` is the mean of tiles."""
    [found] = [r for r in rows if r.method == method and r.scaled == scaled and c in (None, r.c)]
    return found


def cell(row: ProbeRow | None) -> str:
    """Mean and standard deviation over the splits as the paper prints them; "" where there is none."""
    return "" if row is None else f"{row.auc_mean:.3f}" + ("" if row.auc_std is None else f" ± {row.auc_std:.3f}")


def numbers(row: ProbeRow) -> tuple[str, str]:
    """Mean and standard deviation, a column each."""
    return f"{row.auc_mean:.4f}", "" if row.auc_std is None else f"{row.auc_std:.4f}"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
