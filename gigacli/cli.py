"""The command line: parse, call the stage, show what it returns. No logic.

Flags are generated from the configuration dataclasses, so name, type, default and help have one source.
Nothing heavy is imported before a command runs: ``giga --help`` must answer at once.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigacli import config as configs
from gigacli.errors import GigaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gigacli.options import Config

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="giga",
    help="One small vector per whole slide image, learnt without labels (Giga-SSL).\n\n"
    "tile -> pretrain-tiles -> bank -> train -> embed -> probe: six verbs around one zarr store per cohort.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no messages.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Path or URL of the cohort store.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,  # noqa: FBT002
) -> None:
    if version:
        from gigacli.version import __version__

        typer.echo(__version__)
        raise typer.Exit(DONE)


def _guard(work: Callable[[], int], *, debug: bool) -> None:
    """Run, turn errors into messages and exit codes."""
    from gigacli import console

    try:
        code = work()
    except GigaError as error:
        if debug:
            raise
        console.show_error(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        console.say("interrupted; what was finished is kept, run the same command again to go on")
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}"
        console.show_error(GigaError(text, "what was finished is kept; --debug shows where this came from"))
        code = FAILED
    raise typer.Exit(code)


def _option_type(annotation: Any) -> Any:
    """The type a flag is parsed as: Literal and unions with None as their base type, tuples as lists."""
    if typing.get_origin(annotation) is typing.Literal:
        return str
    if typing.get_origin(annotation) is tuple:
        return types.GenericAlias(list, typing.get_args(annotation)[:1])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        base: Any = _option_type(inner[0])
        return base | None
    return annotation


def _parameters(config: type[Config]) -> list[inspect.Parameter]:
    """One flag per field of a configuration."""
    hints = typing.get_type_hints(config)
    parameters = []
    for field in fields(config):
        flag = field.metadata["flag"] or "--" + field.name.replace("_", "-")
        if field.default is True:
            flag = f"--{field.name.replace('_', '-')}/--no-{field.name.replace('_', '-')}"
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        kind: Any = _option_type(hints[field.name])
        annotation = Annotated[kind, typer.Option(flag, help=field.metadata["help"])]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


def _verb(
    name: str,
    config: type[Config],
    *,
    help_text: str,
    example: str,
    arguments: list[inspect.Parameter],
    call: Callable[..., Any],
    show: Callable[[Any], None],
    environment: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Register a verb: its arguments, the flags of its configuration, and the flags all verbs share.

    Args:
        name: The verb.
        config: Its configuration; every field becomes a flag.
        help_text: What it does.
        example: A command line that can be run.
        arguments: Positional arguments, by name.
        call: Receives the stage's function, the arguments, the options and the progress; returns the summary.
        show: Shows the summary to a person.
        environment: Variables that libraries read when they are loaded, set where the user has not.
    """

    def run(context: typer.Context, **values: Any) -> None:
        def work() -> int:
            from gigacli import console

            speaks = os.environ.get("RANK", "0") == "0"  # torchrun starts several processes; the first one speaks
            options = {f.name: values[f.name] for f in fields(config) if _was_given(context, f.name)}
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            given = {p.name: values[p.name] for p in arguments}
            os.environ.update({k: v for k, v in environment.items() if k not in os.environ})
            with console.ConsoleProgress(quiet=values["quiet"] or not speaks) as progress:
                module = import_module(f"gigacli.stages.{name.replace('-', '_')}")
                summary = call(getattr(module, name.replace("-", "_")), given, {**options, "progress": progress})
            if speaks:
                console.show_json(summary) if values["json"] else show(summary)
            return FAILED if getattr(summary, "failed", 0) else DONE

        _guard(work, debug=values["debug"])

    shared = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for key, annotation in (("json", Json), ("quiet", Quiet), ("debug", Debug))
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *arguments, *_parameters(config), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(name, help=f"{help_text}\n\nExample: {example}", rich_help_panel="Verbs")(run)


