"""The prose, the JSON Schema, the code and the golden stores of the format say the same."""

import ast
import json
import math
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from gigacli.config.base import fingerprint
from gigacli.errors import Mismatch
from gigacli.store.describe import describe, load_schema
from gigacli.store.layout import ARRAYS, BESIDE, FORMAT, FORMAT_VERSION, STAGES, WRITTEN_BY
from gigacli.store.store import Store
from gigacli.store.validate import LEVELS, OF_ATTRIBUTES, check_description, validate
from spec.golden import make_golden

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "spec"
PROSE = (SPEC / f"store-{FORMAT_VERSION}.md").read_text()
CHANGES = json.loads((SPEC / "cases" / "values.json").read_text())
RULE = (
    r"\b(?:ROOT|AXES|RECIPE|SLIDES|TILES|ENCODERS|FEATURES|BANKS|MODELS|EMBEDDINGS|FAILURES|PACKED|WRITE|VERSION)-\d+\b"
)
"""Ids of rules."""


def rules(*, of_stores):
    """Rules that a store can break; else those about readers, writers and the format, which say so."""
    defined = re.findall(rf"^- \*\*({RULE})\*\*( \*(?:reader|writer|format)\*)?", PROSE, re.MULTILINE)
    return [rule for rule, whom in defined if bool(whom) != of_stores]


def level_rows():
    """{level: rules} of the table of levels."""
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([A-Z0-9, -]+) \|$", PROSE.split("## Validation")[1], re.MULTILINE)
    return {level: set(listed.split(", ")) for level, listed in rows}


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
    for spec in (*ARRAYS, *BESIDE):
        example = (
            spec.path.replace("failures/*", "failures/tile")
            .replace("unpacked/*", "unpacked/tile")
            .replace("*", "some-name.2")
        )
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
    assert len(arrays) == len(ARRAYS) + len(BESIDE)


def test_versions_and_names_agree():
    assert PROSE.startswith(f"# The giga cohort store, version {FORMAT_VERSION}\n")
    assert f'`format`: `"{FORMAT}"`' in PROSE
    assert f'`version`: `"{FORMAT_VERSION}"`' in PROSE
    assert load_schema()["$id"].endswith(f":{FORMAT_VERSION}")
    root = load_schema()["patternProperties"]["^$"]["properties"]["attributes"]["properties"]["giga"]["properties"]
    assert (root["format"]["const"], root["version"]["const"]) == (FORMAT, FORMAT_VERSION)
    assert max(golden_versions()) == FORMAT_VERSION
    changes = re.findall(r"^- \*\*(\d+\.\d+)\*\*", PROSE.split("## Changes")[1], re.MULTILINE)
    assert changes[0] == FORMAT_VERSION
    for stage in STAGES:
        assert f"## `giga {stage}`" in PROSE
    for group, stage in WRITTEN_BY.items():
        assert re.search(rf"`{group}[`/]", PROSE), (group, stage)


def test_the_schema_is_valid_and_shipped():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(load_schema())
    assert '"spec/store-0.2.schema.json" = "gigacli/store/schema.json"' in (ROOT / "pyproject.toml").read_text()


def test_every_rule_is_written_once_and_checked():
    defined = re.findall(rf"^- \*\*({RULE})\*\*", PROSE, re.MULTILINE)
    assert len(defined) == len(set(defined))
    code = "".join(
        (ROOT / "gigacli" / "store" / f"{name}.py").read_text()
        for name in ("describe", "validate", "reading", "values")
    )
    checked = set(re.findall(RULE, code + json.dumps(load_schema())))
    checked |= {"ENCODERS-2", "MODELS-2"}  # f"{kind}-2", of both
    assert checked == set(rules(of_stores=True))
    for rule in set(re.findall(RULE, PROSE)):
        assert rule in defined


def test_every_rule_of_a_store_has_its_level_and_only_those():
    rows = level_rows()
    assert tuple(rows) == LEVELS
    assert set().union(*rows.values()) == set(rules(of_stores=True))
    assert rows["attributes"] == set(OF_ATTRIBUTES)
    assert {"WRITE-1", "ROOT-4", "VERSION-2"} <= set(rules(of_stores=False))


def test_every_rule_has_a_case_at_each_of_its_levels():
    cases = {(level_of(case.values[0]), rule_of(case.values[0])) for case in cases_of("invalid")}
    cases |= {("values", case["rule"]) for case in CHANGES["invalid"]}
    assert cases == {(level, rule) for level, listed in level_rows().items() for rule in listed}


