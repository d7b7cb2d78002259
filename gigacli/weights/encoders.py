"""``giga encoders``: the published tile encoders that ``giga bank --encoder`` knows by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gigacli.config.published import PUBLISHED, Published
from gigacli.progress import SILENT, Progress
from gigacli.shown import Block, Shown, some


@dataclass(frozen=True, kw_only=True)
class EncoderRow:
    """A published encoder."""

    name: str
    width: int  # values per tile
    input_px: int  # edge of the image it is given
    mpp: float  # microns per pixel of the images it was trained on
    pooling: str  # what its vector is: the class token, and beside it the mean of the patch tokens
    licence: str  # as its page named it in 2026
    gated: bool  # whether its page must be asked for the weights
    here: bool  # whether they are in the user's cache of Hugging Face
    page: str
    needs: str  # the extra of giga that builds it


@dataclass(frozen=True, kw_only=True)
class EncoderList(Shown):
    """What ``giga encoders`` found."""

    encoders: list[EncoderRow]
    cache: str  # where the weights are looked for; "" where huggingface_hub is not installed

    def blocks(self) -> Iterator[Block]:
        """One row each, and how one is used."""
        where = {True: "here", False: "on its page"}
        rows = (
            (
                e.name,
                e.width,
                e.input_px,
                e.mpp,
                e.pooling,
                where[e.here] if e.here or not e.gated else "asked for",
                e.licence,
            )
            for e in self.encoders
        )
        yield from some("", ("encoder", "width", "px", "mpp", "vector", "weights", "licence"), rows)
        yield f"weights are looked for in {self.cache or 'the cache of Hugging Face'}"
        yield "use one: giga bank STORE --encoder NAME [--weights FILE]"


def encoders(*, here: bool = False, progress: Progress = SILENT) -> EncoderList:
    """List published tile encoders, and whether their weights are on this machine.

    Args:
        here: Only those whose weights are on this machine.
        progress: Receives nothing: it takes no time.
    """
    try:
        from huggingface_hub import constants

        cache = constants.HF_HUB_CACHE
    except ImportError:
        cache = ""
    rows = [
        EncoderRow(
            name=name,
            width=one.width,
            input_px=one.input_px,
            mpp=one.mpp,
            pooling=one.pooling,
            licence=one.licence,
            gated=one.gated,
            here=bool(cache) and _is_here(one),
            page=f"https://huggingface.co/{one.hub}",
            needs=one.loader,
        )
        for name, one in PUBLISHED.items()
    ]
    return EncoderList(encoders=[row for row in rows if row.here or not here], cache=cache)


def _is_here(one: Published) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(one.hub, file), str) for file in one.files)
