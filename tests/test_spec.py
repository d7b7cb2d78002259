"""The prose, the JSON Schema, the code and the golden stores of the format say the same."""

import ast
import importlib.util
import json
import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from gigacli.options import fingerprint
from gigacli.store.describe import describe, load_schema
from gigacli.store.layout import ARRAYS, FORMAT, FORMAT_VERSION, STAGES, WRITTEN_BY
from gigacli.store.store import Store
from gigacli.store.validate import check_description, validate

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "spec"
PROSE = (SPEC / f"store-{FORMAT_VERSION}.md").read_text()
RULE = r"\b(?:ROOT|AXES|RECIPE|SLIDES|TILES|ENCODERS|FEATURES|BANKS|MODELS|EMBEDDINGS|FAILURES|WRITE|VERSION)-\d+\b"
OF_PROCEDURES = ("WRITE-", "VERSION-", "RECIPE-2", "ROOT-4")
"""Rules that a store cannot break: they are about programs."""


def table_rows():
    """{path: (shape, dims, dtype, fill, meaning)} of all tables of arrays."""
    rows = {}
    for line in PROSE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[0].startswith("`"):
            path, shape, dims, dtype, fill, _, meaning = cells
            assert path not in rows
            dims = tuple(d.strip() for d in dims.split(",") if d.strip())
            rows[path.strip("`")] = (shape, dims, dtype, fill.strip("`"), meaning)
    return rows


def as_json(fill):
    return "NaN" if isinstance(fill, float) and math.isnan(fill) else fill


def named(path):
    """The path as the prose writes it."""
    if path.startswith("failures/"):
        return "failures/<stage>"
    first, *rest = path.replace("/history/*", "/history/<metric>").split("/")
    return "/".join([first, *("<name>" if part == "*" else part for part in rest)])


def test_the_tables_are_the_layout():
    rows = table_rows()
    assert list(rows) == [named(spec.path) for spec in ARRAYS]
    for spec in ARRAYS:
        shape, dims, dtype, fill, meaning = rows[named(spec.path)]
        assert (dims, dtype) == (spec.dims, spec.dtype), spec.path
        wanted = as_json(spec.fill)
        assert (fill if wanted == "NaN" else json.loads(fill)) == wanted, spec.path
        assert meaning.startswith("Optional.") == (not spec.required or spec.path.startswith("failures/")), spec.path
        sizes = [size for size in shape.strip("()").split(", ") if size]
        assert len(sizes) == len(dims)
        assert [s == "2" for s in sizes] == [d == "xy" for d in dims], spec.path


def test_the_schema_is_the_layout():
    patterns = load_schema()["patternProperties"]
    for spec in ARRAYS:
        example = spec.path.replace("failures/*", "failures/tile").replace("*", "some-name.2")
        matching = [schema for pattern, schema in patterns.items() if re.search(pattern, example)]
        assert len(matching) == 1, example
        [schema] = matching
        wanted = schema["properties"]
        assert wanted["dims"]["const"] == list(spec.dims)
        assert wanted["dtype"]["const"] == spec.dtype
        assert wanted["fill"]["const"] == as_json(spec.fill)
        assert type(wanted["fill"]["const"]) is type(as_json(spec.fill))
        assert (wanted["shape"]["minItems"], wanted["shape"]["maxItems"]) == (len(spec.dims), len(spec.dims))
        assert ("chunks" in wanted) == (spec.chunk == "slide"), spec.path
        assert schema["rule"] == f"{spec.path.split('/')[0].upper()}-1"
    arrays = [pattern for pattern, schema in patterns.items() if schema["$ref"] == "#/$defs/array"]
    assert len(arrays) == len(ARRAYS)


def test_versions_and_names_agree():
    assert PROSE.startswith(f"# The giga cohort store, version {FORMAT_VERSION}\n")
    assert f'`format`: `"{FORMAT}"`' in PROSE
    assert f'`version`: `"{FORMAT_VERSION}"`' in PROSE
    assert load_schema()["$id"].endswith(f":{FORMAT_VERSION}")
    root = load_schema()["patternProperties"]["^$"]["properties"]["attributes"]["properties"]["giga"]["properties"]
    assert (root["format"]["const"], root["version"]["const"]) == (FORMAT, FORMAT_VERSION)
    assert max(p.name for p in (SPEC / "golden").iterdir() if p.is_dir()) == FORMAT_VERSION
    changes = re.findall(r"^- \*\*(\d+\.\d+)\*\*", PROSE.split("## Changes")[1], re.MULTILINE)
    assert changes[0] == FORMAT_VERSION
    for stage in STAGES:
        assert f"## `giga {stage}`" in PROSE
    for group, stage in WRITTEN_BY.items():
        assert re.search(rf"`{group}[`/]", PROSE), (group, stage)


def test_the_schema_is_valid_and_shipped():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(load_schema())
    assert '"spec/store-0.1.schema.json" = "gigacli/store/schema.json"' in (ROOT / "pyproject.toml").read_text()


