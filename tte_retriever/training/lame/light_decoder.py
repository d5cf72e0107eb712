"""A small decoder that turns reason states into text and reads nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from tte_retriever.explain.decoding import output_matrix
from tte_retriever.training.rationale import token_nll

if TYPE_CHECKING:
    from torch import Tensor

    from tte_retriever.backbones import QwenVLModel


class LightDecoder(nn.Module):
    """Transformer layers over the backbone's vocabulary that cross-attend to the given states alone.

    Input and output embedding are those of the backbone, so only the layers are new weights.

    Args:
        width: D.
        heads: Attention heads; they divide D.
        layers: Number of layers.
    """

    def __init__(self, width: int, *, heads: int, layers: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(width))
        # A backbone's embedding rows are far smaller than the outputs of layers; its last hidden states may be far larger.
        self.words_norm, self.states_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))

    def forward(self, states: Tensor, present: Tensor, text_ids: Tensor, backbone: QwenVLModel) -> Tensor:
        """Next-token NLL of texts, the mean of each row.

        Args:
            states: As for :meth:`predicting_states`, and so are ``present`` and ``backbone``.
            present: (B, K) bool
            text_ids: Token ids, padded on the right with -100, at least one in every row.  (B, R) int64
            backbone: The model that has their embeddings.

        Returns:
            (B,) float32.
        """
        hidden = self.predicting_states(states, present, text_ids, backbone)  # (B, R, D)
        return token_nll(hidden, text_ids, output_matrix(backbone))

    def predicting_states(self, states: Tensor, present: Tensor, text_ids: Tensor, backbone: QwenVLModel) -> Tensor:
        """The states that predict each token of texts; see :class:`tte_retriever.explain.RationaleDecoder`.

        Args:
            states: What is decoded.  (B, K, D)
            present: True where there is a state, at least one in every row.  (B, K) bool
            text_ids: Token ids, padded on the right with -100; the last of them is not read.  (B, R) int64
            backbone: The model that has their embeddings.

        Returns:
            (B, R, D).
        """
        words = backbone.get_input_embeddings()(text_ids[:, :-1].clamp(min=0)).to(self.start)  # (B, R - 1, D)
        start = self.start.expand(len(words), 1, -1)
        inputs = self.words_norm(torch.cat([start, words], dim=1))  # (B, R, D)
        length, width = inputs.shape[1:]
        ahead = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
        hidden: Tensor = self.layers(
            inputs + _positions(length, width).to(inputs),
            self.states_norm(states.to(inputs)),
            tgt_mask=ahead,
            memory_key_padding_mask=~present,
        )
        return hidden


def _positions(length: int, width: int) -> Tensor:
    """The sinusoids of arXiv 1706.03762; (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))  # (width / 2,)
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
