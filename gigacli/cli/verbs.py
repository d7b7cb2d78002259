"""The table of the six verbs; every command of ``giga`` is added to the application here."""

from __future__ import annotations

from gigacli.cli.command import STORE, Argument, Command, add, app
from gigacli.cli.tools import TOOLS
from gigacli.config import verbs as configs
from gigacli.config.bank import BankConfig
from gigacli.config.probe import ProbeConfig

__all__ = ["VERBS", "app"]

SLIDES = "Slide files, folders, or a CSV of slides."
LABELS = "CSV, TSV, xlsx or Parquet: slide_id, label[, patient_id]."

VERBS = (
    Command(
        name="tile",
        config=configs.TileConfig,
        home="gigacli.stages.tile:tile",
        help="Register slides and find the tiles that hold tissue.\n\nReads slide files; writes slides/ and tiles/.",
        example="giga tile cohort.zarr slides/ --mpp 1.0",
        arguments=(STORE, Argument("slides", SLIDES, metavar="[SLIDES]...", kind=list[str], default=())),
    ),
    Command(
        name="pretrain-tiles",
        config=configs.PretrainTilesConfig,
        home="gigacli.stages.pretrain_tiles:pretrain_tiles",
        help="Train a tile encoder without labels (MoCo).\n\nReads tiles' pixels; writes encoders/NAME.",
        example="giga pretrain-tiles cohort.zarr --epochs 20 --max-tiles 100000",
    ),
    Command(
        name="bank",
        config=BankConfig,
        home="gigacli.stages.bank:bank",
        help="Embed tiles under shared augmentations, and all tiles once without.\n\n"
        "Reads tiles' pixels and an encoder; writes banks/NAME and features/NAME.",
        example="giga bank cohort.zarr --encoder random-resnet18",
    ),
    Command(
        name="train",
        config=configs.TrainConfig,
        home="gigacli.stages.train:train",
        help="Train the slide encoder without labels (Giga-SSL).\n\nReads a bank; writes models/NAME. "
        "Continues an interrupted run by itself.",
        example="giga train cohort.zarr --tiles 5 --epochs 1000",
    ),
    Command(
        name="embed",
        config=configs.EmbedConfig,
        home="gigacli.stages.embed:embed",
        help="Give every slide its vector.\n\n"
        "Reads features and a model; writes embeddings/NAME, and the mean of tiles beside it.",
        example="giga embed cohort.zarr --views 50",
    ),
    Command(
        name="probe",
        config=ProbeConfig,
        home="gigacli.stages.probe:probe",
        help="Say what the vectors are worth: logistic, ridge or Cox regression on labels, beside the baselines.\n\n"
        "Reads embeddings and labels; writes nothing into the store.",
        example="giga probe cohort.zarr --labels labels.csv --embedding giga --save head.safetensors",
        arguments=(
            STORE,
            Argument("labels", LABELS, flag="--labels"),
        ),
        show="gigacli.cli.console:show_scores",
        # two threads wait longer for each other than such small fits take
        environment=(("OPENBLAS_NUM_THREADS", "1"),),
    ),
)

for command in (*VERBS, *TOOLS):
    add(command)
