"""Stores and files that ask for more than they hold: reading them takes little memory and time, and says so."""

import os
import shutil
import signal
import time
from collections import defaultdict

from tests.faults import hostile

MEBIBYTES = 512
SECONDS = 10.0

ASKED = 4 * 2**30
"""Bytes that a child may ask for beyond those it begins with, whether or not it touches them."""


def test_sizes_are_checked_before_memory_is_taken(victims, faults, tmp_path):
    worst, wrong = defaultdict(lambda: [0.0, 0.0]), []
    for number in range(faults or 2 * len(hostile.KINDS)):
        folder = tmp_path / str(number)
        kind, line = hostile.make(number, folder)
        victims.said()
        clock = time.monotonic()
        pid = victims.start(line, memory_bytes=ASKED)
        ended = victims.outcome(pid, 2 * SECONDS)
        if ended is None:
            os.kill(pid, signal.SIGKILL)
            ended = victims.outcome(pid, SECONDS)
        seconds, code, took, said = time.monotonic() - clock, ended[0], ended[1] / 2**20, victims.said()
        worst[kind] = [max(worst[kind][0], took), max(worst[kind][1], seconds)]
        asked = any(word in said for word in ("MemoryError", "allocate memory", "Traceback", "bad_alloc"))
        if code not in (0, 1, 2) or asked or took > MEBIBYTES or seconds > SECONDS:
            wrong.append(f"{number} {kind}: {took:.0f} MiB, {seconds:.1f} s, exit {code}: {line[:1]} {said[:300]}")
        shutil.rmtree(folder)
    print("\nMiB, seconds at most:", {kind: [round(v, 1) for v in most] for kind, most in sorted(worst.items())})
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong)
