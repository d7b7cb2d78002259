"""What several test files need and no fixture is: import it from ``tests.helpers``."""

import atexit
import functools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import warm


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


@functools.cache
def warm_server(library=""):
    """Folder of a server of warm processes, which ends with this one: its socket, ``giga`` and ``warm-python``.

    A `library` is loaded into them before the C library.
    """
    folder, script = Path(tempfile.mkdtemp(prefix="giga-")), Path(warm.__file__)
    address = folder / "socket"
    for name, words in (("giga", "giga"), ("warm-python", "")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{script}" "{address}" {words} "$@"\n')
        command.chmod(0o755)
    path = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, "-P", str(script), "serve", str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, **({"LD_PRELOAD": library} if library else {})},
    )

    def end():
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    assert server.stdout.readline() == b"ready\n"
    return folder


def run_giga(*arguments, env=None, **options):
    """A finished command line of giga, in a process of its own; ``subprocess.run`` takes the options."""
    return subprocess.run(
        [warm_server() / "giga", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        **{"capture_output": True, "text": True, "timeout": 250, "check": False, **options},
    )


def launch(count, arguments):
    """Run a command line of python in `count` processes, as torchrun does; what each wrote to standard output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [warm_server() / "warm-python", *arguments],
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
