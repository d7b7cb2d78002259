"""Killed or interrupted at a random moment, then run again: the store is that of a run nobody disturbed, byte for byte.

Both forms print their counts; ``-s`` shows them.
"""

import shutil
import time
from signal import SIGINT, SIGKILL

import pytest

from gigacli.store.validate import validate

pytestmark = pytest.mark.timeout(3600)  # the long form takes what it takes

VERBS = ("tile", "import", "pretrain-tiles", "bank", "train", "embed", "probe")
MOST_IN_A_ROW = 3
TRIES = 8


def disturb(scene, rng, signal, code, *, wanted):
    """Strike until `wanted` strikes have hit a running command; the tries that came too late count for nothing."""
    hits, tries = 0, 0
    while hits < wanted:
        store = scene.fresh(f"{signal.name}-{tries}")
        for _ in range(rng.randint(1, min(MOST_IN_A_ROW, wanted - hits))):
            ended = scene.victims.strike(scene.line(store), rng.uniform(0, scene.seconds), signal)
            said = scene.victims.said()
            assert ended in (0, code), f"{ended}: {said}"
            # Python itself prints one where Ctrl-C met a callback of its garbage collector
            assert "Traceback" not in said or "Exception ignored" in said, said
            hits += ended == code
        if store.exists() and (store / "zarr.json").exists():
            assert validate(store).problems == []
        assert scene.run(store) == 0, scene.victims.said()
        assert scene.contents(store) == scene.wanted
        shutil.rmtree(store.parent)
        tries += 1
        assert tries < TRIES * wanted, f"only {hits} of {wanted} strikes hit"
    return hits


@pytest.mark.parametrize("verb", VERBS)
def test_killed(verb, scene, rng, repeats):
    hits = disturb(scene(verb), rng, SIGKILL, -SIGKILL, wanted=repeats(1))
    print(f"\n{verb}: {hits} kills, then the bytes of an undisturbed run")


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted(verb, scene, rng, repeats):
    hits = disturb(scene(verb), rng, SIGINT, 130, wanted=repeats(1))
    print(f"\n{verb}: {hits} times Ctrl-C, then the bytes of an undisturbed run")


@pytest.mark.parametrize("verb", VERBS)
def test_two_at_once(verb, scene, rng):
    scene = scene(verb)
    store = scene.fresh("two")
    first = scene.victims.start(scene.line(store))
    time.sleep(rng.uniform(0, 0.2 * scene.seconds))
    second = scene.victims.start(scene.line(store))
    codes = [scene.victims.wait(pid) for pid in (first, second)]
    assert codes == [0, 0], scene.victims.said()
    assert scene.contents(store) == scene.wanted
