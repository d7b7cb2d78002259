"""The Python functions show every option: their signatures and docstrings are those of the configurations."""

import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Literal, Union

import pytest

from gigacli.config import tools, verbs
from gigacli.config.bank import BankConfig
from gigacli.config.base import help_of, options_of
from gigacli.config.probe import ProbeConfig
from gigacli.errors import InvalidInput
from gigacli.progress import SILENT, Progress

FUNCTIONS = {
    "gigacli.stages.tile:tile": verbs.TileConfig,
    "gigacli.stages.pretrain_tiles:pretrain_tiles": verbs.PretrainTilesConfig,
    "gigacli.stages.bank:bank": BankConfig,
    "gigacli.stages.train:train": verbs.TrainConfig,
    "gigacli.stages.embed:embed": verbs.EmbedConfig,
    "gigacli.stages.probe:probe": ProbeConfig,
    "gigacli.store.info:info": tools.InfoConfig,
    "gigacli.store.validate:validate": tools.ValidateConfig,
    "gigacli.store.pack:pack": tools.PackConfig,
    "gigacli.cohort.merging:merge": tools.CopyConfig,
    "gigacli.cohort.merging:subset": tools.CopyConfig,
    "gigacli.exporting.export:export": tools.ExportConfig,
    "gigacli.importing.features:import_features": tools.ImportConfig,
    "gigacli.reporting.report:report": tools.ReportConfig,
    "gigacli.reporting.tile_map:tile_map": tools.TileMapConfig,
    "gigacli.reporting.search:search": tools.SearchConfig,
    "gigacli.viewing.view:view": tools.ViewConfig,
    "gigacli.exporting.predict:predict": tools.PredictConfig,
    "gigacli.doctor.checks:doctor": tools.DoctorConfig,
    "gigacli.demo.run:demo": tools.DemoConfig,
}
WITHOUT_PROGRESS = ("info", "validate", "predict", "view")

every_function = pytest.mark.parametrize(("home", "cls"), FUNCTIONS.items(), ids=[h.split(":")[1] for h in FUNCTIONS])


def function(home):
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


def accepted(kind):
    """What a function takes for a field: text for a path too, one value of several as it is."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and arguments[0] is Path:
        return str | Path | Sequence[str | Path]
    if typing.get_origin(kind) is tuple:
        return arguments[0] | Sequence[arguments[0]] if arguments[0] in (str, int, float) else None
    return Union[str, kind] if kind is Path or Path in arguments else kind  # noqa: UP007 - of a variable


def annotation(text, home):
    names = {**vars(verbs), **vars(tools), **vars(import_module(home.split(":")[0]))}
    return eval(text, {**names, "Sequence": Sequence, "Path": Path, "Progress": Progress, "Literal": Literal})


@every_function
def test_a_signature_spells_out_the_options(home, cls):
    found = inspect.signature(function(home))
    parameters = dict(found.parameters)
    assert "config" not in parameters
    options = [f.name for f in fields(cls)]
    last = [] if function(home).__name__ in WITHOUT_PROGRESS else ["progress"]
    assert list(parameters)[-len(options + last) :] == options + last
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        parameter = parameters[field.name]
        assert parameter.kind is parameter.KEYWORD_ONLY
        default = Path(parameter.default) if isinstance(field.default, Path) else parameter.default
        assert (default, type(default)) == (field.default, type(field.default)), field.name
        expected = accepted(hints[field.name])
        if expected is None:  # of choices, repeatable
            choices = typing.get_args(hints[field.name])[0]
            expected = Union[choices, Sequence[choices]]  # noqa: UP007 - of a variable
        assert annotation(parameter.annotation, home) == expected, field.name
    if last:
        assert (parameters["progress"].annotation, parameters["progress"].default) == ("Progress", SILENT)
    assert "config" not in function(home).__annotations__


@every_function
def test_a_docstring_lists_the_arguments_and_the_options(home, cls):
    text = inspect.getdoc(function(home))
    block = re.search(r"^Args:\n((?:    .*\n?)+)", text, re.MULTILINE)[1]
    listed = re.split(r"^    (?=\w+: )", block, flags=re.MULTILINE)[1:]
    found = {name: " ".join(help_text.split()) for name, _, help_text in (one.partition(": ") for one in listed)}
    assert list(found) == list(inspect.signature(function(home)).parameters)
    assert help_of(cls).items() <= found.items()


@every_function
def test_the_body_reads_the_configuration_and_no_option(home, cls):
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(function(home)))).body
    names = [node for part in body.body for node in ast.walk(part) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert {node.id for node in names} & {f.name for f in fields(cls)} <= stored


@every_function
def test_an_unknown_option_is_answered_with_the_known_ones(home, cls):
    with pytest.raises(InvalidInput, match="unknown option colour") as caught:
        function(home)("there.zarr", colour=1)
    assert caught.value.hint == f"options are: {', '.join(f.name for f in fields(cls))}"


@options_of(tools.ValidateConfig)
def example(config, store, *, level="values", progress=SILENT):
    """Do something.

    Args:
        store: The store.
        progress: Progress receiver.
    """
    return config, store, level, progress


def test_what_was_given_is_in_the_configuration():
    config, store, _, progress = example("a.zarr", level="hierarchy")
    assert (config.level, store, progress) == ("hierarchy", "a.zarr", SILENT)
    assert config.given == {"level"}
    assert example("a.zarr", progress=None)[0].given == frozenset()
    assert example("a.zarr")[3] is SILENT


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="`level` is 'all'; it must be one of attributes, hierarchy, consistency"):
        example("a.zarr", level="all")


def test_functions_are_found_by_their_name():
    assert (example.__name__, example.__qualname__, example.__module__) == ("example", "example", __name__)
