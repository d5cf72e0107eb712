"""A pretrained causal language model that turns reason states into text, behind a projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tte_retriever.errors import InputError
from tte_retriever.tokens import end_of_turn_ids, escape_control_tokens
from tte_retriever.training.collator import IGNORED, padded

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from tte_retriever.backbones import QwenVLModel


class PretrainedDecoder(nn.Module):
    """A causal language model whose prompt is the projected reason states, and nothing else.

    It has a vocabulary of its own: texts are decoded with the tokenizer of the backbone and tokenised again. Everything in it
    is trained, the projection from a random start whose outputs are as large as its word embeddings.

    Args:
        name: Folder or hub id of a causal language model of transformers.
        width: D, of the states.
        tokenizer: Of the backbone.

    Raises:
        InputError: There is no such model, it cannot be reached, or its tokenizer has no end-of-sequence token.
    """

    def __init__(self, name: str, width: int, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        try:
            self.decoder: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
            self._own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise InputError(
                f"decoder_model {name!r} cannot be loaded ({(str(error).splitlines() or [type(error).__name__])[0]}); give "
                "the folder or hub id of a causal language model, such as Qwen/Qwen3-0.6B, or null for the light decoder."
            ) from error
        if self._own.eos_token_id is None:
            raise InputError(
                f"The tokenizer of decoder_model {name!r} has no end-of-sequence token; give a model that has."
            )
        self._tokenizer = tokenizer
        words = cast("nn.Embedding", self.decoder.get_input_embeddings()).weight  # (V, D')
        linear = nn.Linear(width, words.shape[1])
        nn.init.normal_(linear.weight, std=float(words.detach().std()) / width**0.5)
        nn.init.zeros_(linear.bias)
        self.projection = nn.Sequential(nn.LayerNorm(width), linear)

    def forward(self, states: Tensor, present: Tensor, text_ids: Tensor, _backbone: QwenVLModel) -> Tensor:
        """Next-token NLL of texts, the mean of each row over the decoder's own tokens.

        Args:
            states: Last hidden states of the reason tokens.  (B, K, D)
            present: True where there is a state, in the last column of every row.  (B, K) bool
            text_ids: Token ids of the backbone, padded on the right with -100, at least one in every row.  (B, R) int64

        Returns:
            (B,) float32.
        """
        ids = self.translate(text_ids)  # (B, R')
        prompt = self.projection(states.float())  # (B, K, D')
        words = self.decoder.get_input_embeddings()(ids.clamp(min=0))  # (B, R', D')
        mask = torch.cat([present, ids >= 0], dim=1)  # (B, K + R')
        logits = self.decoder(
            inputs_embeds=torch.cat([prompt.to(words.dtype), words], dim=1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=ids.shape[1] + 1,
        ).logits[:, :-1]  # (B, R', V)
        nll = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), ignore_index=IGNORED, reduction="none")
        return nll.view_as(ids).sum(1) / (ids >= 0).sum(1).clamp(min=1)

    def translate(self, text_ids: Tensor) -> Tensor:
        """Token ids of the backbone (B, R) as those of the decoder (B, R'), both padded on the right with -100.

        The end of a text becomes the end-of-sequence token of the decoder. A text that was cut has no end.
        """
        ends = end_of_turn_ids(self._tokenizer)
        rows: list[list[int]] = []
        for row in text_ids.tolist():
            ids = [token for token in row if token >= 0]
            complete = bool(ids) and ids[-1] in ends
            text = self._tokenizer.decode(ids[:-1] if complete else ids, clean_up_tokenization_spaces=False)
            text = str(text).rstrip("\N{REPLACEMENT CHARACTER}")  # a character that was cut
            own = self._own(escape_control_tokens(text, self._own), add_special_tokens=False).input_ids
            rows.append([*own, *[self._own.eos_token_id] * complete])
        return padded(rows, IGNORED).to(text_ids.device)
