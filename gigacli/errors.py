"""Errors a user can act on: what was found, what was expected, and what to do next. No secret is among it."""

import os
import re

PASSWORD = re.compile(r"(?<=:/)(/*[^/\s:@]*):(?!\d*(?:/|\s|$))[^\s@]+@")
"""``user:password@`` of a URL; the password may hold a slash, and a port is none."""

QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,30}:/+[^\s?]+)\?\S+")
"""Query of a URL, after its ``?``: where signed URLs carry their signature."""

SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|ACCOUNT_KEY|CONNECTION_STRING")
MOST_CHARACTERS = 10_000  # of a text that is printed or stored: the time to find secrets grows with its square
LEAST_SECRET = 12  # characters of a variable's value that is taken for a secret: shorter ones are words such as "false"


def holds_secret(url: str) -> bool:
    """Whether a URL carries a password, or a query that may hold one."""
    return PASSWORD.search(url) is not None or QUERY.search(url) is not None


def without_secrets(text: str) -> str:
    """Return a text fit to be printed or stored, with ``***`` for passwords, queries of URLs and secret variables."""
    if len(text) > MOST_CHARACTERS:  # the last word may be cut, and be half of a secret
        text = f"{text[:MOST_CHARACTERS].rpartition(' ')[0]} ..."
    text = QUERY.sub(r"\1?***", PASSWORD.sub(r"\1:***@", text))
    for name, value in os.environ.items():
        if len(value) >= LEAST_SECRET and SECRET_VARIABLE.search(name.upper()):
            text = text.replace(value, "***")
    return text


def from_clone(extra: str) -> str:
    """Return the command that installs what an extra of giga needs: no package index has giga itself."""
    return f"run, in the clone of giga: pip install '.[{extra}]'"


class GigaError(Exception):
    """An error with a remedy.

    Secrets that got into its texts are hidden.

    Args:
        message: What was found and what was expected, with the values.
        hint: The next thing to try, usually a command. May be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = without_secrets(message), without_secrets(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it, as a terminal does: where in giga it was raised helps nobody to mend it."""
        return [f"{type(self).__name__}: {self}"]


class InvalidInput(GigaError, ValueError):  # noqa: N818 - names say what was wrong, like the builtins they extend
    """A value, option or table that cannot be used."""


class NotFound(GigaError, FileNotFoundError):  # noqa: N818
    """A file, store, group or column that should be there and is not."""


class Mismatch(GigaError, ValueError):  # noqa: N818
    """Things that do not belong together: other parameters, other inputs, another format version."""


class SlideError(GigaError, OSError):
    """One slide cannot be used. The run goes on; the reason is kept in the store."""


def reason_of(error: Exception) -> str:
    """Return why a slide failed, for the record; an error that no one foresaw is named with its type.

    A damaged file can raise anything, from a library as from us, and must not take the other slides with it.
    """
    known = isinstance(error, GigaError | OSError) and str(error)
    return without_secrets(str(error) if known else f"{type(error).__name__}: {error}")


def kind_of(reason: str) -> str:
    """Return the first line of a reason without the paths and numbers that tell one slide from another."""
    line = reason.splitlines()[0] if reason else ""
    return re.sub(r"\d[\d.,]*", "N", re.sub(r"\S*/\S+", "FILE", line))


class Diverged(GigaError, ArithmeticError):  # noqa: N818
    """Training produced values that are not numbers."""
