"""The table of the commands beside the six verbs: to look, to check, to take in and out, to show."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from gigacli.cli.command import DONE, STORE, Argument, Command, run_command
from gigacli.config import tools as configs

LABELS = "CSV: slide_id, label[, patient_id] and any other columns."
WHAT = (
    "embeddings/NAME, features/NAME, tiles, models/NAME or encoders/NAME; the name may be left out where there is one. "
    "Default: embeddings."
)
TO = (
    "File (.csv, .parquet, .h5ad, .safetensors), or folder (npy, h5, geojson); - writes vectors as CSV to standard "
    "output; hf://ORG/NAME puts a model on Hugging Face, private at first."
)
FILES = "Feature files, or folders that hold them."
PLACE = "A store, or where one shall be; default: $GIGA_STORE, or this folder."

FIRST = "Id of the slide to open first; default: the first one."
STORES = "Paths or URLs of cohort stores."
LIST = "File with an id a line, table with a column slide_id, or a pattern of ids: 'TCGA-A1-*'."
NEW = Argument("to", "The new store; or one that the same command has begun.", flag="--to")

HEAD = "File of giga probe --save. Nothing in it is run."

TOOLS = (
    Command(
        name="info",
        config=configs.InfoConfig,
        home="gigacli.store.info:info",
        help="Say what a store holds and what to run next.",
        example="giga info cohort.zarr",
        failed="",  # slides that failed are among what it tells
    ),
    Command(
        name="validate",
        config=configs.ValidateConfig,
        home="gigacli.store.validate:validate",
        help="Check a store against the specification; exit 1 where it departs from it.",
        example="giga validate cohort.zarr --level consistency",
        failed="problems",
    ),
    Command(
        name="pack",
        config=configs.PackConfig,
        home="gigacli.store.pack:pack",
        help="Put what is finished into few files, each with many slides.\n\n"
        "All of it reads as before, faster where there are many slides, and can be added to; run it again after that. "
        "Refused while another process writes to the store.",
        example="giga pack cohort.zarr",
        failed="",
    ),
    Command(
        name="merge",
        config=configs.CopyConfig,
        home="gigacli.cohort.merging:merge",
        help="Put the slides of several stores into a new one, with their tiles, features and vectors.\n\n"
        "No slide is read and no tile encoded: the new store is what the verbs would have made of all slides. Tiles, "
        "features and banks must have been made with the same options. Models, and what was fitted on one of the "
        "cohorts, are left out; it is said how to make them.",
        example="giga merge a.zarr b.zarr --to both.zarr",
        arguments=(Argument("stores", STORES, metavar="STORES...", kind=list[str]), NEW),
        failed="",
    ),
    Command(
        name="subset",
        config=configs.CopyConfig,
        home="gigacli.cohort.merging:subset",
        help="Put some slides of a store into a new one, with their tiles, features and vectors.\n\n"
        "No slide is read and no tile encoded: the new store is what the verbs would have made of these slides alone. "
        "Models, and what was fitted on the whole cohort, are left out; it is said how to make them.",
        example="giga subset cohort.zarr --slides list.txt --to part.zarr",
        arguments=(STORE, Argument("slides", LIST, flag="--slides"), NEW),
        failed="",
    ),
    Command(
        name="export",
        config=configs.ExportConfig,
        home="gigacli.exporting.export:export",
        help="Write results as files that other tools read.\n\n"
        "Vectors of slides as CSV, Parquet, AnnData, npy or TRIDENT's h5; features of tiles as h5 or npy; tiles as "
        "GeoJSON for QuPath; models and encoders as safetensors, for other cohorts.",
        example="giga export cohort.zarr embeddings/giga --to vectors.csv",
        arguments=(
            STORE,
            Argument("what", WHAT, metavar="[WHAT]", kind=str | None, default=None),
            Argument("to", TO, flag="--to"),
        ),
    ),
    Command(
        name="import",
        config=configs.ImportConfig,
        home="gigacli.importing.features:import_features",
        help="Take in tile features or slide vectors that another tool made.\n\nReads files of TRIDENT, CLAM, "
        "AtlasPatch, STAMP, slide2vec, LazySlide and raw2features, Parquet shards, embeddings.npy with ids.npy, "
        "or a table of slide vectors (CSV, Parquet, h5ad; giga export writes such), told apart by what is in them; "
        "writes slides/, tiles/ and features/NAME, or embeddings/NAME. giga train, embed and probe then need no slide.",
        example="giga import uni.zarr features_uni_v1/",
        arguments=(STORE, Argument("files", FILES, metavar="FILES...", kind=list[str])),
    ),
    Command(
        name="report",
        config=configs.ReportConfig,
        home="gigacli.reporting.report:report",
        help="Show a whole cohort on one HTML page that needs no network: slides, training, vectors, probe, recipes.",
        example="giga report cohort.zarr --labels labels.csv",
        arguments=(STORE, Argument("labels", LABELS, flag="--labels", kind=str | None, default=None)),
    ),
    Command(
        name="tile-map",
        config=configs.TileMapConfig,
        home="gigacli.reporting.tile_map:tile_map",
        help="Show which tiles of a slide pull its vector towards a class: a picture, and GeoJSON for QuPath.\n\n"
        "Of a slide encoder, joined or not, of the mean of tiles, and of every closed form.",
        example="giga tile-map cohort.zarr SLIDE --labels labels.csv --class tumour",
        arguments=(
            STORE,
            Argument("slide", "Id of the slide.", metavar="SLIDE"),
            Argument("labels", LABELS, flag="--labels"),
        ),
    ),
    Command(
        name="search",
        config=configs.SearchConfig,
        home="gigacli.reporting.search:search",
        help="Find the slides of other patients that are most like a slide.\n\n"
        "By the cosine of their vectors; with a picture of all of them on request.",
        example="giga search cohort.zarr SLIDE --labels labels.csv --image alike.png",
        arguments=(
            STORE,
            Argument("slide", "Id of the slide.", metavar="SLIDE"),
            Argument("labels", LABELS, flag="--labels", kind=str | None, default=None),
        ),
    ),
    Command(
        name="view",
        config=configs.ViewConfig,
        home="gigacli.viewing.view:view",
        help="Zoom through the slides of a store in a browser, with tissue, tiles, maps of tiles, vectors, and what is "
        "alike.\n\n"
        "Serves a page to this machine alone, under a link with a secret in it, until Ctrl-C; it only reads. Through "
        "ssh: choose a port, giga view STORE --port 8807, and forward the same one, ssh -L 8807:127.0.0.1:8807 HOST. "
        "It is for looking; to annotate, use QuPath.",
        example="giga view cohort.zarr SLIDE --labels labels.csv",
        arguments=(
            STORE,
            Argument("slide", FIRST, metavar="[SLIDE]", kind=str | None, default=None),
            Argument("labels", LABELS, flag="--labels", kind=str | None, default=None),
        ),
        show="gigacli.cli.tools:serve_view",
        json=False,  # it has no result but the page
    ),
    Command(
        name="predict",
        config=configs.PredictConfig,
        home="gigacli.exporting.predict:predict",
        help="Say what a head that was fitted on another cohort, and saved, predicts of the slides of a store.\n\n"
        "Reads an embedding, which must be made as the one that the head was fitted on; writes a table.",
        example="giga predict cohort.zarr --head head.safetensors --out predictions.csv",
        arguments=(STORE, Argument("head", HEAD, flag="--head")),
    ),
    Command(
        name="encoders",
        config=configs.EncodersConfig,
        home="gigacli.weights.encoders:encoders",
        help="List the published tile encoders that giga bank knows by name.\n\n"
        "With values per tile, the image and resolution they take, what their vector is, licence, and where their "
        "weights are. Any other model of timm: giga bank --encoder timm:NAME.",
        example="giga encoders",
        arguments=(),
    ),
    Command(
        name="doctor",
        config=configs.DoctorConfig,
        home="gigacli.doctor.checks:doctor",
        help="Say whether giga works on this machine, and what to do where it does not; exit 1 then.\n\n"
        "Looks at packages, OpenSlide, torch and its GPUs, processors, memory, and the disk of a store.",
        example="giga doctor cohort.zarr",
        arguments=(Argument("store", PLACE, metavar="[STORE]", kind=str | None, default=None),),
        failed="broken",
    ),
    Command(
        name="demo",
        config=configs.DemoConfig,
        home="gigacli.demo.run:demo",
        help="Draw a small synthetic cohort and run the six verbs on it: a smoke test, not evidence.",
        example="giga demo giga-demo",
        arguments=(Argument("folder", "Where to put slides and store.", metavar="[DIR]", default="giga-demo"),),
        show="gigacli.cli.tools:run_demo",
        json=False,  # the commands it runs have their own results
    ),
)


def serve_view(page: Any) -> int:
    """Say where the page is, and wait until the user has seen enough."""
    from gigacli.cli import console

    console.say(page.url, to_out=True)
    console.say("open this link here; Ctrl-C ends it")
    with page, suppress(KeyboardInterrupt):  # how it is ended is no interruption
        threading.Event().wait()
    return DONE


def run_demo(made: Any) -> int:
    """Run the command lines of the demo, up to the first that fails, and return its exit code."""
    from gigacli.cli import console
    from gigacli.demo.run import NOTICE, QUICK_NOTICE, conclusion

    for line in made.steps:
        console.say(f"$ giga {' '.join(line)}", to_out=True)
        if (code := run_command(list(line))) != DONE:
            return code
    console.say(NOTICE, to_out=True)
    console.say(QUICK_NOTICE if made.quick else conclusion(made.cohort, seed=made.seed), to_out=True)
    store, labels = made.cohort.folder / "cohort.zarr", made.cohort.labels_csv
    console.say(f"Look at it: giga report {store} --labels {labels}, or giga view {store}", to_out=True)
    return DONE
