"""The wheel: what is in it, and that giga works from it, away from the checkout and from an editable installation."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(command, **options):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=280, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([*build, "--wheel-dir", folder, ROOT])
    (found,) = folder.glob("*.whl")
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
