"""Address of a store: a folder, or a URL that fsspec opens (``s3://``, ``gs://``, ``memory://``).

Credentials are left to the libraries that fsspec opens a URL with: environment, configuration files, a machine's role.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from gigacli.errors import InvalidInput, Mismatch, NotFound, from_clone, holds_secret
from gigacli.store.bounded import BoundedRemote
from gigacli.store.folder import Folder

Mode = Literal["r", "r+", "a"]

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
EXTRAS = {"s3": from_clone("s3")}

OPTIONS = {"use_listings_cache": False}
"""Of every filesystem: other processes write into the same store, and what was listed a minute ago may be wrong."""

ELSEWHERE = (
    "check the URL, the network, and the credentials where the library of this kind of storage looks for them, such as "
    "AWS_PROFILE or AWS_ACCESS_KEY_ID, and AWS_ENDPOINT_URL for storage that is not Amazon's"
)


def is_remote(url: str) -> bool:
    """Whether a store is not a folder of this machine."""
    return SCHEME.match(url) is not None


def address_of(path: str | Path) -> str:
    """Return a path or URL as a store keeps it and prints it.

    Raises:
        InvalidInput: The URL holds a password or a query: it would be printed, and kept by the shell.
    """
    url = str(path)
    if not is_remote(url):
        return url
    if holds_secret(url):
        raise InvalidInput(
            f"the URL of a store holds no secret and no query; found {url}",
            "give credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or a configuration file "
            "(AWS_PROFILE)",
        )
    scheme, _, rest = url.partition("://")
    return rest if scheme.lower() in ("file", "local") else url


def find_store() -> str:
    """Return the store to use when none is named: $GIGA_STORE, else ./cohort.zarr, else the only *.zarr here."""
    if os.environ.get("GIGA_STORE"):
        return os.environ["GIGA_STORE"]
    if Path("cohort.zarr").exists():
        return "cohort.zarr"
    here = sorted(str(p) for p in Path().glob("*.zarr"))
    if len(here) == 1:
        return here[0]
    found = f"there are several: {', '.join(here)}" if here else "there is none in this folder"
    raise InvalidInput(
        f"no store was named and {found}",
        "name it, as in: giga info cohort.zarr; or once for all commands: export GIGA_STORE=cohort.zarr",
    )


def open_root(url: str, *, write: bool, waits: bool = True) -> Any:
    """Open the root group of the store at `url`; what is written to a folder may be waited for.

    Raises:
        NotFound: There is nothing.
        Mismatch: There is no zarr group, or nothing can be reached there.
    """
    hint = f"make one: giga tile {url} SLIDES"
    if not is_remote(url) and Path(url).is_file():
        raise Mismatch(f"{url} is a file, not a cohort store", "name the folder of a store, such as cohort.zarr")
    try:
        return _zarr_group(url, mode="r+" if write else "r", waits=waits)
    except FileNotFoundError as error:
        if not is_empty(url) or (not is_remote(url) and Path(url).exists()):
            raise Mismatch(f"{url} is not a cohort store: it holds no zarr group", hint) from error
        raise NotFound(f"there is no store at {url}", hint) from error


def create_root(url: str, attributes: dict[str, Any], *, waits: bool = True) -> None:
    """Make the root group of a store where there is nothing, and wait until it is on the disk.

    Raises:
        NotFound: There is no such bucket.
        Mismatch: Nothing can be reached or written there.
    """
    try:
        settle(_zarr_group(url, mode="a", attributes=attributes, waits=waits))
    except zarr.errors.ContainsGroupError:  # another process made it in this moment
        return
    except FileNotFoundError as error:
        raise NotFound(f"{url} cannot be made: {error}", "make the bucket or folder it lies in first") from error


def settle(root: Any) -> None:
    """Wait until what was written to the store of a root group is on the disk; remote storage has told when it was."""
    if isinstance(root.store, Folder):
        root.store.settle()


def is_empty(url: str) -> bool:
    """Whether there is nothing at all, or nothing but temporary files of zarr that a killed writer left."""
    if not is_remote(url):
        path = Path(url)
        return not path.exists() or (path.is_dir() and all(p.suffix == ".partial" for p in path.iterdir()))

    async def first() -> bool:
        store = FsspecStore.from_url(url, storage_options=OPTIONS, read_only=True)
        async for _ in store.list_dir(""):
            return False
        return True

    with _explained(url):
        return sync(first())


def _zarr_group(url: str, *, mode: Mode, waits: bool, **arguments: Any) -> Any:
    with _explained(url):
        if is_remote(url):
            storage: Any = BoundedRemote.from_url(url, storage_options=dict(OPTIONS), read_only=mode == "r")
        else:
            storage = sync(Folder.open(Path(url), mode=mode, read_only=mode == "r"))
            storage.unsettled.waits = waits
        return zarr.open_group(storage, mode=mode, zarr_format=3, use_consolidated=False, **arguments)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Explain errors of opening; that nothing is there, or something already, is left to the caller."""
    remote = is_remote(url)
    try:
        yield
    except (FileNotFoundError, zarr.errors.ContainsGroupError):
        raise
    except ImportError as error:
        hint = EXTRAS.get(url.partition("://")[0].lower(), "install the package that fsspec opens such URLs with")
        raise Mismatch(f"{url} cannot be opened: {error}", hint) from error
    except (ValueError, TypeError, OSError) as error:  # zarr.json is damaged, or the URL leads nowhere
        hint = ELSEWHERE if remote else "check the path or URL"
        raise Mismatch(f"{url} cannot be opened as a zarr group: {error}", hint) from error
    except Exception as error:
        if not remote:
            raise
        # each kind of storage has errors of its own: no credentials, no such host
        raise Mismatch(f"{url} cannot be reached: {type(error).__name__}: {error}", ELSEWHERE) from error
