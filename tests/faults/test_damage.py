"""A store that is cut short or whose bits flip: it is found.

Every chunk ends in a checksum. Metadata documents have none: a flip there may give another word.
``docs/robustness.md`` says so; these tests are its figures.
"""

import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import gigacli.cli.verbs  # noqa: F401 - registers the verbs
from gigacli.cli.command import run_command
from gigacli.errors import GigaError
from gigacli.store.layout import FORMAT_VERSION
from gigacli.store.validate import validate

SEED = 0


def files_of(store):
    return [p for p in sorted(store.rglob("*")) if p.is_file() and p.stat().st_size and p.suffix != ".partial"]


def kind_of(store, file):
    """ "banks/*/vectors" of a chunk of it; "zarr.json" of a metadata document."""
    parts = file.relative_to(store).parts
    if file.name == "zarr.json":
        return "zarr.json"
    parts = parts[: parts.index("c")] if "c" in parts else parts
    if parts[0] in ("slides", "tiles", "failures"):
        return "/".join(parts) if parts[0] == "tiles" else parts[0]
    return "/".join((parts[0], "*", parts[2]))


def problems_of(store):
    """What is wrong with a store; a store that is refused at the door is one problem."""
    try:
        return [problem.message for problem in validate(store).problems]
    except GigaError as error:
        return [error.message]


GOLDEN = Path(__file__).parents[2] / "spec" / "golden" / FORMAT_VERSION / "tiny.zarr.zip"


@pytest.fixture
def store(tmp_path):
    """The golden store: every kind of group once, in a few kilobytes."""
    path = tmp_path / "tiny.zarr"
    zipfile.ZipFile(GOLDEN).extractall(path)
    assert problems_of(path) == []
    return path


def damaged(store, rng, how, number):
    """One damage after the other: the file, and what validation says; every time the file is mended again."""
    files = files_of(store)
    kinds = sorted({kind_of(store, f) for f in files})
    for i in range(number):
        kind = kinds[i % len(kinds)]  # every kind in turn: most files are of few kinds
        file = rng.choice([f for f in files if kind_of(store, f) == kind])
        sound = file.read_bytes()
        file.write_bytes(how(sound, rng))
        yield kind, file, problems_of(store)
        file.write_bytes(sound)


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def test_a_file_that_is_cut_short_is_always_found(store, repeats):
    found = Counter()
    for kind, file, problems in damaged(store, random.Random(SEED), cut, 6 * repeats(6)):
        assert problems, f"{file} was cut short and nobody noticed"
        found[kind] += 1
    print(f"\ncut short, all found: {dict(found)}")


def test_a_flipped_bit_of_a_chunk_is_always_found(store, repeats):
    found = Counter()
    for kind, file, problems in damaged(store, random.Random(SEED), flip, 6 * repeats(10)):
        assert problems or kind == "zarr.json", f"{file} was flipped and nobody noticed"
        found[kind] += 1
    print(f"\nflipped, all found but of zarr.json: {dict(found)}")


def test_a_flipped_bit_of_metadata_is_found_unless_it_changes_a_word(store, repeats):
    """What stays unseen leaves documents that still parse and hold to the specification: another word in a recipe."""
    rng = random.Random(SEED)
    documents = [f for f in files_of(store) if f.name == "zarr.json"]
    found, words = 0, 0
    for _ in range(6 * repeats(8)):
        file = rng.choice(documents)
        sound = file.read_bytes()
        file.write_bytes(flip(sound, rng))
        if problems_of(store):
            found += 1
        else:
            changed = json.loads(file.read_text())  # it must still be a document
            assert changed.keys() >= {"zarr_format", "node_type"}
            words += 1
        file.write_bytes(sound)
    print(f"\nmetadata: {found} found, {words} unseen")
    assert found > words


LINES = {
    "banks/random-resnet18/vectors": ("train", "--redo", "--epochs", "1"),
    "banks/random-resnet18/done": ("train", "--redo", "--epochs", "1"),
    "features/random-resnet18/vectors": ("embed", "--redo"),
    "features/random-resnet18/done": ("embed", "--redo"),
    "models/giga/weights": ("embed", "--redo"),
    "tiles/count": ("bank", "--redo", "--augmentations", "1", "--draws", "2"),
    "tiles/coords": ("bank", "--redo", "--augmentations", "1", "--draws", "2"),
}
"""What reads an array."""

REFUSED = [(group, how) for group in LINES for how in (cut, flip)]
REFUSED.remove(("banks/random-resnet18/vectors", flip))  # mapped and never read as a whole: `giga validate` does that


@pytest.mark.parametrize(("group", "how"), REFUSED)
def test_a_stage_refuses_what_is_damaged(group, how, store_at, capsys):
    store, line = store_at("embed"), LINES[group]
    file = files_of(store / group / "c")[0]
    sound = file.read_bytes()
    file.unlink()  # other copies of the store share it
    file.write_bytes(how(sound, random.Random(SEED)))
    code = run_command([line[0], str(store), *line[1:]])
    said = capsys.readouterr().err
    assert code in (1, 2), said
    assert "Traceback" not in said
