"""The supported backbone families."""

from __future__ import annotations

from dataclasses import dataclass

from tte_retriever.errors import CheckpointError


@dataclass(frozen=True)
class BackboneSpec:
    """One family.

    Attributes:
        model_type: ``model_type`` in ``config.json``.
        name: Its usual name.
        token_px: Side of the square that becomes one visual token, in pixels.
        video_times: How the model gets the times of a video.
        is_recurrent: Whether some layers keep one state for all tokens in place of keys and values for each. Nothing can be
            taken out of such a state, so keys and values of chosen tokens do not exist and a batch cannot be padded behind
            what is read next.
        language_prefix: What the names of the decoder's weights start with in the family's checkpoints on the hub.
        vision_prefix: The same for the vision tower.

    Example:
        >>> [spec.name for spec in BACKBONES]
        ['Qwen2-VL', 'Qwen2.5-VL', 'Qwen3-VL', 'Qwen3.5']
    """

    model_type: str
    name: str
    token_px: int
    video_times: str
    is_recurrent: bool = False
    language_prefix: str = "model.language_model."
    vision_prefix: str = "model.visual."


BACKBONES = (
    BackboneSpec(
        "qwen2_vl",
        "Qwen2-VL",
        28,
        "temporal positions, one step per pair of frames",
        language_prefix="model.",
        vision_prefix="visual.",
    ),
    BackboneSpec(
        "qwen2_5_vl",
        "Qwen2.5-VL",
        28,
        "temporal positions in proportion to seconds",
        language_prefix="model.",
        vision_prefix="visual.",
    ),
    BackboneSpec("qwen3_vl", "Qwen3-VL", 32, "written timestamps before each pair of frames"),
    BackboneSpec("qwen3_5", "Qwen3.5", 32, "written timestamps before each pair of frames", is_recurrent=True),
)


def backbone_spec(model_type: str) -> BackboneSpec:
    """The family of a ``model_type``.

    Raises:
        CheckpointError: If it is none of :data:`BACKBONES`.

    Example:
        >>> backbone_spec("qwen2_vl").token_px
        28
    """
    for spec in BACKBONES:
        if spec.model_type == model_type:
            return spec
    supported = ", ".join(f"{spec.name} ({spec.model_type})" for spec in BACKBONES)
    raise CheckpointError(
        f"The backbone has model_type {model_type!r}; supported are {supported}. Give a checkpoint of one of them."
    )