def test_every_rule_is_written_once_and_checked():
    defined = re.findall(rf"^- \*\*({RULE})\*\*", PROSE, re.MULTILINE)
    assert len(defined) == len(set(defined))
    code = "".join(
        (ROOT / "gigacli" / "store" / f"{name}.py").read_text() for name in ("describe", "validate", "values")
    )
    checked = set(re.findall(RULE, code + json.dumps(load_schema())))
    checked |= {"ENCODERS-2", "MODELS-2"}  # f"{kind}-2", of both
    about_stores = {rule for rule in defined if not rule.startswith(OF_PROCEDURES)}
    assert checked == about_stores
    for rule in set(re.findall(RULE, PROSE)):
        assert rule in defined


def test_the_fingerprint_of_the_prose():
    text = re.search(r"^    (\{\"config\".*\})$", PROSE, re.MULTILINE)[1]
    assert f"`{fingerprint(json.loads(text))}`" in PROSE


# ---------------------------------------------------------------------- cases


def cases(kind):
    return [pytest.param(file, id=file.stem) for file in sorted((SPEC / "cases" / kind).glob("*.json"))]


@pytest.mark.parametrize("file", cases("valid"))
def test_valid_cases_have_no_problems(file):
    assert check_description(json.loads(file.read_text())["description"]) == []


@pytest.mark.parametrize("file", cases("invalid"))
def test_invalid_cases_are_caught_by_their_rule(file):
    case = json.loads(file.read_text())
    assert {problem.rule for problem in check_description(case["description"])} == {case["rule"]}


def test_there_are_cases_for_every_rule_a_description_can_break():
    found = {json.loads(file.read_text())["rule"] for file in (SPEC / "cases" / "invalid").glob("*.json")}
    of_schema = {s["rule"] for s in load_schema()["patternProperties"].values()}
    assert of_schema | {"AXES-1", "AXES-2", "AXES-3", "BANKS-2", "BANKS-3", "RECIPE-3", "EMBEDDINGS-5"} <= found


# ---------------------------------------------------------------------- golden stores


def golden_versions():
    return sorted(p.name for p in (SPEC / "golden").iterdir() if p.is_dir())


@pytest.fixture(params=golden_versions())
def golden(request, tmp_path):
    with zipfile.ZipFile(SPEC / "golden" / request.param / "tiny.zarr.zip") as archive:
        archive.extractall(tmp_path / "tiny.zarr")
    return tmp_path / "tiny.zarr"


def test_the_golden_store_is_valid_and_reads_as_ever(golden):
    report = validate(golden)
    assert report.problems == []
    assert report.checked[-1] == "values of 4 slides"
    store = Store.open(golden)
    assert store.slides.ids == ["slide-a", "slide-b", "slide-c", "slide-d"]
    assert store.slides[0].size_px == (2000, 1500)
    assert math.isnan(store.slides[3].mpp)
    assert store.array("tiles/count")[:].tolist() == [4, 2, 0, -1]
    assert store.array("tiles/coords")[0, :5].tolist() == [[0, 0], [512, 0], [1024, 0], [0, 512], [-1, -1]]
    assert store.progress() == {
        "tiles": 3,
        "encoders/moco": 1,
        "features/moco": 3,
        "banks/moco": 3,
        "models/giga": 1,
        "embeddings/giga": 3,
        "embeddings/mean-moco": 3,
    }
    assert store.require("tiles").fingerprint == "5f46d2d72fb3f6c3f36cf22571dfe3fd"
    assert store.require("embeddings/giga").fingerprint == "e587435fa9e4298cf8197931a1b065e8"
    assert float(store.array("embeddings/giga/vectors")[1, 0]) == pytest.approx(-0.14438379, abs=1e-7)
    assert store.failures("tile")[3] == "there is no resolution in the slide"


def test_todays_code_writes_the_golden_store(golden, tmp_path):
    """A change of the format shows here: it needs a new version, not a new golden store."""
    spec = importlib.util.spec_from_file_location("make_golden", SPEC / "golden" / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    new, old = module.build(tmp_path / "new.zarr"), Store.open(golden)
    mine, theirs = describe(new), describe(old)
    assert forget_writer(mine) == forget_writer(theirs)
    for path in (p for p, node in theirs.items() if node["node"] == "array"):
        np.testing.assert_array_equal(new.root[path][...], old.root[path][...], err_msg=path)


def forget_writer(description):
    """The programs that wrote the stores may have different versions."""
    text = re.sub(r'"created_by": "[^"]*"', '"created_by": ""', json.dumps(description, sort_keys=True))
    return json.loads(text)


# ---------------------------------------------------------------------- the snippets of the README


@pytest.mark.parametrize("library", ["zarr", "xarray"])
def test_the_store_can_be_read_without_giga(golden, library, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (SPEC / "README.md").read_text(), re.DOTALL)
    [block] = [b for b in blocks if f"import {library}\n" in b]
    assert "giga" not in {
        alias.name for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert len(block.splitlines()) <= 10
    monkeypatch.chdir(golden.parent)
    golden.rename("cohort.zarr")
    exec(block, {})
    assert "slide-a" in capsys.readouterr().out


def test_golden_groups_open_in_xarray(golden):
    import xarray

    root = zarr.open_group(golden, mode="r")
    groups = [""] + [name for name, node in root.members(max_depth=None) if isinstance(node, zarr.Group)]
    for group in groups:
        with xarray.open_zarr(golden, group=group or None, consolidated=False) as dataset:
            arrays = [name for name, _ in (root[group] if group else root).arrays()]
            assert sorted(dataset.variables) == sorted(arrays)
            assert dataset.sizes.get("slide", 4) == 4
