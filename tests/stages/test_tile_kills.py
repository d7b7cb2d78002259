"""giga tile survives SIGKILL at any moment: the store equals that of a run that was never disturbed, byte for byte."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

GIGA = Path(sys.executable).with_name("giga")
KILLS = 20


def test_killed_twenty_times(cohort, tmp_path, chunks):
    slides = tmp_path / "slides"
    slides.mkdir()
    for i, source in enumerate(sorted(cohort.slides.glob("*.tif")) * 12):
        (slides / f"slide_{i:02d}.tif").hardlink_to(source)
    options = ["--mpp", "1.0", "--tile-px", "64", "--workers", "1", "--quiet"]
    undisturbed, killed = tmp_path / "a.zarr", tmp_path / "b.zarr"
    command = [str(GIGA), "tile"]
    subprocess.run([*command, str(undisturbed), str(slides), *options], check=True, stdout=subprocess.DEVNULL)
    rng, done, log = random.Random(0), 0, []
    for kill in range(KILLS):
        # a few kills while slides are registered, the others one or two slides further on, a moment later or at once
        target = 0 if kill < 4 else done + rng.randint(1, 2)
        process = subprocess.Popen([*command, str(killed), str(slides), *options], stdout=subprocess.DEVNULL)
        while process.poll() is None and (finished(killed) < target or not killed.exists()):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"the run ended before it was killed: {log}"
        done = finished(killed)
        log.append(done)
    assert 20 < done < 96, log
    subprocess.run([*command, str(killed), str(slides), *options], check=True, stdout=subprocess.DEVNULL)
    for group in ("slides", "tiles", "failures"):
        assert chunks(killed, group) == chunks(undisturbed, group), group


def test_two_runs_at_once(cohort, tmp_path, chunks):
    paths = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    command = [str(GIGA), "tile"]
    options = [str(cohort.slides), "--mpp", "1.0", "--tile-px", "64", "--quiet"]
    for stores in ((paths[0],), (paths[1], paths[1])):
        runs = [subprocess.Popen([*command, str(s), *options], stdout=subprocess.DEVNULL) for s in stores]
        assert [run.wait(timeout=200) for run in runs] == [0] * len(runs)
    assert chunks(paths[1]) == chunks(paths[0])


def finished(store):
    """Slides that are marked as done."""
    folder = store / "tiles" / "count" / "c"
    return len([f for f in folder.iterdir() if f.name.isdigit()]) if folder.is_dir() else 0
