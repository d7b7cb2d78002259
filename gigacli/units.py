"""How figures of a summary are written: with what they are counted in, where their names do not say it."""

from __future__ import annotations

UNITS = {
    "rate": "{:,.0f} encodings/s",
    "waited": "{:.0%} of the time",
    "seconds": "{:,.1f} s",
    "least": "{:,} tiles",
    "median": "{:,.0f} tiles",
    "most": "{:,} tiles",
    "width": "{:,} values",
    "mpp": "{:.3g} microns per pixel",
    "rank": "{:.1f} dimensions",
    "queue": "{:,} negatives",
    "queue_accuracy": "{:.0%} of the tiles",
    "towards": "{:,} tiles",
    "away": "{:,} tiles",
    "logit": "{:+.2f} log odds",
    "similarity": "cosine {:.3f}",
    "typical": "cosine {:.3f}",
    "searched": "{:,} slides",
    "trained_on": "{:,} slides",
    "left_out": "{:,} slides",
}


def figure_text(name: str, value: object) -> str:
    """Write the value of a field of a summary; "" for a number that there is not."""
    if value != value:  # NaN
        return ""
    if name == "bytes" and isinstance(value, int):
        return bytes_text(value)
    if name in UNITS:
        return UNITS[name].format(value)
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def bytes_text(n: float) -> str:
    """Write a number of bytes for people: 1536 as "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
