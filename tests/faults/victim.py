"""A process that runs `giga` command lines in children of its own, which can be killed one by one.

Everything heavy is imported once, so that a child is at work as soon as it is forked: a kill then hits the work and not
the start. Run by :class:`tests.faults.conftest.Victims`; it reads a request a line, as JSON, and answers with a process
id, or with an exit code.
"""

import json
import os
import resource
import signal
import sys
import time

import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch._dynamo  # noqa: F401 - which an optimizer imports, for seconds

import gigacli.importing.features
import gigacli.stages.bank
import gigacli.stages.embed
import gigacli.stages.pretrain_tiles
import gigacli.stages.probe
import gigacli.stages.tile
import gigacli.stages.train  # noqa: F401
from gigacli.__main__ import main as giga
from gigacli.nn import loop


def child(request):
    """Become the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    loop.CHECKPOINT_SECONDS = (
        0  # as often as their share of the time allows, so that short trainings have something to go on from
    )
    sys.argv = ["giga", *request["arguments"]]
    code = 0
    try:
        giga()
    except SystemExit as stop:
        code = stop.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(pid, deadline):
    """Exit code of a child, or minus the signal that ended it; None while it runs."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def serve():
    """One request a line: {"arguments": ...} starts a child; {"wait": pid} waits for it, for some seconds at most."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request and request["wait"] is None:
            answer = None
        elif "wait" in request:
            answer = ended(request["wait"], time.monotonic() + request["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                child(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
