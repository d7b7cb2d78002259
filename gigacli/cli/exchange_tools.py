"""The commands by which results leave a store and those of other tools come in."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from gigacli.cli.command import DONE, Debug, Json, Quiet, StoreArgument, argument, guard, verb
from gigacli.config.tools import ImportConfig


def export(
    store: StoreArgument,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="embeddings/NAME, features/NAME, tiles, models/NAME or encoders/NAME; the name may be left out where "
            "there is one. Default: embeddings.",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", help="File (.csv, .parquet, .h5ad, .safetensors), or folder (npy, h5, geojson).")
    ] = ...,  # type: ignore[assignment]
    format: Annotated[  # noqa: A002 - the name of the flag
        str | None, typer.Option("--format", help="Of a folder; default: npy, for features h5, for tiles geojson.")
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Replace what an earlier export wrote there.")] = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Write results as files that other tools read.

    Vectors of slides as CSV, Parquet, AnnData, npy or TRIDENT's h5; features of tiles as h5 or npy; tiles as GeoJSON
    for QuPath; models and encoders as safetensors, for other cohorts.

    Example: giga export cohort.zarr embeddings/giga --to vectors.csv
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.exporting.export import export

        with console.ConsoleProgress(quiet=quiet) as progress:
            summary = export(store, what, to=to, format=cast(Any, format), redo=redo, progress=progress)
        console.show_json(summary) if json else console.show_summary("export", summary)
        return DONE

    guard(work, debug=debug)


def add_import() -> None:
    """Its flags are made from its configuration, as those of the verbs."""
    files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Feature files, or folders that hold them.")]
    verb(
        "import",
        ImportConfig,
        help_text="Take in tile features or slide vectors that another tool made.\n\nReads files of TRIDENT, CLAM, "
        "AtlasPatch, STAMP, slide2vec and LazySlide, or embeddings.npy and ids.npy, told apart by what is in them; "
        "writes slides/, tiles/ and features/NAME, or embeddings/NAME. giga train, embed and probe then need no slide.",
        example="giga import uni.zarr features_uni_v1/",
        arguments=[argument("store", StoreArgument), argument("files", files)],
        call=lambda run, given, options: run(given["store"], given["files"], **options),
        show=_show_import,
        home="gigacli.importing.features:import_features",
        panel="Tools",
    )


def _show_import(summary: Any) -> None:
    from gigacli.cli import console

    console.show_summary("import", summary)
    if summary.failures:
        console.show_table("failures", ("slide", "reason"), list(summary.failures.items()))
