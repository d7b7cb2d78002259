"""What several test files need and no fixture is: import it from ``tests.helpers``."""

import os
import socket
import subprocess
import sys


class Recorder:
    """Progress that remembers what it was told.

    Attributes:
        started: (what, total, done) of every task.
        advanced: (steps, note) of every advance.
        said: Every message.
    """

    def __init__(self, on_advance=lambda recorder: None):
        """`on_advance` is called with the recorder after each advance: it may raise, or change the world."""
        self.started, self.advanced, self.said = [], [], []
        self.on_advance = on_advance

    def start(self, what, total, *, done=0):
        self.started.append((what, total, done))

    def advance(self, steps=1, *, note=""):
        self.advanced.append((steps, note))
        self.on_advance(self)

    def say(self, message):
        self.said.append(message)


def launch(count, arguments):
    """Run a command line of python in `count` processes, as torchrun does; what each wrote to standard output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * count, ended
    return [out for out, _ in ended]
