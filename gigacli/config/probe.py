"""The configuration of ``giga probe``: every option with its default, its choices, its help and its validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from gigacli.config.base import SEEDS, SHARES, Config, option
from gigacli.config.options import COUNTS, run_option
from gigacli.errors import InvalidInput

TaskKind = Literal["classification", "survival", "regression", "ordinal"]
Method = Literal["linear", "coxnet", "abmil", "mlp", "knn", "simpleshot", "retrieval"]
Level = Literal["slide", "patient"]
Group = Literal["patient", "site", "none"]
Harmonise = Literal["combat", "center", "erase"]

METHODS: Final[dict[TaskKind, tuple[Method, ...]]] = {
    "classification": ("linear", "abmil", "mlp", "knn", "simpleshot", "retrieval"),
    "survival": ("linear", "coxnet"),
    "regression": ("linear", "mlp", "knn"),
    "ordinal": ("linear",),
}
"""What can judge vectors (of abmil: tiles) on each kind of task."""

OF_CLASSES: Final[tuple[TaskKind, ...]] = ("classification", "ordinal")
"""Tasks whose units are of classes."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Options of ``giga probe``."""

    target: tuple[str, ...] = option((), "Column of the table to predict, repeatable; default: label.")
    task: TaskKind | None = option(
        None,
        "What is predicted: a class, a time until an event, a number, or a level of an order; default: what the "
        "columns look like, which is said.",
    )
    time: str | None = option(None, "Column of times, for `task` survival; default: time.")
    event: str | None = option(
        None,
        "Column that is 1 where the event was seen at that time, 0 where the time is one of censoring; default: event.",
    )
    embedding: tuple[str, ...] = option(
        (),
        "Embedding to probe, repeatable; default: all. A+B is the join of two by slide id, each centred and of unit "
        "length; STORE::NAME one of another store.",
    )
    method: tuple[Method, ...] = option(
        ("linear",),
        "linear: logistic, ridge or Cox regression; coxnet: Cox with an elastic net; abmil: attention MIL, trained "
        "from scratch on the tiles; mlp: one hidden layer; knn: the nearest neighbours; simpleshot: the nearest class "
        "mean; retrieval: labels of the nearest slides of other patients, without splits; repeatable.",
    )
    level: Level = option("slide", "Unit of labels; patient: one vector per patient, the mean of the slides'.")
    baseline: str | None = option(
        None, "Embedding or `method` to compare with; default: the mean of tiles, else the first."
    )
    fraction: tuple[float, ...] = option((), "Share of the training labels to use, repeatable.", SHARES)
    n_train: tuple[int, ...] = option((), "Number of training labels to use, repeatable.", (2, 1_000_000_000))
    shots: tuple[int, ...] = option(
        (), "Number of training labels of every class to use, drawn 50 times, repeatable.", COUNTS
    )
    splits: Path | None = option(None, "Folder of split_*.csv with columns train and test, used as they are.")
    split_column: str | None = option(
        None, "Column of the labels that says train or test of every row: the one split that is judged."
    )
    test: str | None = option(
        None, "Store of another cohort: fitted on all slides of the first, judged on those of this one."
    )
    test_labels: Path | None = option(None, "Labels of `test`, with the same columns.")
    allow_missing: bool = run_option(False, "Go on where these name slides without a label or vector.")
    stale: bool = run_option(False, "Go on where vectors were made from what has been replaced since.")
    robust: bool = option(
        False, "Judge test slides as they are seen under other augmentations, too: giga embed --augmented makes these."
    )
    folds: int = option(10, "Number of splits, stratified and grouped by patient.", (2, 1000))
    group: Group = option(
        "patient",
        "patient: keep a patient's slides on one side of a split where patients are known; site: those of a site, too; "
        "none: do not.",
    )
    site: str | None = option(
        None,
        "Column of sites (hospitals, laboratories, scanners): says whether a score is that of the site, and what is "
        "left of it within sites; tcga: the tissue source site in the slide ids.",
    )
    harmonise: tuple[Harmonise, ...] = option(
        (),
        "Take the site out of the vectors, as it is learnt from each training side alone, and show that beside the "
        "uncorrected rows: combat: its location and scale; center: its mean; erase: whatever is linear of it (LEACE); "
        "repeatable.",
    )
    permutations: int = option(
        0,
        "Score so many times with labels permuted among patients, and give every score a p-value: 200, say; it takes "
        "as long as so many probes without the choice of C.",
        (0, 1_000_000),
    )
    c: str | float = option(
        "10",
        "Inverse regularisation C of linear, or auto: chosen inside each training set; left out, it is auto unless "
        "classes are predicted.",
        flag="-C",
    )
    converged: bool = option(False, "Fit to the optimum; scikit-learn's call, the paper's, stops before it.")
    wide: bool = run_option(False, "Show every column of the table.")
    save: Path | None = run_option(
        None, "File (.safetensors) for what linear has learnt on all labelled slides, for giga predict."
    )
    out: Path | None = run_option(
        None, "Folder for scores.csv, predictions.csv, the table (scores.md, .html, .tex) and figures."
    )
    device: str = run_option("auto", "auto, cpu, cuda or cuda:I; for `method` abmil.")
    seed: int = option(0, "Seed of splits, budgets, abmil and mlp.", SEEDS)

    def _check(self) -> None:
        if not self.method:
            raise InvalidInput("`method` names none", f"leave it out, or name some of {', '.join(get_args(Method))}")
        self.c_value  # noqa: B018 - raises where C is not a number
        if self.task is not None:
            self.check_task(self.task)
        if self.target and (self.task == "survival" or self.time or self.event):
            raise InvalidInput("a task of survival predicts `time` and `event`, no `target`", "leave out `target`")
        given = [name for name in ("splits", "split_column") if getattr(self, name) is not None]
        if len(given) > 1 or (given and self.group == "site"):
            raise InvalidInput(
                f"`{given[0]}` gives the splits, and so does `{given[1] if len(given) > 1 else 'group'}`",
                "leave out one of them",
            )
        if self.harmonise and "abmil" in self.method:
            raise InvalidInput("`harmonise` changes vectors, and `method` abmil judges tiles", "leave out one of them")
        if self.save is not None and self.save.suffix != ".safetensors":
            raise InvalidInput(
                f"`save` is {self.save}; a head is a file .safetensors", f"name it {self.save.stem}.safetensors"
            )
        joins = [name for name in self.embedding if "+" in name or "::" in name]
        if joins and (self.save is not None or self.test is not None):
            raise InvalidInput(
                f"{joins[0]!r} is made for one table; `save` and `test` take embeddings of the store",
                "keep it there first: giga embed --join",
            )
        if self.save is not None and self.harmonise:
            raise InvalidInput("`save` keeps a head for vectors as they are", "leave out `harmonise`")
        if self.save is not None and self.method != ("linear",):
            raise InvalidInput("`save` keeps what `method` linear has learnt, and no other", "leave out `method`")

    def check_test(self) -> None:
        """Refuse another cohort without its labels, or with what divides the first one.

        Raises:
            InvalidInput: One of the two is missing, or an option makes no sense with them.
        """
        if (self.test is None) != (self.test_labels is None):
            raise InvalidInput("`test` and `test_labels` go together: another cohort, and its labels", "give both")
        if self.test is None:
            return
        wrong = [name for name in ("splits", "fraction", "n_train", "shots", "robust") if getattr(self, name)]
        wrong += [name for name in ("split_column", "site", "harmonise", "permutations") if getattr(self, name)]
        wrong += ["group site"] * (self.group == "site")
        wrong += [f"method {name}" for name in ("abmil", "retrieval") if name in self.method]
        if wrong:
            raise InvalidInput(
                "with `test` a probe is fitted on all slides of a cohort and judged on another, "
                f"which leaves nothing for {', '.join(wrong)}",
                "leave these out, or leave out `test`",
            )

    @property
    def splits_needed(self) -> bool:
        """Whether slides of the cohort are divided into those to fit on and those to judge on."""
        return self.test is None and self.method != ("retrieval",)

    @property
    def by_site(self) -> bool:
        """Whether sites are needed."""
        return self.site is not None or self.group == "site" or bool(self.harmonise)

    def check_task(self, task: TaskKind) -> None:
        """Refuse options that make no sense for a kind of task.

        Raises:
            InvalidInput: A method that cannot predict it, columns of times or a number of labels per class without any.
        """
        wrong = [method for method in self.method if method not in METHODS[task]]
        if wrong:
            raise InvalidInput(
                f"`method` {', '.join(wrong)} is nothing for a task of {task}",
                f"name some of {', '.join(METHODS[task])}",
            )
        if self.shots and task not in OF_CLASSES:
            raise InvalidInput(f"`shots` are labels per class, and a task of {task} has none", "use `n_train`")
        if task != "survival" and (self.time or self.event):
            raise InvalidInput(f"`time` and `event` are for a task of survival; this is {task}", "leave them out")

    def strength(self, task: TaskKind) -> float | Literal["auto"]:
        """C for a kind of task: the paper's number is for classes alone."""
        return self.c_value if task == "classification" or "c" in self.given else "auto"

    @property
    def c_value(self) -> float | Literal["auto"]:
        """C as a number, or "auto"."""
        if self.c == "auto":
            return "auto"
        try:
            value = float(self.c)
        except (TypeError, ValueError):
            value = 0.0
        if not 1e-12 <= value <= 1e12:
            raise InvalidInput(f"`c` is {self.c!r}; it must be a number between 1e-12 and 1e12, or auto")
        return value
