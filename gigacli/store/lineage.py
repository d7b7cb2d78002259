"""What a group was made from, and whether that is what the store holds now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gigacli.store.recipe import Recipe

Attributes = Callable[[str], dict[str, Any]]
"""Function from the path of a group to its attribute ``giga``, empty where there is no such group."""


def replaced(recipe: Recipe, attributes: Attributes) -> Iterator[str]:
    """Say which inputs of a recipe were replaced after it was followed; those that are not there are left out."""
    for key, used in recipe.inputs.items():
        source = input_group(recipe.config, key, attributes)
        found = state(source, key, attributes) if source is not None else None
        if found not in (None, used):
            yield f"made from {source} {used}, which is now {found}"


def state(path: str, key: str, attributes: Attributes) -> str | None:
    """What a recipe made from a group states of it now: a hash of its weights, else of its recipe; None without it."""
    giga = attributes(path)
    recipe = giga.get("recipe")
    if not isinstance(recipe, dict):
        return None
    if key in ("encoder", "model"):
        weights = giga.get("sha256", {}).get("weights")
        return str(weights) if weights is not None else None
    return Recipe(**recipe).fingerprint


def input_group(config: dict[str, Any], key: str, attributes: Attributes) -> str | None:
    """The group that an input of a recipe names; None for a model file, which is no group."""
    if key == "model" and "variant" in config:
        return None
    if key == "tiles":
        return "tiles"
    if key.startswith("embeddings/"):  # a part of a join
        return key
    if key in ("bank", "model", "encoder"):
        return f"{key}s/{config.get(key)}"
    if key == "features" and "features_name" in config:
        return f"features/{config['features_name']}"
    if key == "features" and "bank" in config:  # a slide encoder trained on features that were imported
        return f"features/{config['bank']}"
    if key == "features":
        model = attributes(f"models/{config.get('model')}").get("recipe")
        return f"features/{model['config'].get('bank')}" if model else None
    return None
