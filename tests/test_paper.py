"""examples/paper: every script runs on the drawn cohort, and its table has the paper's layout and figures."""

import csv
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gigacli as giga
from gigacli.store.groups import Model

FOLDER = Path(__file__).parents[1] / "examples" / "paper"
SMALL = [
    "--recipe",
    "default",
    "--encoder",
    "random-resnet18",
    "--augmentations",
    "3",
    "--draws",
    "8",
    "--epochs",
    "2",
    "--quiet",
]
CLASSES = {"lung": 2, "brca": 2, "kidney": 3, "tnbc": 2, "mhrd": 2, "thrd": 2}


@pytest.fixture(scope="module")
def labels(cohort, tmp_path_factory):
    """The drawn slides with made-up labels, in the authors' layout."""
    folder = tmp_path_factory.mktemp("labels")
    slides = [row["slide_id"] for row in read(cohort.labels_csv)]
    for task, classes in CLASSES.items():
        table = folder / "tables" / f"{task}.csv"
        table.parent.mkdir(exist_ok=True)
        lines = [f"{slide},class{i % classes},{slide[:-2]}" for i, slide in enumerate(slides)]
        table.write_text("ID,label,case_id\n" + "\n".join(lines))
        for budget, size in (("full", 5), ("25p", 4), ("100", 4), ("50", 3)):
            splits = folder / "splits" / task / budget
            splits.mkdir(parents=True)
            for k in (0, 3):
                turned = slides[k:] + slides[:k]
                train, test = turned[:size], [*turned[5:], "", ""]
                lines = [f"{a},{b}" for a, b in zip(train, test, strict=False)]
                (splits / f"split_{k}.csv").write_text("train,test\n" + "\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def store(chain, tmp_path_factory):
    """One store for all scripts, as a user would have it."""
    import shutil

    return shutil.copytree(chain("bank"), tmp_path_factory.mktemp("paper") / "cohort.zarr")


@pytest.fixture
def script(monkeypatch, store, labels, tmp_path):
    """``script("table2", ...)``: run it; the rows of its table."""
    from gigacli.nn import abmil

    monkeypatch.setattr(abmil, "LEAST_STEPS", 2)
    monkeypatch.setattr(abmil, "EPOCHS", 1)
    monkeypatch.syspath_prepend(FOLDER)

    def run(name, *options):
        arguments = [str(store), str(labels), "--out", str(tmp_path), *SMALL, *options]
        assert import_module(name).main(arguments) == 0
        return read(tmp_path / f"{name}.csv")

    yield run
    for name in [name for name, module in sys.modules.items() if FOLDER in Path(module_file(module)).parents]:
        del sys.modules[name]


def module_file(module):
    return getattr(module, "__file__", None) or "/"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_auc(text, *, spread):
    mean, _, deviation = text.partition(" ± ")
    return 0 <= float(mean) <= 1 and bool(deviation) == spread


def test_table_2(script, tmp_path, monkeypatch):
    rows = script("table2")
    assert [row["task"] for row in rows[::2]] == [
        "NSCLC subtyping",
        "BRCA subtyping",
        "RCC subtyping",
        "BRCA molecular",
        "BRCA mHRD",
        "BRCA tHRD",
    ]
    assert [row["% data"] for row in rows] == ["100", "25"] * 6
    assert rows[0]["Giga-SSL, published"] == "0.952 ± 0.020"
    assert rows[5]["AverageMIL, published"] == "0.959 ± 0.015"
    assert rows[7]["DeepMIL, published"] == "0.810 ± 0.093"
    assert rows[3]["HIPT, published"] == "0.821 ± 0.069"
    assert [row["DeepSMILE, published"] for row in rows if row["DeepSMILE, published"]] == [
        "0.727 ± 0.010",
        "0.838 ± 0.012",
    ]
    measured = [name for name in rows[0] if name.endswith(", measured")]
    assert len(measured) == 4
    assert all(is_auc(row[name], spread=True) for row in rows for name in measured)
    # what was probed is not probed again, and gives the same table
    table = (tmp_path / "table2.csv").read_bytes()
    kept = list((tmp_path / "probes").iterdir())
    assert len(kept) == 12
    monkeypatch.setattr(giga, "probe", None, raising=False)
    assert script("table2") == rows
    assert (tmp_path / "table2.csv").read_bytes() == table


def test_table_2_without_deepmil(script):
    rows = script("table2", "--skip-deepmil", "--tasks", "kidney")
    assert [row["DeepMIL, published"] for row in rows] == ["0.986 ± 0.008", "0.970 ± 0.016"]
    assert [row["DeepMIL, measured"] for row in rows] == ["", ""]


def test_figure_2(script, tmp_path):
    rows = script("figure2")
    assert [row["labels"] for row in rows] == ["250", "100", "50"] * 6 + ["250", "100", "50"]
    assert [row["published"] for row in rows] == [""] * 19 + ["5.1", "6.3"]
    for row in rows:
        gap = 100 * (float(row["Giga-SSL, measured"]) - float(row["DeepMIL, measured"]))
        assert float(row["measured"]) == pytest.approx(gap, abs=0.1)
    first = [float(row["measured"]) for row in rows if row["labels"] == "50"]
    assert first[-1] == pytest.approx(sum(first[:-1]) / 6, abs=0.02)
    assert (tmp_path / "figure2.png").stat().st_size > 5000


def test_table_3(script, store, tmp_path):
    from gigacli.nn.tile_encoder import random_resnet18, weights_to_bytes

    file = tmp_path / "other.safetensors"
    file.write_bytes(weights_to_bytes(random_resnet18(7)))
    rows = script("table3", "--imagenet", str(file))
    assert [row["model"] for row in rows] == ["Giga-SSL", "w/o slide-aug", "NS", "Giga-SSL im", "Giga-SSL im NS"]
    assert len(rows[0]) == 1 + 2 * 3 * 2
    assert rows[0]["50 WSI, CRC, published"] == "0.960"
    assert rows[1]["50 WSI, NSCLC, published"] == "0.86"
    assert rows[4]["100 % data, BRCA, published"] == "0.853"
    assert all(is_auc(row[name], spread=False) for row in rows for name in row if name.endswith("measured"))
    made = giga.open(store)
    models = {model.name: model.config for model in made.groups(Model)}
    assert not models["giga-no-slide-aug"]["slide_aug"]
    assert made.bank("imagenet-ns").config["independent"]
    assert models["giga-imagenet-ns"]["bank"] == "imagenet-ns"
    assert made.bank("random-resnet18-ns").config["independent"]
    assert not made.bank("imagenet").config["independent"]


def test_table_4(script, store, labels, tmp_path):
    excluded = tmp_path / "excluded.csv"
    lab = [slide for slide in giga.open(store).slides.ids if slide.startswith("lab1")]
    excluded.write_text("slide_id\n" + "\n".join(lab))
    rows = script("table4", "--exclude", str(excluded))
    assert [row["model"] for row in rows] == ["Full dataset", "Independent training set"]
    assert [row["50 WSI, published"] for row in rows] == ["0.894 ± 0.045", "0.885 ± 0.045"]
    assert all(is_auc(row[name], spread=True) for row in rows for name in row if name.endswith("measured"))
    trained_on = giga.open(store).model("giga-independent").seen()
    assert trained_on.sum() == 8 - len(lab) == 4
    module = import_module("table4")
    barcodes = ["TCGA-55-7910-01Z", "TCGA-A7-A6VV-01Z", "TCGA-55-0000-01Z"]
    assert module.of_the_same_sites(barcodes, barcodes[:1]) == [barcodes[0], barcodes[2]]
    # ids that are no barcodes need a table
    assert module.main([str(store), str(labels), "--out", str(tmp_path), *SMALL]) == 2


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        ("figure3a", ("--tiles", "5", "9"), {("5", "100 %"): "0.952", ("5", "50"): "0.894"}),
        ("figure3b", ("--tiles", "5", "9", "--views", "1", "50"), {("5", "50"): "0.952"}),
        ("figure3c", ("--lengths", "1", "2"), {}),
    ],
)
def test_figure_3(script, tmp_path, name, options, known):
    rows = script(name, *options)
    assert len(rows) == 4
    for row in rows:
        first, second, published, measured, _ = row.values()
        assert published == known.get((first, second), "")
        assert is_auc(measured, spread=False)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_readme_has_one_command_per_table():
    text = (FOLDER / "README.md").read_text()
    scripts = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py")
    assert len(scripts) == 7
    assert all(f"`python examples/paper/{name} cohort.zarr labels" in text for name in scripts)


def test_missing_tables_are_named_before_anything_is_made(script, store, labels, tmp_path, capsys):
    script("figure3a", "--tiles", "5")
    before = giga.open(store).names(Model)
    gone = import_module("table2").main([str(store), str(tmp_path / "nowhere"), "--out", str(tmp_path), *SMALL])
    assert gone == 2
    assert "there is no" in capsys.readouterr().err
    assert giga.open(store).names(Model) == before
    other = import_module("figure3a").main([str(store), str(labels), "--out", str(tmp_path), *SMALL[:-2], "3"])
    assert other == 2  # another --epochs than the model there was trained with
