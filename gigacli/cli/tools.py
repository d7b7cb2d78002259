"""The commands beside the six verbs: what is in a store, whether it is sound, and a demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gigacli.cli.command import DONE, FAILED, Debug, Json, Quiet, StoreArgument, app, guard, run_command
from gigacli.cli.exchange_tools import add_import, export
from gigacli.cli.report_tools import report, tile_map

if TYPE_CHECKING:
    from collections.abc import Callable


def add_tools() -> None:
    """Register them, in the order in which ``giga --help`` lists them."""
    tools: dict[str, Callable[..., None]] = {"info": info, "validate": validate, "export": export}
    for name, tool in tools.items():
        app.command(name, rich_help_panel="Tools")(tool)
    add_import()
    tools = {"report": report, "tile-map": tile_map, "doctor": doctor, "demo": demo}
    for name, tool in tools.items():
        app.command(name, rich_help_panel="Tools")(tool)


def info(
    store: StoreArgument,
    slides: Annotated[bool, typer.Option("--slides", help="How far every slide is, one a line.")] = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Say what a store holds and what to run next.

    Example: giga info cohort.zarr
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.store.info import info

        found = info(store, slides=slides)
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
        from gigacli.cli import console
        from gigacli.store.validate import validate

        report = validate(store, level=cast(Any, level))
        if json:
            console.show_json(report)
        else:
            console.show_problems(report)
        return FAILED if report.problems else DONE

    guard(work, debug=debug)


def doctor(
    store: Annotated[
        str | None, typer.Argument(metavar="[STORE]", help="A store, or where one shall be; default: this folder.")
    ] = None,
    self_test: Annotated[  # noqa: FBT002
        bool, typer.Option("--self-test/--no-self-test", help="Take a few drawn slides through the verbs.")
    ] = True,
    json: Json = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Say whether giga works on this machine, and what to do where it does not; exit 1 then.

    Looks at packages, OpenSlide, torch and its GPUs, processors, memory, and the disk of a store.

    Example: giga doctor cohort.zarr
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.doctor.checks import doctor

        with console.ConsoleProgress(quiet=quiet) as progress:
            report = doctor(store, self_test=self_test, progress=progress)
        if json:
            console.show_json(report)
        else:
            console.show_checks(report)
        return FAILED if report.broken else DONE

    guard(work, debug=debug)


def demo(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to put slides and store.")] = "giga-demo",
    quick: Annotated[  # noqa: FBT002
        bool, typer.Option("--quick", help="Few small slides and short training: only to see that it runs.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    quiet: Quiet = False,  # noqa: FBT002
    debug: Debug = False,  # noqa: FBT002
) -> None:
    """Draw a small synthetic cohort and run the six verbs on it: a smoke test, not evidence.

    Example: giga demo giga-demo
    """

    def work() -> int:
        from gigacli.cli import console
        from gigacli.demo.run import NOTICE
        from gigacli.demo.run import demo as draw

        with console.ConsoleProgress(quiet=quiet) as progress:
            drawn = draw(folder, seed=seed, quick=quick, progress=progress)
        for line in drawn.steps:
            console.say(f"$ giga {' '.join(line)}", to_out=True)
            code = run_command([*line, "--quiet"] if quiet else list(line))
            if code != DONE:
                return code
        console.say(NOTICE, to_out=True)
        return DONE

    guard(work, debug=debug)
