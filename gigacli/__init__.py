"""Giga-SSL (Lazard et al., CVPRW 2023): one small vector per whole slide image, learnt without labels.

In a notebook verbs and tools show their progress while they run, and what they return as tables; a store shows its
tree, and giga.plots draws what it holds. Elsewhere giga.show_progress() shows progress, too.

The six verbs of the command line are functions here, resolved when first used, so that importing the
package imports no torch::

    import gigacli as giga

    giga.tile("cohort.zarr", "slides/", mpp=1.0)
    giga.bank("cohort.zarr", encoder="random-resnet18")
    giga.train("cohort.zarr")
    giga.embed("cohort.zarr")
    result = giga.probe("cohort.zarr", "labels.csv")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gigacli.progress import is_notebook, listen, unheard
from gigacli.version import __version__

_HOMES = {
    **{verb: f"gigacli.stages.{verb}" for verb in ("tile", "pretrain_tiles", "bank", "train", "embed", "probe")},
    "encoders": "gigacli.weights.encoders",
    "export": "gigacli.exporting.export",
    "import_features": "gigacli.importing.features",
    "info": "gigacli.store.info",
    "merge": "gigacli.cohort.merging",
    "plots": "gigacli.reporting.plots",
    "predict": "gigacli.exporting.predict",
    "report": "gigacli.reporting.report",
    "search": "gigacli.reporting.search",
    "show_progress": "gigacli.cli.notebook",
    "subset": "gigacli.cohort.merging",
    "tile_map": "gigacli.reporting.tile_map",
    "open": "gigacli.store.store",
    "pack": "gigacli.store.pack",
    "Store": "gigacli.store.store",
    "validate": "gigacli.store.validate",
    "view": "gigacli.viewing.view",
    "GigaError": "gigacli.errors",
}

__all__ = [
    "GigaError",
    "Store",
    "__version__",
    "bank",
    "embed",
    "encoders",
    "export",
    "import_features",
    "info",
    "merge",
    "open",
    "pack",
    "predict",
    "pretrain_tiles",
    "probe",
    "report",
    "search",
    "show_progress",
    "subset",
    "tile",
    "tile_map",
    "train",
    "validate",
    "view",
]

if TYPE_CHECKING:
    from gigacli.cli.notebook import show_progress
    from gigacli.cohort.merging import merge, subset
    from gigacli.errors import GigaError
    from gigacli.exporting.export import export
    from gigacli.exporting.predict import predict
    from gigacli.importing.features import import_features
    from gigacli.reporting import plots as plots
    from gigacli.reporting.report import report
    from gigacli.reporting.search import search
    from gigacli.reporting.tile_map import tile_map
    from gigacli.stages.bank import bank
    from gigacli.stages.embed import embed
    from gigacli.stages.pretrain_tiles import pretrain_tiles
    from gigacli.stages.probe import probe
    from gigacli.stages.tile import tile
    from gigacli.stages.train import train
    from gigacli.store.info import info
    from gigacli.store.pack import pack
    from gigacli.store.store import Store
    from gigacli.store.store import open_store as open  # noqa: A004 - giga.open(...)
    from gigacli.store.validate import validate
    from gigacli.viewing.view import view
    from gigacli.weights.encoders import encoders


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gigacli' has no attribute {name!r}")
    if name == "plots":
        return import_module("gigacli.reporting.plots")
    return getattr(import_module(_HOMES[name]), {"open": "open_store"}.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def _by_default() -> Any:
    """What hears of a call that is given no progress: in a notebook its cell, elsewhere nobody."""
    return import_module("gigacli.cli.notebook").NotebookProgress() if is_notebook() else unheard()


listen(_by_default)
