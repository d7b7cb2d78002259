"""Figures of :mod:`gigacli.reporting.plots` as SVG inside a page, in the page's own colours: light or dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gigacli.probing.figures import learning_curve
from gigacli.probing.kinds import KINDS
from gigacli.probing.results import ProbeRow

PALETTE = 8
_LONGEST_NAME = 44  # characters of a line of the legend
_LINE_INCHES = 0.17  # its height
_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"
_SERIES = [f"#0404{i:02x}" for i in range(PALETTE)]
_COLOURS = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", **{c: f"--c{i}" for i, c in enumerate(_SERIES)}}
"""Colours that stand for variables of the page's style sheet: figures are drawn in them, and then renamed."""


def _style() -> Any:
    from cycler import cycler

    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "giga",
        "text.parse_math": False,  # names come from tables: a dollar is a dollar
        "text.color": _INK,
        "font.size": 8.5,
        "axes.prop_cycle": cycler(color=_SERIES),
        "axes.edgecolor": _LINE,
        "axes.labelcolor": _MUTED,
        "axes.titlecolor": _INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _LINE,
        "grid.linewidth": 0.5,
        "xtick.color": _LINE,
        "ytick.color": _LINE,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
    }


def svg(draw: Callable[[Axes], object], *, name: str, label: str, size: tuple[float, float] = (4.2, 2.5)) -> str:
    """Draw one figure.

    Args:
        draw: Draws into axes.
        name: Unique on the page; ids inside the figure begin with it.
        label: What is seen, for those who do not see it.
        size: Width and height in inches.

    Returns:
        An ``<svg>`` element; what comes from the user is escaped by matplotlib, and here in `label`.
    """
    from markupsafe import escape

    with rc_context(_style()):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if legend := axes.get_legend():
            legend.remove()
            _legend_below(figure, *axes.get_legend_handles_labels())
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    picture = text.getvalue()
    picture = picture[picture.index("<svg") :]
    for colour, variable in _COLOURS.items():
        picture = picture.replace(colour, f"var({variable})")
    picture = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", picture)
    return picture.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Out of the way of the lines, in letters that a page can show: two columns where they fit, else one.

    The figure grows by what more than three lines of it take.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    short = [shortened(label, _LONGEST_NAME) for label in labels]
    place: dict[str, Any] = {"loc": "outside lower left", "fontsize": 8}
    legend = figure.legend(handles, short, ncols=2, **place)
    lines = -(-len(short) // 2)
    canvas: Any = FigureCanvasAgg(figure)
    # the letters of a browser may be somewhat wider than those that are measured here
    if legend.get_window_extent(canvas.get_renderer()).width > 0.9 * figure.bbox.width:
        legend.remove()
        figure.legend(handles, short, ncols=1, **place)
        lines = len(short)
    figure.set_figheight(figure.get_figheight() + _LINE_INCHES * max(0, lines - 3))


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one beginning and end."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def _curve(rows: Sequence[ProbeRow], axes: Axes) -> None:
    learning_curve(rows, axes)
    low, high = axes.get_ylim()
    chance = rows[0].chance
    axes.set_ylim(max(0.0, min(low, chance - 0.05)) if chance else low, min(1.02, high))
    axes.axhline(chance, color="grey", linestyle=":", linewidth=1)


def learning_curves(rows: Sequence[ProbeRow], *, number: int) -> list[str]:
    """Scores over training labels, and how far above the baseline they are, of one target."""
    title = KINDS[rows[0].task].title
    target, over = rows[0].target, "over the number of training labels"
    figures: list[tuple[str, str, Callable[..., object]]] = [("curve", f"{title} of {target} {over}", _curve)]
    if any(row.difference is not None for row in rows):
        figures.append(
            ("gain", f"{title} of {target} above the baseline {over}", partial(learning_curve, difference=True))
        )
    return [
        svg(partial(draw, rows), name=f"{name}{number}", label=label, size=(4.2, 3.2)) for name, label, draw in figures
    ]
