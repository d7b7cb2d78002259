"""``giga view``: a page that zooms through the slides of a store, for looking."""

from __future__ import annotations

import html
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gigacli.config.base import options_of
from gigacli.config.tools import ViewConfig
from gigacli.errors import InvalidInput
from gigacli.reporting.slides import find_slide
from gigacli.store.store import Store
from gigacli.viewing.answers import Answers
from gigacli.viewing.server import Server


@dataclass(eq=False)
class View:
    """A page that is served until it is closed, or Python ends. Use it in a ``with`` statement, or call :meth:`close`.

    Attributes:
        url: Link to the page; whoever has it, on this machine, sees the slides.
        port: Where it is served.
    """

    url: str
    port: int
    _server: Server = field(repr=False)

    def close(self) -> None:
        """Serve no more, and close the slides."""
        self._server.shutdown()
        self._server.server_close()
        self._server.answers.open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        link = html.escape(self.url)
        return f'<a href="{link}" target="_blank" rel="noopener noreferrer">{link}</a>'


@options_of(ViewConfig)
def view(
    config: ViewConfig,
    store: str | Path | Store,
    slide: str | None = None,
    labels: str | Path | None = None,
    *,
    target: str | None = None,
    embedding: str | Sequence[str] = (),
    port: int = 0,
    browser: bool = False,
) -> View:
    """Serve a page, to this machine alone, that zooms through the slides of a store.

    With their tissue, tiles and vectors, and what is like what. It only reads, and whatever else works on the store may
    go on.

    Args:
        store: The cohort store; nothing is written into it.
        slide: Id of the slide to open first, or that without folders and extension; default: the first one.
        labels: Table of labels: slides are sorted and coloured by its columns, and tiles are mapped for its classes.

    Returns:
        The page, which is served by a thread of this process until it is closed.

    Raises:
        NotFound: There is no such store, slide, embedding, table or column.
        InvalidInput: The store has no slides, the table cannot be used, or the port is taken.
    """
    opened = Store.open(store)
    if not opened.registered:
        raise InvalidInput(f"{opened.url} holds no slides yet", f"run: giga tile {opened.url} SLIDES")
    first = "" if slide is None else f"#{find_slide(opened, slide)}"
    answers = Answers(opened, labels=labels, target=config.target, embeddings=config.embedding)
    server = Server(answers, port=config.port)
    threading.Thread(target=server.serve_forever, name="giga-view", daemon=True).start()
    if config.browser:
        webbrowser.open(server.url + first)
    return View(server.url + first, server.server_port, server)
