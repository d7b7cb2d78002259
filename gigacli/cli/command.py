"""How a command is made: the application, exit codes, and flags from the configuration of a verb.

Flags are generated from the configuration dataclasses, so name, type, default and help have one source.
Nothing heavy is imported before a command runs: ``giga --help`` must answer at once.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import types
import typing
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigacli.errors import GigaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gigacli.config.base import Config

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


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFORESEEN = "what was finished is kept; giga validate STORE looks for damage, --debug shows where this came from"


def guard(work: Callable[[], int], *, debug: bool) -> None:
    """Run, turn errors into messages and exit codes."""
    from gigacli.cli import console

    try:
        code = work()
    except GigaError as error:
        if debug:
            raise
        console.show_error(error)
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_ROOM
        code = FAILED if full else BAD_INPUT
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of what was under way, whose errors no one awaits now
        console.say("interrupted; what was finished is kept, run the same command again to go on")
        code = INTERRUPTED
    except OSError as error:
        if debug:
            raise
        console.show_error(GigaError(_of_storage(error), "what was finished is kept: run the same command again"))
        code = FAILED
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}"
        console.show_error(GigaError(text, UNFORESEEN))
        code = FAILED
    raise typer.Exit(code)


def _of_storage(error: OSError) -> str:
    """What the system said, and what that means where it is about the disk."""
    if error.errno in NO_ROOM:
        return (
            f"there is no room for what was to be written: {error}; make room (giga doctor STORE says how much is free)"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"something may not be written or read: {error}; see who may (giga doctor STORE tries it)"
    return f"{type(error).__name__}: {error}; --debug shows where this came from"


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


def verb(
    name: str,
    config: type[Config],
    *,
    help_text: str,
    example: str,
    arguments: list[inspect.Parameter],
    call: Callable[..., Any],
    show: Callable[[Any], None],
    environment: Mapping[str, str] = types.MappingProxyType({}),
    home: str = "",
    panel: str = "Verbs",
) -> None:
    """Register a verb: its arguments, the flags of its configuration, and the flags all verbs share.

    A tool with a configuration of its own is registered alike.

    Args:
        name: The verb.
        config: Its configuration; every field becomes a flag.
        help_text: What it does.
        example: A command line that can be run.
        arguments: Positional arguments, by name.
        call: Receives the stage's function, the arguments, the options and the progress; returns the summary.
        show: Shows the summary to a person.
        environment: Variables that libraries read when they are loaded, set where the user has not.
        home: Module and name of the function, as ``module:name``; default: the stage of the verb's name.
        panel: Where ``giga --help`` lists it.
    """
    stage = name.replace("-", "_")
    module_name, _, function = (home or f"gigacli.stages.{stage}:{stage}").partition(":")

    def run(context: typer.Context, **values: Any) -> None:
        def work() -> int:
            from gigacli.cli import console

            speaks = os.environ.get("RANK", "0") == "0"  # torchrun starts several processes; the first one speaks
            options = {f.name: values[f.name] for f in fields(config) if _was_given(context, f.name)}
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            given = {p.name: values[p.name] for p in arguments}
            os.environ.update({k: v for k, v in environment.items() if k not in os.environ})
            with console.ConsoleProgress(quiet=values["quiet"] or not speaks) as progress:
                summary = call(getattr(import_module(module_name), function), given, {**options, "progress": progress})
            if speaks:
                console.show_json(summary) if values["json"] else show(summary)
            return FAILED if getattr(summary, "failed", 0) else DONE

        guard(work, debug=values["debug"])

    shared = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for key, annotation in (("json", Json), ("quiet", Quiet), ("debug", Debug))
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *arguments, *_parameters(config), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(name, help=f"{help_text}\n\nExample: {example}", rich_help_panel=panel)(run)


def _was_given(context: typer.Context, name: str) -> bool:
    """Whether the user wrote an option: what is left out may follow the store (:meth:`Config.following`)."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def argument(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """A positional argument or an option that no configuration has."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def run_command(arguments: list[str]) -> int:
    """Run one command line in this process; its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    return int(code or DONE)
