"""The encoders of :mod:`gigacli.config.published`, built with timm or transformers and given their published weights.

Weights come from the user's cache of Hugging Face, from the hub, or from a file or folder. A file of torch is read as
numbers alone, never as a pickle.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gigacli.config.published import PUBLISHED, Published
from gigacli.errors import InvalidInput, Mismatch, NotFound, from_clone
from gigacli.nn.timm_encoder import import_timm, why_not
from gigacli.nn.vision_encoder import VisionEncoder


def published_encoder(
    name: str, *, device: torch.device, precision: str, weights: Path | None = None, pretrained: bool = True
) -> VisionEncoder:
    """Build a published encoder.

    Args:
        name: Of :data:`~gigacli.config.published.PUBLISHED`.
        device: Where it computes.
        precision: ``bf16`` or ``fp32``.
        weights: A file or a folder of its weights, in place of the hub's.
        pretrained: Whether to load weights, or to leave random ones (the same each time).

    Raises:
        NotFound: timm or transformers is not installed, or the weights cannot be had.
        Mismatch: The weights are not those of this network.
    """
    one = PUBLISHED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(one)
    if pretrained:
        file = _on_the_hub(name, one) if weights is None else _in_place(weights)
        _load(network, file, name)
    mean, std = one.normalisation
    return VisionEncoder(
        name,
        network.eval(),
        device=device,
        precision=precision,
        input_px=one.input_px,
        crop_px=one.crop_px,
        mean=mean,
        std=std,
        pool=pool_of(one, network),
    )


def build(one: Published) -> nn.Module:
    """The network, without weights of its own.

    Raises:
        NotFound: The library that it takes is not installed.
    """
    if one.loader == "transformers":
        library = _import_transformers()
        cls = getattr(library, one.architecture)
        options = {k: v for k, v in one.arguments.items() if k == "add_pooling_layer"}
        config = cls.config_class(**{k: v for k, v in one.arguments.items() if k not in options})
        made: nn.Module = cls(config, **options)
        return made
    timm = import_timm()
    arguments = {name: _imported(value) for name, value in one.arguments.items()}
    network: nn.Module = timm.create_model(
        one.architecture, pretrained=False, num_classes=0, global_pool=_TIMM_POOL[one.pooling], **arguments
    )
    return network


_TIMM_POOL = {"class": "token", "class+mean": ""}


def pool_of(one: Published, network: nn.Module) -> Any:
    """What makes of the network's output one vector per image.

    Registers, which stand between the class token and the patches, never count.
    """
    prefix = int(getattr(network, "num_prefix_tokens", 1))

    def pool(output: Any) -> Tensor:
        tokens: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state  # (n, tokens, width)
        if one.pooling == "class":
            return tokens if tokens.ndim == 2 else tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)

    return pool


def _imported(value: Any) -> Any:
    """A class by its name; anything else as it is."""
    if not isinstance(value, str):
        return value
    module, _, name = value.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise NotFound("this encoder is built by transformers", from_clone("transformers")) from None
    return transformers


def _on_the_hub(name: str, one: Published) -> Path:
    """The file of the weights in the user's cache, fetched where it is not there yet."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception | None = None
    for file in one.files:
        try:
            return Path(hf_hub_download(one.hub, file))
        except LocalEntryNotFoundError as error:
            missing = missing or error
        except EntryNotFoundError as error:  # the repository has the other one
            missing = error
        except Exception as error:  # of the network, of its cache, of a gate
            raise why_not(name, one.hub, error, weights="--weights FILE") from error
    assert missing is not None
    raise why_not(name, one.hub, missing, weights="--weights FILE") from missing


def _in_place(path: Path) -> Path:
    """The file of the weights, or that in a folder."""
    if path.is_file():
        return path
    for file in Published.files:
        if (path / file).is_file():
            return path / file
    raise NotFound(f"{path} holds no weights", f"give a file, or a folder with {' or '.join(Published.files)}")


def _load(network: nn.Module, file: Path, name: str) -> None:
    """Put weights into a network, all of them and none too many but those of a head."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Mapping[str, Tensor] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Mismatch(f"{file} cannot be read as weights: {type(error).__name__}: {str(error)[:200]}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InvalidInput(f"{file} is no table of weights by their names", "give the file of its repository")
    wanted = network.state_dict()
    state = {_plain(key, wanted): value for key, value in state.items()}
    lacking, strange = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys() - _HEADS)
    other = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if lacking or strange or other:
        first = (lacking or strange or sorted(other))[0]
        raise Mismatch(
            f"{file} holds no weights of {name}: {len(lacking)} are missing, {len(strange)} too many, {len(other)} of "
            f"another shape, the first {first!r}",
            f"give the file of https://huggingface.co/{PUBLISHED[name].hub}",
        )
    network.load_state_dict({key: state[key] for key in wanted})


_HEADS = {"head.weight", "head.bias", "pooler.dense.weight", "pooler.dense.bias", "mask_token"}
"""What a file may hold beside the trunk: classifiers and poolers, which do not take part."""


def _plain(key: str, wanted: Mapping[str, Tensor]) -> str:
    """The name without what transformers puts before it where a model is part of another."""
    _, dot, rest = key.partition(".")
    return rest if key not in wanted and dot and rest in wanted else key
