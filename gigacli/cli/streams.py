"""Output whose reader may go away, as ``head`` does: what was asked for is still done, in silence."""

from __future__ import annotations

import io
import os
import sys
from typing import IO

from rich.console import Console


class PatientConsole(Console):
    """A console that goes on in silence when whoever reads has gone."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        self.quiet = True
        write_nowhere(self.file)


def write_nowhere(stream: IO[str]) -> None:
    """Let what is still written to a stream, whose reader has gone, vanish; Python flushes it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Output(io.TextIOBase):
    """Standard output for what a command makes, which may be more than its reader wants."""

    def write(self, text: str) -> int:
        """Write on, and into nowhere once the reader has gone."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            write_nowhere(sys.stdout)
        return len(text)
