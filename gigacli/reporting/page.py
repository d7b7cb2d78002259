"""The page itself: a template filled in, its script and style inside it, safe whatever a slide is called."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from gigacli.errors import InvalidInput

MARK = "<!-- giga report -->"  # the second line of every report: what tells it from a file that must not be replaced


def check_place(file: Path) -> None:
    """Refuse to write over something that is no report.

    Raises:
        InvalidInput: `file` is a folder or another file, or its folder is not there.
    """
    if not file.parent.is_dir():
        raise InvalidInput(f"{file}: there is no folder {file.parent}", "make it first, or choose another `out`")
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder", f"name a file in it: `out={file}/report.html`")
    if file.exists():
        with file.open("rb") as opened:
            if MARK.encode() not in opened.read(200):
                raise InvalidInput(f"{file} is there and is no giga report", "choose another `out`, or remove it")


def render(values: dict[str, Any], *, data: dict[str, Any]) -> bytes:
    """Fill in the template with values, and give its script the data."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("gigacli.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = Markup  # of figures.svg alone: matplotlib has escaped their text
    files = resources.files("gigacli.reporting")
    script, style = ((files / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html.j2").render(
        **values,
        mark=Markup(MARK),
        script=Markup(script),
        style=Markup(style),
        digest=digest,
        data=Markup(as_json(data)),
    )
    return page.encode()


def as_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>`` element: no ``<``, ``>`` or ``&`` is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
