"""The commands for looking: a page about a cohort, and a map of one slide."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gigacli.cli.command import DONE, Debug, Json, Quiet, StoreArgument, guard

LabelsOption = typer.Option("--labels", help="CSV: slide_id, label[, patient_id] and any other columns.")
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:I.")]


def report(
    store: StoreArgument,
    labels: Annotated[str | None, LabelsOption] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="Column to probe (repeatable).")] = None,
    embedding: Annotated[
        list[str] | None, typer.Option("--embedding", help="An embedding to show (repeatable); default: all.")
    ] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option("--fraction", help="Share of the training labels (repeatable); default: 0.25, 0.5 and 1."),
    ] = None,
    splits: Annotated[
        str | None, typer.Option("--splits", help="Folder with split_*.csv (columns train, test).")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="The page; default: STORE-report.html here.")] = None,
    thumbnails: Annotated[int, typer.Option("--thumbnails", help="Slides of which a picture is drawn, at most.")] = 96,
    workers: Annotated[int | None, typer.Option("--workers", help="Threads that read slides; default: all.")] = None,
    seed: Seed = 0,
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Show a whole cohort on one HTML page that needs no network: slides, training, vectors, probe, recipes.

    Example: giga report cohort.zarr --labels labels.csv
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.reporting.report import report

        with console.ConsoleProgress(quiet=quiet) as progress:
            summary = report(
                store,
                labels,
                target=tuple(target or ()),
                embedding=tuple(embedding or ()),
                fraction=tuple(fraction or ()),
                splits=splits,
                out=out,
                thumbnails=thumbnails,
                workers=workers,
                seed=seed,
                progress=progress,
            )
        return _show("report", summary, json=json)

    guard(work, debug=debug)


def tile_map(
    store: StoreArgument,
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="Id of the slide.")],
    labels: Annotated[str, LabelsOption],
    target: Annotated[str | None, typer.Option("--target", help="Column of the labels; default: label.")] = None,
    positive: Annotated[
        str | None, typer.Option("--class", help="The class to explain, against all others; default: the slide's own.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option("--embedding", help="The embedding; may be left out when there is one.")
    ] = None,
    views: Annotated[int, typer.Option("--views", help="Views that every tile is in; more of them, less noise.")] = 100,
    out: Annotated[str, typer.Option("--out", help="Folder for the picture and the GeoJSON.")] = ".",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Show which tiles of a slide pull its vector towards a class: a picture, and GeoJSON for QuPath.

    Example: giga tile-map cohort.zarr SLIDE --labels labels.csv --class tumour
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.reporting.tile_map import tile_map

        with console.ConsoleProgress(quiet=quiet) as progress:
            summary = tile_map(
                store,
                slide,
                labels,
                target=target,
                positive=positive,
                embedding=embedding,
                views=views,
                out=out,
                device=device,
                seed=seed,
                progress=progress,
            )
        return _show("tile-map", summary, json=json)

    guard(work, debug=debug)


def _show(title: str, summary: Any, *, json: bool) -> int:
    from gigacli.cli import console

    if json:
        console.show_json(summary)
        return DONE
    console.show_summary(title, summary)
    for line in [*summary.notes, *(f"wrote {file}" for file in summary.files)]:
        console.say(line, to_out=True)
    return DONE
