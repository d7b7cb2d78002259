"""The commands beside the six verbs: what is in a store, whether it is sound, and a demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigacli.command import (
    DONE,
    FAILED,
    Debug,
    Json,
    Quiet,
    StoreArgument,
    app,
    argument,
    guard,
    run_command,
    verb,
)
from gigacli.importing.config import ImportConfig
from gigacli.report_tools import report, tile_map

if TYPE_CHECKING:
    from collections.abc import Callable


def add_tools() -> None:
    """Register them, in the order in which ``giga --help`` lists them."""
    tools: dict[str, Callable[..., None]] = {"info": info, "validate": validate, "export": export}
    for name, tool in tools.items():
        app.command(name, rich_help_panel="Tools")(tool)
    add_import()
    tools = {"report": report, "tile-map": tile_map, "demo": demo}
    for name, tool in tools.items():
        app.command(name, rich_help_panel="Tools")(tool)


def info(store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:  # noqa: FBT002
    """Say what a store holds and what to run next.

    Example: giga info cohort.zarr
    """

    def work() -> int:
        from gigacli import console
        from gigacli.store.info import info

        found = info(store)
        if json:
            console.show_json(found)
        else:
            console.show_info(found)
        return DONE

    guard(work, debug=debug)


def validate(
    store: StoreArgument,
    level: Annotated[
        str,
        typer.Option(
            "--level", help="The last to check of attributes, hierarchy, consistency, values (reads all data)."
        ),
    ] = "values",
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Check a store against the specification; exit 1 where it departs from it.

    Example: giga validate cohort.zarr --level consistency
    """

    def work() -> int:
        from gigacli import console
        from gigacli.store.validate import validate

        report = validate(store, level=level)
        if json:
            console.show_json(report)
        else:
            console.show_problems(report)
        return FAILED if report.problems else DONE

    guard(work, debug=debug)


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
        from gigacli import console
        from gigacli.exporting.export import export

        with console.ConsoleProgress(quiet=quiet) as progress:
            summary = export(store, what, to=to, format=format, redo=redo, progress=progress)
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
        example="giga import cohort.zarr features/",
        arguments=[argument("store", StoreArgument), argument("files", files)],
        call=lambda run, given, options: run(given["store"], given["files"], **options),
        show=_show_import,
        home="gigacli.importing.features:import_features",
        panel="Tools",
    )


def _show_import(summary: Any) -> None:
    from gigacli import console

    console.show_summary("import", summary)
    if summary.failures:
        console.show_table("failures", ("slide", "reason"), list(summary.failures.items()))


def demo(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to put slides and store.")] = "giga-demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Draw a small synthetic cohort and run the six verbs on it: a smoke test, not evidence.

    Example: giga demo giga-demo
    """

    def work() -> int:
        from gigacli import console
        from gigacli.demo.run import NOTICE, prepare, steps

        with console.ConsoleProgress(quiet=quiet) as progress:
            cohort = prepare(folder, seed=seed, progress=progress)
        for line in steps(cohort, seed=seed):
            console.say(f"$ giga {' '.join(line)}", to_out=True)
            code = run_command([*line, "--quiet"] if quiet else list(line))
            if code != DONE:
                return code
        console.say(NOTICE, to_out=True)
        return DONE

    guard(work, debug=debug)
