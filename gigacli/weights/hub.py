"""Models on Hugging Face: ``hf://ORG/NAME``, or ``hf://ORG/NAME@REVISION`` for a commit, branch or tag of it.

Only safetensors files and a card go there, and only safetensors files are read. Where the Hub is and who the user is
are matters of huggingface_hub (``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``, ``hf auth login``): no token passes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gigacli.config.base import NAME_PATTERN
from gigacli.errors import GigaError, InvalidInput, NotFound, from_clone

HUB = "hf://"
CARD = "README.md"
WEIGHTS = {"model": "model.safetensors", "encoder": "encoder.safetensors"}
"""What the files of a repository are called, by what :class:`gigacli.weights.card.WeightsCard` calls their kind."""

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubAddress:
    """A repository of models."""

    repository: str  # ORG/NAME
    revision: str | None = None  # None: the newest

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``hf://ORG/NAME[@REVISION]``.

        Raises:
            InvalidInput: It is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidInput(f"{text} is no model on Hugging Face", f"they are called {HUB}ORG/NAME[@REVISION]")
        return cls(*found.groups())

    @property
    def page(self) -> str:
        """Where a person looks at it."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"

    def name_in_store(self) -> str:
        """What the store calls what is there: NAME.

        Raises:
            InvalidInput: That is no name for the store.
        """
        name = self.repository.partition("/")[2]
        if not NAME_PATTERN.fullmatch(name):
            raise InvalidInput(f"{HUB}{self.repository} does not make a name for the store", "give one: `name`")
        return name

    def __str__(self) -> str:
        return HUB + self.repository + (f"@{self.revision}" if self.revision else "")


def download(address: HubAddress, kind: str) -> Path:
    """Fetch a weights file, unless it is in the user's cache already; without a network that of the cache is taken.

    Args:
        address: The repository.
        kind: ``model`` or ``encoder``.

    Raises:
        NotFound: huggingface_hub is not installed; there is no such repository, revision or file, it is given out on
            request only, or the Hub cannot be reached and the cache does not hold it.
    """
    hub = _hub()
    with _translated(address, file=WEIGHTS[kind]), _quiet():
        return Path(hub.hf_hub_download(address.repository, WEIGHTS[kind], revision=address.revision))


def upload(address: HubAddress, files: Mapping[str, bytes], *, redo: bool) -> None:
    """Put files into a repository in one commit; one that is not there is made, private.

    Raises:
        NotFound: huggingface_hub is not installed, the user is not logged in, or the Hub cannot be reached.
        InvalidInput: `address` names a revision, or one of the files is there and `redo` is off.
        GigaError: The user may not write there.
    """
    if address.revision:
        raise InvalidInput(
            f"`to` is {address}; an export becomes the newest revision", f"name {HUB}{address.repository}"
        )
    hub = _hub()
    if hub.get_token() is None:
        raise NotFound(f"{address} cannot be written without a token of Hugging Face", _LOGIN)
    api = hub.HfApi()
    with _translated(address), _quiet():
        there = [name for name in files if not redo and api.file_exists(address.repository, name)]
        if there:
            raise InvalidInput(
                f"{address} holds {there[0]} already", "name another `to`, or replace it with `redo=True`"
            )
        api.create_repo(address.repository, private=True, exist_ok=True)
        api.create_commit(
            address.repository,
            [hub.CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message="Written by giga export",
        )


_LOGIN = "run: hf auth login, with a token that may write (or set HF_TOKEN)"


def _hub() -> Any:
    """The module huggingface_hub.

    Raises:
        NotFound: It is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise NotFound(f"{HUB}ORG/NAME needs huggingface_hub", from_clone("hub")) from None
    return huggingface_hub


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars of huggingface_hub, which would run into ours."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


@contextmanager
def _translated(address: HubAddress, file: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises, of the Hub, the network or its cache, into an error with a remedy.

    Args:
        address: The repository.
        file: What is fetched; "" where something is written.
    """
    try:
        yield
    except GigaError:
        raise
    except Exception as error:
        raise (_why_not_fetched(address, file, error) if file else _why_not_written(address, error)) from error


def _why_not_fetched(address: HubAddress, file: str, error: Exception) -> GigaError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return NotFound(
            f"{address} is given out on request only",
            f"accept its terms at {address.page}, then run: hf auth login (or set HF_TOKEN)",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(
            f"{address.repository} has no revision {address.revision!r}", f"see {address.page}/commits/main"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(
            f"Hugging Face has no model {address.repository!r}, or not for this user",
            "check the name; for a private one run: hf auth login (or set HF_TOKEN)",
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return NotFound(
            f"{address} is not in the cache, {constants.HF_HUB_CACHE}, and Hugging Face cannot be reached",
            f"run once where there is a network, then copy that folder; or take {file} over and give the file",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return NotFound(
            f"{address} holds no {file}: it was not written by giga export",
            f"what it holds: {address.page}/tree/{address.revision or 'main'}",
        )
    return _unforeseen(f"{address} cannot be had", error)


def _why_not_written(address: HubAddress, error: Exception) -> GigaError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return GigaError(f"this user may not write {address} (the Hub answered {status})", _LOGIN)
    return _unforeseen(f"{address} cannot be written", error)


def _unforeseen(what: str, error: Exception) -> GigaError:
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    return NotFound(f"{what}: {type(error).__name__}: {reason}", "look whether there is a network, then run it again")
