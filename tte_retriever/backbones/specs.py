"""The supported families: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from tte_retriever.errors import CheckpointError


@dataclass(frozen=True)
class BackboneSpec:
    """One family.

    Attributes:
        model_type: What ``config.json`` says.
        name: What people say.
        token_px: Side of the square of pixels that becomes one visual token.
        video_times: How a video's time reaches the model.
    """

    model_type: str
    name: str
    token_px: int
    video_times: str


BACKBONES = (
    BackboneSpec("qwen2_vl", "Qwen2-VL", 28, "temporal positions, one step per pair of frames"),
    BackboneSpec("qwen2_5_vl", "Qwen2.5-VL", 28, "temporal positions in proportion to seconds"),
    BackboneSpec("qwen3_vl", "Qwen3-VL", 32, "written timestamps before each pair of frames"),
)


def backbone_spec(model_type: str) -> BackboneSpec:
    """The family of a ``model_type``.

    Raises:
        CheckpointError: If it is none of :data:`BACKBONES`.
    """
    for spec in BACKBONES:
        if spec.model_type == model_type:
            return spec
    supported = ", ".join(f"{spec.name} ({spec.model_type})" for spec in BACKBONES)
    raise CheckpointError(
        f"The backbone has model_type {model_type!r}; supported are {supported}. Give a checkpoint of one of them."
    )
