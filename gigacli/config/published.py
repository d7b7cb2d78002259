"""Published tile encoders by name: how each is built, what it is fed and how its output becomes one vector.

What is said here is what its publisher says: arguments, normalisation, pooling, the resolution it was trained at. A
licence is named as its page named it in 2026; it is the page that counts. Weights are never part of giga.

Not here: CONCH v1.5 and Hibou, whose repositories run code of their own when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SWIGLU = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}
"""Arguments that are classes are named; :mod:`gigacli.nn.published_encoder` imports them."""

NO_COMMERCE, APACHE, MIT = "CC-BY-NC-ND-4.0", "Apache-2.0", "MIT"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A tile encoder as it was published."""

    hub: str  # its repository on Hugging Face
    loader: Literal["timm", "transformers"]
    architecture: str  # timm's name of the network, or the class of transformers
    arguments: dict[str, Any] = field(default_factory=dict)  # of the network
    pooling: Literal["class", "class+mean"] = "class"  # class token; beside it the mean of the patch tokens
    width: int  # values per tile
    million: int  # parameters
    input_px: int = 224  # edge of the image that is given
    crop_px: int = 224  # edge of the middle of it that the network sees
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # mean and standard deviation per colour
    mpp: float = 0.5  # microns per pixel of the images it was trained on
    licence: str
    gated: bool = False  # whether its page must be asked for the weights
    files = ("model.safetensors", "pytorch_model.bin")  # what weights are called; the first that is there is read


def _vit(million: int, **options: Any) -> dict[str, Any]:
    return {"loader": "timm", "million": million, **options}


_VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "dynamic_img_size": True, **SWIGLU}
_OPTIMUS = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}
_UNI2: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "init_values": 1e-5,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "no_embed_class": True,
    "reg_tokens": 8,
    "dynamic_img_size": True,
    **SWIGLU,
}
_GIGAPATH: dict[str, Any] = {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334}
_KAIKO = "1aurent/vit_{}.kaiko_ai_towards_large_pathology_fms"
_RESEARCH = "research only"


def _kaiko(kind: str, million: int, width: int, *, architecture: str = "") -> Published:
    return Published(
        hub=_KAIKO.format(kind),
        architecture=architecture or f"vit_{kind}",
        arguments={"img_size": 224, "dynamic_img_size": True},
        width=width,
        normalisation=HALF,
        licence=_RESEARCH,
        **_vit(million),
    )


PUBLISHED: dict[str, Published] = {
    "uni": Published(
        hub="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        arguments={"img_size": 224, "patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True},
        width=1024,
        licence=NO_COMMERCE,
        gated=True,
        **_vit(303),
    ),
    "uni2-h": Published(
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        arguments=_UNI2,
        width=1536,
        licence=NO_COMMERCE,
        gated=True,
        **_vit(681),
    ),
    "virchow": Published(
        hub="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW,
        pooling="class+mean",
        width=2560,
        licence=APACHE,
        gated=True,
        **_vit(631),
    ),
    "virchow2": Published(
        hub="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        pooling="class+mean",
        width=2560,
        licence=NO_COMMERCE,
        gated=True,
        **_vit(631),
    ),
    "h-optimus-0": Published(
        hub="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_OPTIMUS,
        width=1536,
        normalisation=OPTIMUS,
        licence=APACHE,
        gated=True,
        **_vit(1135),
    ),
    "h-optimus-1": Published(
        hub="bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_OPTIMUS,
        width=1536,
        normalisation=OPTIMUS,
        licence=NO_COMMERCE,
        gated=True,
        **_vit(1135),
    ),
    "h0-mini": Published(
        hub="bioptimus/H0-mini",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **SWIGLU},
        pooling="class+mean",
        width=1536,
        normalisation=OPTIMUS,
        licence=NO_COMMERCE,
        gated=True,
        **_vit(86),
    ),
    "prov-gigapath": Published(
        hub="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        arguments=_GIGAPATH,
        width=1536,
        input_px=256,
        licence=APACHE,
        gated=True,
        **_vit(1135),
    ),
    "phikon": Published(
        hub="owkin/phikon",
        loader="transformers",
        architecture="ViTModel",
        arguments={"add_pooling_layer": False},
        width=768,
        million=86,
        licence=_RESEARCH,
    ),
    "phikon-v2": Published(
        hub="owkin/phikon-v2",
        loader="transformers",
        architecture="Dinov2Model",
        arguments={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 16,
            "image_size": 224,
        },
        width=1024,
        million=303,
        licence=_RESEARCH,
    ),
    "midnight-12k": Published(
        hub="kaiko-ai/midnight",
        loader="transformers",
        architecture="Dinov2Model",
        arguments={
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "patch_size": 14,
            "image_size": 224,
            "use_swiglu_ffn": True,
        },
        pooling="class+mean",
        width=3072,
        million=1135,
        normalisation=HALF,
        licence=MIT,
    ),
    "kaiko-vits16": _kaiko("small_patch16_224", 22, 384),
    "kaiko-vitb16": _kaiko("base_patch16_224", 86, 768),
    "kaiko-vitl14": _kaiko("large_patch14_reg4_224", 303, 1024, architecture="vit_large_patch14_reg4_dinov2"),
    "lunit-vits16": Published(
        hub="1aurent/vit_small_patch16_224.lunit_dino",
        architecture="vit_small_patch16_224",
        arguments={"img_size": 224, "dynamic_img_size": True},
        width=384,
        normalisation=LUNIT,
        licence=_RESEARCH,
        **_vit(22),
    ),
}