def _was_given(context: typer.Context, name: str) -> bool:
    """Whether the user wrote an option: what is left out may follow the store (:meth:`Config.following`)."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _argument(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _show_summary(title: str) -> Callable[[Any], None]:
    def show(summary: Any) -> None:
        from gigacli import console

        console.show_summary(title, summary)
        failures = getattr(summary, "failures", {})
        if failures:
            console.show_table("failures", ("slide", "reason"), list(failures.items()))

    return show


def _show_tiles(summary: Any) -> None:
    from gigacli import console

    _show_summary("tile")(summary)
    if getattr(summary, "why_empty", {}):
        console.show_table("slides without tiles", ("slide", "reason"), list(summary.why_empty.items()))
    lowest = getattr(summary, "lowest", [])
    if len(lowest) > 1:
        console.show_table("fewest tiles", ("slide", "tiles"), lowest)
    if len(getattr(summary, "reasons", {})) < len(getattr(summary, "failures", {})):
        console.show_table("failures by reason", ("reason", "slides"), list(summary.reasons.items()))


def _show_scores(result: Any) -> None:
    from gigacli import console
    from gigacli.probing import report

    for title, rows in report.tables(result):
        console.show_table(title, report.COLUMNS, rows)
    for line in report.lines(result):
        console.say(line)


def _on_store(stage: Callable[..., Any], given: dict[str, Any], options: dict[str, Any]) -> Any:
    return stage(given["store"], **options)


STORE = _argument("store", StoreArgument)

_verb(
    "tile",
    configs.TileConfig,
    help_text="Register slides and find the tiles that hold tissue.\n\nReads slide files; writes slides/ and tiles/.",
    example="giga tile cohort.zarr slides/ --mpp 1.0",
    arguments=[
        STORE,
        _argument(
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
_verb(
    "pretrain-tiles",
    configs.PretrainTilesConfig,
    help_text="Train a tile encoder without labels (MoCo).\n\nReads tiles' pixels; writes encoders/NAME.",
    example="giga pretrain-tiles cohort.zarr --epochs 20 --max-tiles 100000",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("pretrain-tiles"),
)
_verb(
    "bank",
    configs.BankConfig,
    help_text="Embed tiles under shared augmentations, and all tiles once without.\n\n"
    "Reads tiles' pixels and an encoder; writes banks/NAME and features/NAME.",
    example="giga bank cohort.zarr --encoder random-resnet18",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("bank"),
)
_verb(
    "train",
    configs.TrainConfig,
    help_text="Train the slide encoder without labels (Giga-SSL).\n\nReads a bank; writes models/NAME. "
    "Continues an interrupted run by itself.",
    example="giga train cohort.zarr --tiles 5 --epochs 1000",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("train"),
)
_verb(
    "embed",
    configs.EmbedConfig,
    help_text="Give every slide its vector.\n\n"
    "Reads features and a model; writes embeddings/NAME, and the mean of tiles beside it.",
    example="giga embed cohort.zarr --views 50",
    arguments=[STORE],
    call=_on_store,
    show=_show_summary("embed"),
)
_verb(
    "probe",
    configs.ProbeConfig,
    help_text="Say what the vectors are worth: logistic regression on labels, beside the baselines.\n\n"
    "Reads embeddings and labels; writes nothing.",
    example="giga probe cohort.zarr --labels labels.csv --fraction 0.25",
    arguments=[
        _argument(
            "store",
            Annotated[
                str | None,
                typer.Argument(metavar="[STORE]", help="Default: $GIGA_STORE, ./cohort.zarr, or the only *.zarr here."),
            ],
            None,
        ),
        _argument("labels", Annotated[str, typer.Option("--labels", help="CSV: slide_id, label[, patient_id].")]),
    ],
    call=lambda stage, given, options: stage(given["store"], given["labels"], **options),
    show=_show_scores,
    environment={"OPENBLAS_NUM_THREADS": "1"},  # two threads wait longer for each other than such small fits take
)


@app.command("info", rich_help_panel="Tools")
def _info(store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:  # noqa: FBT002
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

    _guard(work, debug=debug)


@app.command("validate", rich_help_panel="Tools")
def _validate(store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:  # noqa: FBT002
    """Check a store against the specification; exit 1 where it departs from it.

    Example: giga validate cohort.zarr
    """

    def work() -> int:
        from gigacli import console
        from gigacli.store.validate import validate

        report = validate(store)
        if json:
            console.show_json(report)
        else:
            console.show_problems(report)
        return FAILED if report.problems else DONE

    _guard(work, debug=debug)


@app.command("demo", rich_help_panel="Tools")
def _demo(
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

    _guard(work, debug=debug)


def run_command(arguments: list[str]) -> int:
    """Run one command line in this process; its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    return int(code or DONE)
