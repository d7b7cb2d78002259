"""Commands in processes of their own that need not import anything: a server imports everything once, and forks.

``python tests/warm.py serve ADDRESS`` imports giga and the libraries below it, then answers on a Unix socket until its
standard input ends. ``python tests/warm.py ADDRESS giga tile ...`` runs a command line in a child of the server, with
the streams, the folder, the environment, the signals and the exit code of this process, but without seconds of imports.
Other first words are those of python: ``-m MODULE``, or a file. :mod:`tests.helpers` starts a server once it is needed.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
HEAVY = (
    "gigacli.cli.verbs",  # not the console, which looks at its streams as it is imported
    "gigacli.importing.features",
    "gigacli.stages.bank",
    "gigacli.stages.embed",
    "gigacli.stages.pretrain_tiles",
    "gigacli.stages.probe",
    "gigacli.stages.tile",
    "gigacli.stages.train",
    "rich.panel",
    "rich.progress",
    "rich.table",
    "scipy.stats",
    "sklearn.linear_model",
    "torch._dynamo",  # which an optimizer imports, for seconds
)


def start(address, arguments, *, fds=(0, 1, 2), cwd=None, env=None, file_bytes=0, memory_bytes=0, settings=None):
    """Start a command line in a child of the server; its process id, and the connection for :func:`exit_code`.

    Args:
        address: Of the server.
        arguments: ``giga`` and its arguments, or those of python.
        fds: Its standard streams.
        cwd: Where it runs; default: here.
        env: Its environment; default: this one.
        file_bytes: The longest file it may write; 0: any.
        memory_bytes: What it may ask for beyond what it begins with, whether or not it touches it; 0: any.
        settings: ``{"module:name": value}`` of what is to be different in it.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"arguments": arguments, "cwd": str(cwd or os.getcwd()), "env": dict(env or os.environ),  # noqa: PTH109
               "file_bytes": file_bytes, "memory_bytes": memory_bytes, "settings": settings or {}}  # fmt: skip
    message = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(connection, [message], list(fds))
    connection.sendall(message[sent:])
    return int(_line(connection)), connection


def exit_code(connection, seconds=None):
    """Its exit code, or minus the signal that ended it; None if it still runs after that time."""
    ended = outcome(connection, seconds)
    return ended and ended[0]


def outcome(connection, seconds=None):
    """Its exit code, and the most bytes it held in memory beyond those it began with; None if it still runs."""
    if not select.select([connection], [], [], seconds)[0]:
        return None
    code, took = map(int, _line(connection).split())
    connection.close()
    return code, took


def _line(connection):
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more:
            raise EOFError("the server of warm processes is gone")
        data += more
    return data


def keep_freed_memory():
    """Let glibc keep what is freed: small trainings spend more on pages, given back and zeroed anew, than on sums."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 64 << 20)):
            libc.mallopt(option, value)


# ---------------------------------------------------------------------- the server


def serve(address):
    """Answer requests until standard input ends, with a child for each; then remove the folder of the address."""
    import gc
    import shutil
    import warnings
    from importlib import import_module
    from pathlib import Path

    keep_freed_memory()
    for name in HEAVY:
        import_module(name)
    gc.freeze()  # children shall not write to what they share
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # a thread of pyarrow's
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    ended, end = socket.socketpair()  # a byte arrives when a child ends
    end.setblocking(False)
    signal.set_wakeup_fd(end.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    running = {}  # connection -> process id, and the bytes it had in memory when it began
    while True:
        ready = select.select([listener, sys.stdin, ended, *running], [], [])[0]
        if sys.stdin in ready:
            shutil.rmtree(Path(address).parent)
            return
        for connection in running.keys() & set(ready):  # whoever asked has gone
            os.kill(running[connection][0], signal.SIGKILL)
        if ended in ready:
            ended.recv(1 << 16)
            _tell(running)
        if listener in ready:
            connection, _ = listener.accept()
            running[connection] = _fork(connection, (listener, ended, end, *running))


def _tell(running):
    """Say of every child that has ended how it did, and how many bytes it took."""
    for connection, (pid, began) in list(running.items()):
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            took = usage.ru_maxrss * (1024 if sys.platform == "linux" else 1) - began
            with contextlib.suppress(OSError):  # of one that has gone
                connection.sendall(f"{os.waitstatus_to_exitcode(status)} {took}\n".encode())
            connection.close()
            del running[connection]


def _fork(connection, others):
    """Start what is asked for and say its process id; that, and the bytes it has in memory as it begins."""
    data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(data if data.endswith(b"\n") else data + _line(connection))
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, str(_bytes(1)).encode())
        os.close(theirs)
        os.close(ours)
        for other in (connection, *others):
            other.close()
        _become(request, fds)
    began = int(os.read(ours, 100))
    for fd in (ours, theirs, *fds):
        os.close(fd)
    connection.sendall(f"{pid}\n".encode())
    return pid, began


def _bytes(which):
    """Of this process: (0) those it asked for, (1) those of them in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[which]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _become(request, fds):
    """Run the command line as python would, to the end of the process."""
    import atexit
    import resource
    import runpy
    import threading
    import traceback
    from importlib import import_module

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for i, fd in enumerate(fds):
        os.dup2(fd, i)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if request["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    if request["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (_bytes(0) + request["memory_bytes"],) * 2)
    for name, value in request["settings"].items():
        module, _, attribute = name.partition(":")
        setattr(import_module(module), attribute, value)
    first, *rest = request["arguments"]
    code = 0
    try:
        if first == "giga":
            sys.argv = [first, *rest]
            import_module("gigacli.__main__").main()
        elif first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *rest]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# ---------------------------------------------------------------------- the client


def main(address, *arguments):
    """Be the command for whoever started this process."""
    pid, connection = start(address, arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: os.kill(pid, received))
    code = exit_code(connection)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        main(*sys.argv[1:])
