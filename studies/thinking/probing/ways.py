"""The ways in which the methods think, each probed as it can be: what is said, and what another thought would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch

from studies.thinking.probing.accuracy import CLOSED, OPENED, Comparison, compare
from studies.thinking.probing.asking import BATCH, Asked, gold_ids, in_batches
from studies.thinking.probing.interventions import INTERVENTIONS, shuffle_words, swap_items
from tte_retriever.errors import InputError
from tte_retriever.explain.rationales import predict_from, read_rationale, write_from
from tte_retriever.explain.thoughts import embed_with, observe
from tte_retriever.training.collator import IGNORED, padded
from tte_retriever.training.lame.config import LameLossConfig
from tte_retriever.training.tte_flash.thinking import Thinking

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import TrainConfig

Ids: TypeAlias = list[list[int]]

OWN = "none"
"""Name of the intervention that is none."""

_SEED = 0
_LONGEST = 64  # tokens that may be decoded: twice a rationale of the small world


@dataclass(frozen=True)
class Thought:
    """What B queries thought.

    Attributes:
        vectors: Name of an intervention → vectors (B, E) after it; ``none`` is the model as it is.
        states: Last hidden states of K think tokens or latent steps; ``None`` where there are none.  (B, K, D)
        said: Their rationales, against those that they should have; empty where nothing is written.
    """

    vectors: dict[str, Tensor]
    states: Tensor | None = None
    said: tuple[Comparison, ...] = ()


def in_tokens(encoder: TTEEncoder, config: TrainConfig, asked: Asked) -> Thought:
    """Think tokens or none, and rationales that the backbone writes as it was trained to.

    Raises:
        InputError: If it was trained to write from keys and values.
    """
    if encoder.max_budget:
        thought = latently(encoder, config, asked)
    else:
        thought = Thought({OWN: torch.cat([out["sentence_embedding"] for out in asked.embedded(encoder)])})
    light = isinstance(config.loss, LameLossConfig) and config.loss.decoder_layers > 0
    if not config.stages[-1].rationale_weight or light:
        return thought  # nothing was to be written, or a decoder wrote it that is no part of the checkpoint
    if config.loss.decoder != "soft-prompt":
        raise InputError(f"loss.decoder is {config.loss.decoder!r}, but a probe writes behind a soft-prompt alone.")
    return replace(thought, said=_decoded(encoder, config, asked))


def latently(encoder: TTEEncoder, config: TrainConfig, asked: Asked) -> Thought:
    """Think tokens or latent steps, in the place of which others are put."""
    own = [observe(encoder, features) for features in asked.batches]
    inputs = torch.cat([each.inputs for each in own], dim=1)  # (layers, B, K, D)
    several = inputs.shape[2] > 1
    others = {name: change(inputs, _SEED) for name, change in INTERVENTIONS.items() if several or name != "shuffle"}
    if config.model.method == "plume":  # think tokens are the same input for every query
        others |= {f"{name}-inputs": states[:1] for name, states in others.items()}
    vectors = {OWN: torch.cat([each.vectors for each in own])}
    for name, states in others.items():
        parts = zip(asked.batches, states.split(BATCH, dim=1), strict=True)
        vectors[name] = torch.cat([embed_with(encoder, features, part) for features, part in parts])
    return Thought(vectors, torch.cat([each.states for each in own]))


def in_words(encoder: TTEEncoder, config: TrainConfig, asked: Asked) -> Thought:
    """Rationales that the model writes, in the place of which it is given others to read."""
    own: Ids = []
    vectors: list[Tensor] = []
    for out in asked.embedded(encoder):
        vectors.append(out["sentence_embedding"])
        own += _unpadded(out["rationale_ids"])
    gold = gold_ids(encoder, config, asked.pairs)
    shuffled = [_shuffled(encoder.tokenizer, ids, _SEED + row) for row, ids in enumerate(own)]
    others: dict[str, Ids] = {"swap": swap_items(own, _SEED), "shuffle": shuffled}
    others |= {"empty": [[] for _ in own], "gold": gold}
    readings = {
        name: [
            read_rationale(encoder, features, padded(list(part), IGNORED))
            for features, part in zip(asked.batches, in_batches(rationales), strict=True)
        ]
        for name, rationales in others.items()
    }
    predicted = [row for reading in readings["gold"] for row in reading.predicted.tolist()]
    given = {name: torch.cat([reading.vectors for reading in read]) for name, read in readings.items()}
    return Thought({OWN: torch.cat(vectors), **given}, said=_compared(encoder, gold, own, predicted))


WAYS: dict[str, Callable[[TTEEncoder, TrainConfig, Asked], Thought]] = {
    "direct": in_tokens,
    "tte-flash": in_tokens,
    "lame": in_tokens,
    "plume": latently,
    "explicit-cot": in_words,
}
"""Method → how it is probed: the model, the config that it was trained with, and what it is asked."""


def _decoded(encoder: TTEEncoder, config: TrainConfig, asked: Asked) -> tuple[Comparison, ...]:
    sight = Thinking(encoder.thought, config.loss.rationale_from, config.loss.decoder, stop_gradient=False)
    backbone, tokenizer = encoder.transformer.model, cast("Any", encoder.tokenizer)
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    gold, written, predicted = gold_ids(encoder, config, asked.pairs), Ids(), Ids()
    for out, ids in zip(asked.embedded(encoder), in_batches(gold), strict=True):
        states, visible = out["token_embeddings"], sight.visible(out["input_ids"], out["attention_mask"])
        written += _unpadded(write_from(backbone, states, visible, end_id=end_id, longest=_LONGEST))
        predicted += predict_from(backbone, states, visible, padded(list(ids), IGNORED)).tolist()
    return _compared(encoder, gold, written, predicted)


def _compared(encoder: TTEEncoder, gold: Ids, written: Ids, predicted: Ids) -> tuple[Comparison, ...]:
    return tuple(compare(encoder.tokenizer, *each) for each in zip(gold, written, predicted, strict=True))


def _unpadded(ids: Tensor) -> Ids:
    return [[token for token in row if token != IGNORED] for row in ids.tolist()]


def _shuffled(tokenizer: Any, ids: list[int], seed: int) -> list[int]:
    """A rationale with the words between its tags in another order."""
    words, closed, rest = tokenizer.decode(ids).removeprefix(OPENED).partition(CLOSED)
    text = f"{OPENED if closed else ''}{shuffle_words(words, seed)}{closed}{rest}"
    return list(tokenizer(text, add_special_tokens=False).input_ids)
