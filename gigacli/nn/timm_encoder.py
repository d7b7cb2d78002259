"""Models of timm as tile encoders (the paper's ablation of the tile encoder).

Weights of a timm model are identified in the recipe by :func:`state_hash` and never kept in the store: they can be
gigabytes, and their licences often forbid passing them on.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from gigacli.errors import GigaError, Mismatch, NotFound, from_clone
from gigacli.nn.vision_encoder import VisionEncoder

TIMM = "timm:"
"""How ``--encoder`` names a model of timm: ``timm:NAME``, ``timm:hf-hub:ORG/MODEL`` or ``timm:local-dir:FOLDER``."""


class TimmEncoder(VisionEncoder):
    """A model of timm, fed and normalised as its configuration says.

    Args:
        name: timm's name of it, without ``timm:``.
        device: Where it computes.
        precision: ``bf16`` (weights and activations) or ``fp32``.
        pretrained: Whether to load its weights, or to draw random ones (the same each time).

    Raises:
        NotFound: timm is not installed, or has no such model or no weights for it, or they cannot be had.
        Mismatch: timm cannot be imported, the weights do not fit the model, or it does not turn a square colour image
            into one vector.
    """

    def __init__(self, name: str, *, device: torch.device, precision: str, pretrained: bool = True) -> None:
        timm = import_timm()
        network = _create(timm, name, pretrained=pretrained).eval()
        data = timm.data.resolve_model_data_config(network)
        colours, height, width = data["input_size"]
        if colours != 3 or height != width:
            raise Mismatch(f"{TIMM}{name} takes images of {(colours, height, width)}; expected (3, n, n)")
        super().__init__(
            f"{TIMM}{name}",
            network,
            device=device,
            precision=precision,
            input_px=width,
            crop_px=width,
            mean=data["mean"],
            std=data["std"],
            pool=lambda output: output,
        )


def import_timm() -> Any:
    """The module timm.

    Raises:
        NotFound: It is not installed.
        Mismatch: It is, but something it needs does not fit; nearly always torchvision, whose builds go with one build
            of torch each.
    """
    try:
        import timm
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise NotFound(f"an encoder {TIMM}NAME needs timm", from_clone("timm")) from None
        raise Mismatch(
            f"timm is installed but cannot be imported: {error}",
            f"its torchvision must be built for torch {torch.__version__}: install both from one place; for a CPU: "
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        ) from error
    return timm


def _create(timm: Any, name: str, *, pretrained: bool) -> nn.Module:
    """The model without its classifier. Weights that lack a name or have one too many are refused."""
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        _check_name(timm, name, pretrained=pretrained)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # The classifier goes afterwards: told num_classes=0, timm would leave what a file lacks at random.
            model = timm.create_model(name, pretrained=pretrained)
            model.reset_classifier(0)
    except Exception as error:  # of the network, of its cache, of torch, of a configuration found on the network
        repository = name.partition(":")[2].partition("@")[0]
        raise why_not(f"{TIMM}{name}", repository, error, weights=f"{TIMM}local-dir:FOLDER") from error
    return model


def _check_name(timm: Any, name: str, *, pretrained: bool) -> None:
    """Refuse what timm does not know, with what is close to it."""
    if "/" in name:
        raise NotFound(
            f"{TIMM}{name} is no model of timm",
            f"for one on Hugging Face or in a folder: {TIMM}hf-hub:{name} or {TIMM}local-dir:{name}",
        )
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=5)
        hint = f"close to it: {', '.join(close)}" if close else "timm.list_models() lists them"
        raise NotFound(f"timm {timm.__version__} has no model {architecture!r}", hint)
    if (pretrained or dot) and not timm.is_model_pretrained(name):
        known = timm.list_pretrained(f"{architecture}.*")
        hint = f"there are: {', '.join(known[:10])}" if known else "timm.list_pretrained() lists models with weights"
        raise NotFound(f"timm {timm.__version__} has no weights {name!r}", hint)


def why_not(name: str, repository: str, error: Exception, *, weights: str) -> GigaError:
    """Why a model that is known could not be made, as an error with a remedy.

    Args:
        name: What the user asked for.
        repository: Its repository on Hugging Face.
        error: What happened.
        weights: How the user says where a folder with config.json and model.safetensors is.
    """
    from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError

    reason = " ".join(str(error).split())[:500] or type(error).__name__
    if isinstance(error, GatedRepoError):
        page = f"https://huggingface.co/{repository}" if repository else "its page on huggingface.co"
        hint = f"accept its licence at {page}, then run: hf auth login (or set HF_TOKEN)"
        return NotFound(f"the weights of {name} are given out on request only", hint)
    if isinstance(error, RepositoryNotFoundError):
        return NotFound(
            f"Hugging Face has no {repository or name!r}, or not for this user: {reason}",
            "check the name; for a private one run: hf auth login",
        )
    if isinstance(error, OSError):  # no network, no such file; the Hub's own errors are OSErrors too
        return NotFound(
            f"the weights of {name} cannot be had: {type(error).__name__}: {reason}",
            "they are fetched once, then kept in HF_HOME: run once where there is a network and copy that folder, or "
            f"name a folder with config.json and model.safetensors: {weights}",
        )
    return Mismatch(
        f"timm cannot make {name} with its weights: {type(error).__name__}: {reason}",
        "its files must say all that timm needs: architecture, arguments and exactly the weights of that model",
    )
