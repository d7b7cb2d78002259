"""Making of commands: the application, exit codes, and flags from the command's configuration.

Flags are generated from the configuration dataclasses, so name, type, choices, default and help have one source.
Nothing heavy is imported before a command runs: ``giga --help`` must answer at once.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from gigacli.config.base import Config, choices_of, help_of, kinds_of
from gigacli.errors import GigaError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="giga",
    help="One small vector per whole slide image, learnt without labels (Giga-SSL).\n\n"
    "tile -> pretrain-tiles -> bank -> train -> embed -> probe: six verbs around one zarr store per cohort.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,  # noqa: FBT002
) -> None:
    if version:
        from gigacli.version import __version__

        typer.echo(__version__)
        raise typer.Exit(DONE)


@dataclass(frozen=True)
class Argument:
    """An argument of a command that no configuration has."""

    name: str  # name of the function's parameter
    help: str  # what it is
    _: KW_ONLY
    metavar: str = ""  # name of a positional one in the usage line
    flag: str = ""  # flag of one that is not positional
    kind: Any = str  # its type
    default: Any = inspect.Parameter.empty  # its default value; without one it is required


STORE = Argument(
    "store",
    "Path or URL of the cohort store. Default: $GIGA_STORE, ./cohort.zarr, or the only *.zarr here.",
    metavar="[STORE]",
    kind=str | None,
    default=None,
)
"""First argument of every command that is about a store; :mod:`gigacli.cli.default_store` finds one left out."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of ``giga``: a function of the library, with flags for its options."""

    name: str  # what the user types
    config: type[Config]  # the configuration of the function; every field becomes a flag
    home: str  # ``module:name`` of the function, which is imported when the command runs
    help: str  # what it does; the first paragraph is shown by ``giga --help``
    example: str  # a command line that can be run
    # its arguments that are no options; positional ones are given in this order
    arguments: tuple[Argument, ...] = (STORE,)
    # ``module:name`` of what shows the function's result to a person, and may return an exit code; default:
    # :func:`gigacli.cli.console.show_result`
    show: str = ""
    failed: str = "failed"  # field of the result that tells, if it is not 0 or empty, that something failed
    json: bool = True  # whether the result can be printed as JSON
    # names and values of variables that libraries read when they are loaded, set where the user has not
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def flags(self) -> dict[str, str]:
        """The flag, or the positional argument, of every parameter of the function."""
        named = {a.name: a.flag or a.metavar.strip("[].") for a in self.arguments}
        return named | {f.name: f.metadata["flag"] or f"--{f.name.replace('_', '-')}" for f in fields(self.config)}


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """Return a text of the library, which speaks of parameters, in the words of the command line.

    Args:
        text: For example "`batch_size` is 1", or "set `redo=True`".
        flags: Flag of every parameter; what is not among them stays as it is.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in flags:
            return found[0]
        if value == "False":
            return flags[name].replace("--", "--no-", 1)
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return re.sub(r"`(\w+)(?:=['\"]?([^`]+?)['\"]?)?`", flag, text)


SHARED = {
    "json": "Print one JSON object on standard output.",
    "quiet": "No progress and no messages.",
    "debug": "Show the traceback of an error.",
}
"""Flags of every command."""


def add(command: Command) -> None:
    """Register a command: its arguments, the flags of its configuration, and the flags all commands share.

    ``giga --help`` lists the stages as verbs, the others as tools.
    """

    def run(context: typer.Context, **values: Any) -> None:
        from gigacli.cli import console

        with console.speaking_of(command.flags, quiet=values["quiet"]):
            work = partial(_run, command, context, values)
            raise typer.Exit(_guarded(work, values))

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    shared = [
        _parameter(name, bool, False, typer.Option(f"--{name}", help=text))  # noqa: FBT003 - a default
        for name, text in SHARED.items()
        if name != "json" or command.json
    ]
    parameters = [first, *map(_argument, command.arguments), *_options(command), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    text = f"{command.help}\n\nExample: {command.example}"
    panel = "Verbs" if command.home.startswith("gigacli.stages.") else "Tools"
    app.command(command.name, help=text, rich_help_panel=panel, cls=_Words)(run)


class _Words(TyperCommand):
    """A command whose flag ``--join`` takes several words, as in ``--join A B``, and whose usage is as we write it."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments as the table of commands has them."""
        return ["[OPTIONS]", *(p.metavar for p in self.params if p.param_type_name == "argument" and p.metavar)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before each word up to the next flag."""
        if "--join" in args:
            start = args.index("--join") + 1
            end = next((i for i in range(start, len(args)) if args[i].startswith("-")), len(args))
            args = [*args[: start - 1], *(part for word in args[start:end] for part in ("--join", word)), *args[end:]]
        return super().parse_args(ctx, args)


def _run(command: Command, context: typer.Context, values: dict[str, Any]) -> int:
    """Call the command's function with what the user gave, show what it returns, and return the exit code."""
    from gigacli.cli import console
    from gigacli.cli.default_store import settle
    from gigacli.cli.streams import Output

    settle(command.arguments, values)
    speaks = os.environ.get("RANK", "0") == "0"  # torchrun starts several processes; the first one speaks
    sources = {f.name: context.get_parameter_source(f.name) for f in fields(command.config)}
    # what the user left out may follow the store: Config.following
    given = {name: values[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
    given |= {a.name: values[a.name] for a in command.arguments if a.flag}
    if piped := given.get("to") == "-":
        given["to"] = Output()
    os.environ.update({k: v for k, v in command.environment if k not in os.environ})
    function = _load(command.home)
    with console.ConsoleProgress(quiet=not speaks) as progress:
        if "progress" in inspect.signature(function).parameters:
            given["progress"] = progress
        result = function(*(values[a.name] for a in command.arguments if not a.flag), **given)
    code = FAILED if getattr(result, command.failed, 0) else DONE
    if not speaks:
        return code
    with console.beside_output(taken=piped):
        if values.get("json"):
            console.show_json(result)
        elif command.show:
            return _load(command.show)(result) or code
        else:
            console.show_result(command.name, result)
    return code


def _load(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


def _parameter(name: str, kind: Any, default: Any, shown: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, shown])


def _argument(argument: Argument) -> inspect.Parameter:
    if argument.flag:
        return _parameter(
            argument.name, argument.kind, argument.default, typer.Option(argument.flag, help=argument.help)
        )
    shown, kind, default = typer.Argument(metavar=argument.metavar, help=argument.help), argument.kind, argument.default
    if default is inspect.Parameter.empty:  # settle() looks for it: the store before it may have been left out
        kind, default = (kind, ()) if kind == list[str] else (kind | None, None)
    return _parameter(argument.name, kind, default, shown)


def _options(command: Command) -> list[inspect.Parameter]:
    """One flag per field of the configuration; its choices are what a shell completes."""
    kinds, help_texts, flags = kinds_of(command.config), help_of(command.config), command.flags
    parameters = []
    for field in fields(command.config):
        name, kind = field.name, kinds[field.name]
        default: Any = field.default
        flag = f"{flags[name]}/--no-{flags[name][2:]}" if default is True else flags[name]
        choices = choices_of(kind)
        if get_origin(kind) is tuple:
            inner: Any = str if choices else get_args(kind)[0]
            kind, default = list[inner], list(default)
        elif choices:
            kind = str
        complete = _completion(choices) if choices else None
        shown = typer.Option(flag, help=in_flags(help_texts[name], flags), autocompletion=complete)
        parameters.append(_parameter(name, kind | None if default is None else kind, default, shown))
    return parameters


def _completion(choices: tuple[str, ...]) -> Callable[[], list[str]]:
    return lambda: list(choices)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STALE = "RECIPE-3"
"""The rule of results whose input was replaced: nothing is wrong with their documents."""

UNFORESEEN = "what was finished is kept; giga validate STORE looks for damage, --debug shows where this came from"


def _guarded(work: Callable[[], int], values: Mapping[str, Any]) -> int:
    """Run, and turn errors into messages and exit codes.

    Args:
        work: Gives the exit code.
        values: Of the command line: the store it is about, and whether errors are to be raised instead.
    """
    from gigacli.cli import console

    debug = values["debug"]
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
        shown = GigaError(f"{type(error).__name__}: {error}", UNFORESEEN)
        damage = _damage(values["store"]) if values.get("store") is not None else None
        console.show_error(damage or shown)
        code = BAD_INPUT if damage else FAILED
    return code


def _damage(store: str) -> GigaError | None:
    """Say what is wrong with the documents of a store that a command stumbled over; None where nothing is.

    They may come from anyone and say anything; so one place looks, in the end, and not everyone who reads them.
    """
    from gigacli.store.describe import check_opening
    from gigacli.store.store import Store
    from gigacli.store.validate import validate

    try:
        problems = [p for p in validate(store, level="consistency").problems if p.rule != STALE]
        problems = problems or check_opening(Store.open(store))
    except GigaError as error:
        return error
    except Exception as error:  # the command's own error says more
        logging.getLogger(__name__).debug("validate failed, too: %r", error)
        return None
    if not problems:
        return None
    first = problems[0]
    more = f", and {len(problems) - 1} more" if problems[1:] else ""
    return GigaError(
        f"{store} is not as the format has it: {first.rule} {first.path}: {first.message}{more}",
        f"see all of it: giga validate {store} --level consistency",
    )


def _of_storage(error: OSError) -> str:
    """Explain an error of the system where it is about the disk."""
    if error.errno in NO_ROOM:
        return f"there is no room to write: {error}; make room (giga doctor STORE says how much is free)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"something may not be written or read: {error}; see who may (giga doctor STORE tries it)"
    return f"{type(error).__name__}: {error}; --debug shows where this came from"


def run_command(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    return int(code or DONE)
