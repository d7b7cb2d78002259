"""Errors a user can act on: what was found, what was expected, and what to do next."""


class GigaError(Exception):
    """An error with a remedy.

    Args:
        message: What was found and what was expected, with the values.
        hint: The next thing to try, usually a command. May be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidInput(GigaError, ValueError):  # noqa: N818 - names say what was wrong, like the builtins they extend
    """A value, option or table that cannot be used."""


class NotFound(GigaError, FileNotFoundError):  # noqa: N818
    """A file, store, group or column that should be there and is not."""


class Mismatch(GigaError, ValueError):  # noqa: N818
    """Things that do not belong together: other parameters, other inputs, another format version."""


class SlideError(GigaError, OSError):
    """One slide cannot be used. The run goes on; the reason is kept in the store."""


def reason_of(error: Exception) -> str:
    """Why a slide failed, for the record; what no one foresaw is named with its type.

    A damaged file can raise anything, from a library as from us, and must not take the other slides with it.
    """
    return str(error) if isinstance(error, GigaError | OSError) and str(error) else f"{type(error).__name__}: {error}"


class Diverged(GigaError, ArithmeticError):  # noqa: N818
    """Training produced values that are not numbers."""