def test_the_fingerprint_of_the_prose():
    text = re.search(r"^    (\{\"config\".*\})$", PROSE, re.MULTILINE)[1]
    assert f"`{fingerprint(json.loads(text))}`" in PROSE


# ---------------------------------------------------------------------- cases


def cases_of(kind):
    return [pytest.param(file, id=file.stem) for file in sorted((SPEC / "cases" / kind).glob("*.json"))]


def rule_of(file):
    return json.loads(file.read_text())["rule"]


def level_of(file):
    """The first level at which a case is caught."""
    description = json.loads(file.read_text())["description"]
    return next(level for level in LEVELS[:3] if check_description(description, level=level))


@pytest.mark.parametrize("file", cases_of("valid"))
def test_valid_cases_have_no_problems(file):
    assert check_description(json.loads(file.read_text())["description"]) == []


@pytest.mark.parametrize("file", cases_of("invalid"))
def test_invalid_cases_are_caught_by_their_rule(file):
    case = json.loads(file.read_text())
    assert {problem.rule for problem in check_description(case["description"])} == {case["rule"]}
    assert {problem.rule for problem in check_description(case["description"], level=level_of(file))} == {case["rule"]}


def change(folder, changes):
    """Make the changes that a case of values states."""
    root = zarr.open_group(folder, mode="r+")
    for one in changes:
        if "remove" in one:
            del root[one["remove"]]
        elif "cut" in one:
            chunk = folder / one["cut"]
            chunk.write_bytes(chunk.read_bytes()[:-3])
        elif "lose" in one:
            (folder / one["lose"]).unlink()
        elif "link" in one:
            (folder / one["link"]).rename(folder.parent / "elsewhere")
            (folder / one["link"]).symlink_to(folder.parent / "elsewhere")
        else:
            array, to = root[one["set"]], one["to"]
            to = float(to.replace("Infinity", "inf")) if to in ("NaN", "Infinity") else to
            at = tuple(n % size for n, size in zip(one["at"], array.shape, strict=False))
            array[at or ...] = np.asarray(to) if isinstance(to, list) else to


@pytest.mark.parametrize("case", CHANGES["invalid"], ids=lambda case: case["defect"])
def test_changed_values_are_caught_by_exactly_their_rule(case, tmp_path):
    golden = unpacked(FORMAT_VERSION, tmp_path, case.get("store", "tiny"))
    assert len([c for c in CHANGES["invalid"] if c["defect"] == case["defect"]]) == 1
    change(golden, case["changes"])
    assert validate(golden, level="consistency").problems == []
    problems = validate(golden).problems
    assert {problem.rule for problem in problems} == {case["rule"]}
    assert case["path"] in {problem.path for problem in problems}


@pytest.mark.parametrize("case", CHANGES["valid"], ids=lambda case: case["case"])
def test_changes_that_leave_a_store_valid(case, tmp_path):
    golden = unpacked(FORMAT_VERSION, tmp_path, case.get("store", "tiny"))
    change(golden, case["changes"])
    assert validate(golden).problems == []


# ---------------------------------------------------------------------- golden stores


def golden_versions():
    return sorted(p.parent.name for p in (SPEC / "golden").glob("*/tiny.zarr.zip"))


@pytest.fixture
def golden(tmp_path):
    return unpacked(FORMAT_VERSION, tmp_path)


def unpacked(version, folder, name="tiny"):
    with zipfile.ZipFile(SPEC / "golden" / version / f"{name}.zarr.zip") as archive:
        archive.extractall(folder / f"{name}.zarr")
    return folder / f"{name}.zarr"


@pytest.mark.parametrize("version", sorted({*golden_versions()} - {FORMAT_VERSION}))
def test_a_store_of_another_version_is_refused_in_words(version, tmp_path):
    with pytest.raises(Mismatch, match=f"has format version {version}; this giga reads {FORMAT_VERSION}"):
        Store.open(unpacked(version, tmp_path))


