"""What options of several commands have in common: their limits and their words."""

from __future__ import annotations

from functools import partial
from typing import Literal

from gigacli.config.base import Limits, option

run_option = partial(option, result=False)
"""An option that does not change what is computed (how many workers, which shard): it is left out of the recipe."""

Precision = Literal["auto", "bf16", "fp32"]
Preset = Literal["default", "paper"]
Tracker = Literal["wandb", "mlflow"]

PASSES: Limits = (1, 1_000_000)
BATCHES: Limits = (3, 65536)
"""In batches of two, an odd number of slides leaves one by itself."""

COUNTS: Limits = (1, 1_000_000_000)
RATES: Limits = (1e-12, 1000)
TEMPERATURES: Limits = (0.001, 100)
"""Similarities of 1 are divided by it: less than a thousandth leaves numbers that exp cannot hold."""

DEVICE = "auto, cpu, cuda or cuda:I."
SEED = "Seed of everything random."
SHARD = "Do only part I of N of the slides, as I/N."
DASK = "Address of a Dask scheduler whose workers share the slides."
SYNC = "Wait for the disk before a slide, or a checkpoint, counts as done: then a power cut takes nothing that does."
LOG_DIR = "Folder for TensorBoard, which must be installed: the extra tensorboard."
TRACKER = (
    "Tell another tracker, too, which must be installed: the extra of that name. Where it keeps runs is for its own "
    "settings to say: WANDB_PROJECT, WANDB_MODE=offline; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."
)
MAG = "The same as a magnification: 10 means `mpp` 1.0."
PRECISION = "Floating point of the network; auto is bf16 where the device computes in it."
