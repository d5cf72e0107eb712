"""How each method is probed: decode its rationale, and embed with other thoughts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch

from studies.thinking.probing.accuracy import CLOSED, OPENED, Comparison, compare
from studies.thinking.probing.given import predict_from, read_given_rationales
from studies.thinking.probing.interventions import INTERVENTIONS, shuffle_words, swap_items
from studies.thinking.probing.queries import BATCH, ProbeQueries, gold_ids, in_batches
from tte_retriever.backbones import qwen_vl_model, token_id
from tte_retriever.errors import InputError
from tte_retriever.explain.thoughts import embed_with, observe
from tte_retriever.explain.writing import BehindStates, write_greedily
from tte_retriever.training.collator import IGNORED, padded
from tte_retriever.training.lame.config import LameLossConfig
from tte_retriever.training.tte_flash.thought_pass import ThoughtPass

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import TrainConfig
    from tte_retriever.training.tte_flash.config import TTELossConfig

Ids: TypeAlias = list[list[int]]

OWN = "none"
"""Name of the entry for the unchanged model among the interventions."""

_SEED = 0
_LONGEST = 64  # most decoded tokens: twice a rationale of the small world


@dataclass(frozen=True)
class Thought:
    """The thoughts of B queries.

    Attributes:
        vectors: Name of an intervention → vectors (B, E) after it; ``none`` is the unchanged model.
        states: Last hidden states of K think tokens or latent steps; ``None`` where there are none.  (B, K, D)
        rationales: Their rationales compared with the true ones; empty where none are written.
    """

    vectors: dict[str, Tensor]
    states: Tensor | None = None
    rationales: tuple[Comparison, ...] = ()


def probe_think_tokens(encoder: TTEEncoder, config: TrainConfig, queries: ProbeQueries) -> Thought:
    """Probe a model with think tokens, or with none, and decode the rationales that its backbone was trained to write.

    Raises:
        InputError: The backbone was trained to write from keys and values.
    """
    if encoder.max_budget:
        thought = _replaced(encoder, queries)
    else:
        thought = Thought({OWN: torch.cat([out["sentence_embedding"] for out in queries.outputs(encoder)])})
    loss = config.loss
    separate = isinstance(loss, LameLossConfig) and bool(loss.decoder_layers or loss.decoder_model)
    if not config.stages[-1].rationale_weight or separate:
        return thought  # no rationale was trained, or the decoder is not in the checkpoint
    if (decoder := cast("TTELossConfig", config.loss).decoder) != "soft-prompt":
        raise InputError(f"loss.decoder is {decoder!r}, but a probe decodes from a soft-prompt only.")
    return replace(thought, rationales=_decoded(encoder, config, queries))


def probe_latent_steps(encoder: TTEEncoder, _config: TrainConfig, queries: ProbeQueries) -> Thought:
    """Probe a model with latent steps: replace them in all layers, and their inputs alone."""
    return _replaced(encoder, queries, inputs_alone=True)


def probe_written(encoder: TTEEncoder, config: TrainConfig, queries: ProbeQueries) -> Thought:
    """Probe a model that writes rationales: embed its queries after other rationales."""
    own: Ids = []
    vectors: list[Tensor] = []
    for out in queries.outputs(encoder):
        vectors.append(out["sentence_embedding"])
        own += _unpadded(out["rationale_ids"])
    gold = gold_ids(encoder, config, queries.pairs)
    shuffled = [_shuffled(encoder.tokenizer, ids, _SEED + row) for row, ids in enumerate(own)]
    others: dict[str, Ids] = {"swap": swap_items(own, _SEED), "shuffle": shuffled}
    others |= {"empty": [[] for _ in own], "gold": gold}
    readings = {
        name: [
            read_given_rationales(encoder, features, padded(list(part), IGNORED))
            for features, part in zip(queries.batches, in_batches(rationales), strict=True)
        ]
        for name, rationales in others.items()
    }
    predicted = [row for reading in readings["gold"] for row in reading.predicted.tolist()]
    given = {name: torch.cat([reading.vectors for reading in read]) for name, read in readings.items()}
    return Thought({OWN: torch.cat(vectors), **given}, rationales=_compared(encoder, gold, own, predicted))


PER_METHOD: dict[str, Callable[[TTEEncoder, TrainConfig, ProbeQueries], Thought]] = {
    "direct": probe_think_tokens,
    "tte-flash": probe_think_tokens,
    "lame": probe_think_tokens,
    "plume": probe_latent_steps,
    "explicit-cot": probe_written,
}
"""Method → its probe: a function of the model, its training config and the queries."""


def _replaced(encoder: TTEEncoder, queries: ProbeQueries, *, inputs_alone: bool = False) -> Thought:
    """Embed queries with other hidden states at their think tokens or latent steps.

    Args:
        encoder: The model.
        queries: The queries.
        inputs_alone: Whether to replace the inputs of the first layer alone, too. Those of think tokens are the same for
            every query.
    """
    own = [observe(encoder, features) for features in queries.batches]
    inputs = torch.cat([each.inputs for each in own], dim=1)  # (layers, B, K, D)
    several = inputs.shape[2] > 1
    others = {name: change(inputs, _SEED) for name, change in INTERVENTIONS.items() if several or name != "shuffle"}
    if inputs_alone:
        others |= {f"{name}-inputs": states[:1] for name, states in others.items()}
    vectors = {OWN: torch.cat([each.vectors for each in own])}
    for name, states in others.items():
        parts = zip(queries.batches, states.split(BATCH, dim=1), strict=True)
        vectors[name] = torch.cat([embed_with(encoder, features, part) for features, part in parts])
    return Thought(vectors, torch.cat([each.states for each in own]))


def _decoded(encoder: TTEEncoder, config: TrainConfig, queries: ProbeQueries) -> tuple[Comparison, ...]:
    loss = cast("TTELossConfig", config.loss)
    sight = ThoughtPass(encoder.thought, loss.rationale_from, loss.decoder, stop_gradient=False)
    backbone, end_id = qwen_vl_model(encoder.transformer), token_id(encoder.tokenizer, "<|im_end|>")
    gold, written, predicted = gold_ids(encoder, config, queries.pairs), Ids(), Ids()
    for out, ids in zip(queries.outputs(encoder), in_batches(gold), strict=True):
        states, visible = out["token_embeddings"], sight.visible(out["input_ids"], out["attention_mask"])
        text = write_greedily(BehindStates(backbone, states, visible), backbone, {end_id: "end-of-turn"}, _LONGEST)
        written += _unpadded(text.ids)
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
