"""The six verbs on the command line: parse, call the stage, show what it returns. No logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigacli.cli.command import StoreArgument, app, argument, verb
from gigacli.cli.tools import add_tools
from gigacli.config import verbs as configs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app"]


def _show_summary(title: str) -> Callable[[Any], None]:
    def show(summary: Any) -> None:
        from gigacli.cli import console

        console.show_summary(title, summary)
        failures = getattr(summary, "failures", {})
        if failures:
            console.show_table("failures", ("slide", "reason"), list(failures.items()))

    return show


def _show_tiles(summary: Any) -> None:
    from gigacli.cli import console

    _show_summary("tile")(summary)
    if getattr(summary, "why_empty", {}):
        console.show_table("slides without tiles", ("slide", "reason"), list(summary.why_empty.items()))
    lowest = getattr(summary, "lowest", [])
    if len(lowest) > 1:
        console.show_table("fewest tiles", ("slide", "tiles"), lowest)
    if len(getattr(summary, "reasons", {})) < len(getattr(summary, "failures", {})):
        console.show_table("failures by reason", ("reason", "slides"), list(summary.reasons.items()))


def _show_scores(result: Any) -> None:
    from gigacli.cli import console
    from gigacli.probing import results as report

    for title, rows in report.tables(result):
        console.show_table(title, report.COLUMNS, rows)
    for line in report.lines(result):
        console.say(line)


def _on_store(stage: Callable[..., Any], given: dict[str, Any], options: dict[str, Any]) -> Any:
    return stage(given["store"], **options)


STORE = argument("store", StoreArgument)

verb(
    "tile",
    configs.TileConfig,
    help_text="Register slides and find the tiles that hold tissue.\n\nReads slide files; writes slides/ and tiles/.",
    example="giga tile cohort.zarr slides/ --mpp 1.0",
    arguments=[
        STORE,
        argument(
            "slides",
            Annotated[
                list[str] | None,
                typer.Argument(metavar="[SLIDES]...", help="Slide files, folders, or a CSV of slides."),
            ],
            None,
        ),
    ],
    call=lambda stage, given, options: stage(given["store"], given["slides"] or (), **options),
    show=_show_tiles,
)
verb(
    "pretrain-tiles",
    configs.PretrainTilesConfig,
    help_text="Train a tile encoder without labels (MoCo).\n\nReads tiles' pixels; writes encoders/NAME.",
    example="giga pretrain-tiles cohort.zarr --epochs 20 --max-tiles 100000",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("pretrain-tiles"),
)
verb(
    "bank",
    configs.BankConfig,
    help_text="Embed tiles under shared augmentations, and all tiles once without.\n\n"
    "Reads tiles' pixels and an encoder; writes banks/NAME and features/NAME.",
    example="giga bank cohort.zarr --encoder random-resnet18",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("bank"),
)
verb(
    "train",
    configs.TrainConfig,
    help_text="Train the slide encoder without labels (Giga-SSL).\n\nReads a bank; writes models/NAME. "
    "Continues an interrupted run by itself.",
    example="giga train cohort.zarr --tiles 5 --epochs 1000",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("train"),
)
verb(
    "embed",
    configs.EmbedConfig,
    help_text="Give every slide its vector.\n\n"
    "Reads features and a model; writes embeddings/NAME, and the mean of tiles beside it.",
    example="giga embed cohort.zarr --views 50",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("embed"),
)
verb(
    "probe",
    configs.ProbeConfig,
    help_text="Say what the vectors are worth: logistic regression on labels, beside the baselines.\n\n"
    "Reads embeddings and labels; writes nothing.",
    example="giga probe cohort.zarr --labels labels.csv --fraction 0.25",
    arguments=[
        argument(
            "store",
            Annotated[
                str | None,
                typer.Argument(metavar="[STORE]", help="Default: $GIGA_STORE, ./cohort.zarr, or the only *.zarr here."),
            ],
            None,
        ),
        argument("labels", Annotated[str, typer.Option("--labels", help="CSV: slide_id, label[, patient_id].")]),
    ],
    call=lambda stage, given, options: stage(given["store"], given["labels"], **options),
    show=_show_scores,
    environment={"OPENBLAS_NUM_THREADS": "1"},  # two threads wait longer for each other than such small fits take
)

add_tools()