def test_the_golden_store_is_valid_and_reads_as_ever(golden):
    report = validate(golden)
    assert report.problems == []
    assert report.checked[-1] == "values of 4 slides"
    store = Store.open(golden)
    assert store.slides.ids == ["slide-a", "slide-b", "slide-c", "slide-d"]
    assert store.slides[0].size_px == (2000, 1500)
    assert math.isnan(store.slides[3].mpp)
    assert store.tiles.done().values.tolist() == [4, 2, 0, -1]
    assert store.tiles.array("coords")[0, :5].tolist() == [[0, 0], [512, 0], [1024, 0], [0, 512], [-1, -1]]
    assert store.progress() == {
        "tiles": 3,
        "encoders/moco": 1,
        "features/moco": 3,
        "banks/moco": 3,
        "models/giga": 1,
        "embeddings/giga": 3,
        "embeddings/mean-moco": 3,
    }
    assert store.tiles.fingerprint == "5f46d2d72fb3f6c3f36cf22571dfe3fd"
    assert store.embedding("giga").fingerprint == "5e164911ac7cd4452126acb32f7fa0f1"
    assert float(store.embedding("giga").read()[1, 0]) == pytest.approx(-0.14438379, abs=1e-7)
    assert store.failures("tile")[3] == "there is no resolution in the slide"


@pytest.mark.parametrize("name", list(make_golden.BUILT))
def test_todays_code_writes_the_golden_store(name, tmp_path):
    """A change of the format shows here: it needs a new version, not a new golden store."""
    old = Store.open(unpacked(FORMAT_VERSION, tmp_path, name))
    assert validate(old).problems == []
    new = make_golden.BUILT[name](tmp_path / "new.zarr")
    mine, theirs = describe(new), describe(old)
    assert forget_writer(mine) == forget_writer(theirs)
    for path in (p for p, node in theirs.items() if node["node"] == "array"):
        np.testing.assert_array_equal(new.root[path][...], old.root[path][...], err_msg=path)


def forget_writer(description):
    """The programs that wrote the stores may have different versions."""
    text = re.sub(r'"created_by": "[^"]*"', '"created_by": ""', json.dumps(description, sort_keys=True))
    return json.loads(text)


# ---------------------------------------------------------------------- reading without giga


@pytest.fixture(params=["tiny", "packed"])
def plain_or_packed(request, tmp_path):
    return unpacked(FORMAT_VERSION, tmp_path, request.param)


@pytest.mark.parametrize("library", ["zarr", "xarray"])
def test_the_store_can_be_read_without_giga(plain_or_packed, library, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (SPEC / "reading.md").read_text(), re.DOTALL)
    [block] = [b for b in blocks if f"import {library}\n" in b]
    assert "giga" not in {
        alias.name for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert len(block.splitlines()) <= 10
    monkeypatch.chdir(plain_or_packed.parent)
    plain_or_packed.rename("cohort.zarr")
    exec(block, {})
    assert "slide-a" in capsys.readouterr().out


def test_the_store_can_be_read_in_javascript(plain_or_packed, tmp_path):
    """Where node and zarrita are there: ``npm install zarrita @zarrita/storage``, and NODE_PATH names the folder."""
    modules = Path(os.environ.get("NODE_PATH", ""), "zarrita")
    if shutil.which("node") is None or not modules.is_dir():
        pytest.skip("no node, or no zarrita in NODE_PATH")
    [block] = re.findall(r"```javascript\n(.*?)```", (SPEC / "reading.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) <= 10
    plain_or_packed.rename(tmp_path / "cohort.zarr")
    (tmp_path / "node_modules").symlink_to(modules.parent)
    block += (
        'const shards = await zarr.open.v3(root.resolve("tiles/coords"), { kind: "array" });\n'
        'console.log("corner", (await zarr.get(shards, [0, 1, null])).data);\n'
    )
    (tmp_path / "read.mjs").write_text(block)
    result = subprocess.run(["node", "read.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "slide-a Float32Array(3)" in result.stdout
    assert "slide-c" not in result.stdout
    assert "corner Int32Array(2) [ 512, 0 ]" in result.stdout


def test_golden_groups_open_in_xarray(plain_or_packed):
    import xarray

    golden = plain_or_packed
    root = zarr.open_group(golden, mode="r")
    groups = [""] + [name for name, node in root.members(max_depth=None) if isinstance(node, zarr.Group)]
    for group in groups:
        with xarray.open_zarr(golden, group=group or None, consolidated=False) as dataset:
            arrays = [name for name, _ in (root[group] if group else root).arrays()]
            assert sorted(dataset.variables) == sorted(arrays)
            assert dataset.sizes.get("slide", 4) == 4
