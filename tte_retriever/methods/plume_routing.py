"""How often the experts of a PLUME are chosen, by step and modality."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.util import batch_to_device

from tte_retriever.errors import CheckpointError
from tte_retriever.media import typed_input
from tte_retriever.methods.plume import PlumeTransformer
from tte_retriever.methods.plume_adapter import IdentityAdapter

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = ("text", "image", "video")


@dataclass(frozen=True)
class Routing:
    """How the latent steps of some items were routed.

    Attributes:
        items: Number of items.
        chosen: Fraction of items for which each expert was chosen at each step.  (K, X) float32
        probability: Mean probability of each expert.  (K, X) float32
    """

    items: int
    chosen: torch.Tensor
    probability: torch.Tensor


def routing_statistics(encoder: Any, items: Sequence[Any], *, batch_size: int = 32) -> dict[str, Routing]:
    """Count the routed experts that latent steps choose; the shared expert is always on.

    Args:
        encoder: A ``TTEEncoder`` of the method ``plume``.
        items: As for ``encode``; all of them take ``max_budget`` steps.
        batch_size: Items in a forward pass.

    Returns:
        By modality of the given items, such as ``text``, ``image`` or ``text+image``. A white picture that is added to a text
        does not count.

    Raises:
        CheckpointError: If the encoder is of another method.
        InputError: An unusable item.
    """
    thinker = encoder[0]
    if not isinstance(thinker, PlumeTransformer):
        raise CheckpointError("This encoder has no experts; give one of the method plume.")
    if isinstance(thinker.adapter, IdentityAdapter):
        raise CheckpointError("This PLUME has no adapter, so it has no experts; give one that was built with experts.")
    encoder.eval()
    typed = [typed_input(item, encoder.media_limits, video=encoder.video_sampling) for item in items]
    ordered = sorted(typed, key=_modality)
    probabilities = torch.cat(
        [_probabilities(encoder, thinker, ordered[at : at + batch_size]) for at in range(0, len(ordered), batch_size)]
    )  # (B, K, X)
    adapter = thinker.adapter
    chosen = adapter.gates(probabilities)[..., : adapter.experts] > 0  # (B, K, X)
    modalities = [_modality(item) for item in ordered]
    statistics = {}
    for modality, count in Counter(modalities).items():
        rows = torch.tensor([each == modality for each in modalities])
        statistics[modality] = Routing(count, chosen[rows].float().mean(0), probabilities[rows].mean(0))
    return statistics


@torch.inference_mode()
def _probabilities(encoder: Any, thinker: PlumeTransformer, items: Sequence[Any]) -> torch.Tensor:
    features = batch_to_device(encoder.preprocess(items, think_budget=thinker.max_budget), encoder.device)
    prefix = thinker.read_prefix(features)
    budget = torch.full_like(prefix.anchor, thinker.max_budget)  # (B,)
    return thinker.think(prefix, budget).routing.cpu()  # (B, K, X)


def _modality(item: Any) -> str:
    if "message" in item:
        contents = [message["content"] for message in item["message"]]
        found = {"text" if isinstance(part, str) else part["type"] for content in contents for part in content}
    else:
        found = set(item)
    return "+".join(kind for kind in _KINDS if kind in found)
