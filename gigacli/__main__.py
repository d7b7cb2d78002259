"""``giga`` and ``python -m gigacli``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """The console script."""
    # OpenMP threads that wait for work by spinning slow a shared machine down tenfold (spec/decisions/0006).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from gigacli.cli.verbs import app

        app()
    except KeyboardInterrupt:  # in the middle of an import
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: in Python's last steps it would look like a crash


if __name__ == "__main__":
    main()
