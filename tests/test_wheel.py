"""What is released: an sdist, and the wheel that is built from it; and that giga works from it.

Away from the checkout and from an editable installation.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gigacli.version import __version__

ROOT = Path(__file__).parents[1]


def run(command, **options):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=280, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of the sdist, and of the wheel that was built from it; without a network."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def giga(wheel, tmp_path_factory):
    """``giga("demo", "x")``: a command line, run by the installed wheel."""
    site = tmp_path_factory.mktemp("site")
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, wheel])
    # the libraries are those of this environment; gigacli comes first from where the wheel was installed
    environment = {k: v for k, v in os.environ.items() if k != "GIGA_STORE"} | {"PYTHONPATH": str(site)}

    def call(*arguments, cwd):
        return run([sys.executable, site / "bin" / "giga", *arguments], cwd=cwd, env=environment)

    call.python = lambda code, cwd: run([sys.executable, "-c", code], cwd=cwd, env=environment).strip()
    call.site = site
    return call


def test_the_wheel_holds_the_package_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"gigacli/cli/verbs.py", "gigacli/store/schema.json", "gigacli/py.typed"} <= set(names)
    here = {
        str(p.relative_to(ROOT)) for p in (ROOT / "gigacli").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert here <= set(names)
    strangers = [n for n in names if not n.startswith(("gigacli/", "gigacli-"))]
    assert strangers == []


def test_an_index_would_take_both(dist):
    said = run([sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir())])
    assert said.count("PASSED") == 2


def test_the_sdist_holds_what_the_repository_does(dist):
    (found,) = dist.glob("*.tar.gz")
    assert found.name == f"gigacli-{__version__}.tar.gz"
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = (
        "CHANGELOG.md",
        "constraints.txt",
        "Makefile",
        "gigacli/demo/draw.py",
        "spec/store-0.2.md",
        "tests/warm.py",
    )
    assert {*wanted, "docs/method.md", "benchmarks/study.md", "examples/batch.sh", "LICENSE"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist/"))]


def test_its_metadata(wheel):
    metadata = zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    for version in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {version}\n" in metadata
    assert "One small vector per whole slide image" in metadata


def test_giga_works_from_the_wheel(giga, tmp_path):
    assert Path(giga.python("import gigacli; print(gigacli.__file__)", tmp_path)).is_relative_to(giga.site)
    assert giga("--version", cwd=tmp_path).strip() == giga.python(
        "import gigacli; print(gigacli.__version__)", tmp_path
    )
    said = giga("demo", "demo", "--quick", cwd=tmp_path)
    assert "mean-moco" in said
    assert "smoke test" in said
    assert "0 problems" in giga("validate", "demo/cohort.zarr", cwd=tmp_path)
