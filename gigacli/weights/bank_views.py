"""Which tiles of a slide a bank encodes, under which augmentations, by its options."""

from __future__ import annotations

from gigacli.config.bank import BankConfig
from gigacli.nn.tile_features import BankViews, draw_bank_views, draw_calibration, no_views


def views_of_slide(config: BankConfig, slide_id: str, *, count: int, tile_px: int, calibrates: bool) -> BankViews:
    """The rows of a slide: of a bank of tiles, of a slide that operators are learnt from, or none.

    Args:
        config: Options.
        slide_id: Id of the slide.
        count: Number of its tiles.
        tile_px: Edge of a tile.
        calibrates: Whether operators are learnt from it; of a bank of tiles without meaning.
    """
    if config.mode == "tiles":
        return draw_bank_views(
            config.seed,
            slide_id,
            count=count,
            augmentations=config.augmentations,
            draws=config.draws,
            tile_px=tile_px,
            independent=config.independent,
            stain=config.stain,
        )
    if not calibrates:
        return no_views(tile_px=tile_px)
    return draw_calibration(
        config.seed,
        slide_id,
        count=count,
        sets=config.sets,
        draws=config.draws,
        tile_px=tile_px,
        stain=config.stain,
    )
