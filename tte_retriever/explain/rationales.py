"""The rationale behind an embedding, as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.util import batch_to_device
from torch.nn import functional as F

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix, states_at, visible_columns
from tte_retriever.explain.writing import BehindRollout, BehindStates, WithDecoder, Written, write_greedily
from tte_retriever.methods.explicit_cot import STOPS, ExplicitCoT
from tte_retriever.methods.plume import PlumeTransformer
from tte_retriever.tokens import end_of_turn_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.explain.writing import RationaleDecoder
    from tte_retriever.methods.explicit_cot import Stop

_LAME_CARD = "# lame on "
"""How the card of a built or trained LaME begins; its folder is otherwise that of TTE-Flash."""


@dataclass(frozen=True)
class Rationale:
    """What a model wrote about one item.

    Attributes:
        text: The rationale.
        token_ids: Its tokens.
        stop: Why it ended: ``embed`` after the embed token, ``end-of-turn`` without one, ``cap`` at the most tokens.
        probabilities: The model's probability of each token, after the tokens before it. Temperature and penalties of a
            ``generation_config`` are not applied.
        vector: The embedding of the item.  (E,) float32

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.explain import read_rationale
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> (rationale,) = read_rationale(encoder, "a red circle", max_tokens=2)
        >>> len(rationale.token_ids), rationale.stop, len(rationale.probabilities), rationale.vector.shape
        (2, 'cap', 2, (128,))
    """

    text: str
    token_ids: tuple[int, ...]
    stop: Stop
    probabilities: tuple[float, ...] = field(compare=False, repr=False)
    vector: np.ndarray = field(compare=False, repr=False)


def read_rationale(
    encoder: TTEEncoder,
    items: Any,
    decoder: RationaleDecoder | None = None,
    *,
    max_tokens: int = 512,
    batch_size: int = 32,
    think_budget: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[Rationale]:
    """Read the rationales of items as text.

    * ``tte-flash``: the backbone decodes the hidden states of the think tokens, as it was trained to.
    * ``lame``: ``decoder`` decodes them. It is not part of a checkpoint.
    * ``plume``: the backbone writes on after its latent steps.
    * ``explicit-cot``: the rationale that the model writes before it embeds.

    Text is decoded greedily; ``explicit-cot`` follows the ``generation_config`` of its model. A latent thought was trained
    to be decodable only if its loss had a generation part.

    Args:
        encoder: A model of any method but ``direct``.
        items: As for ``encode``; a single item gives a list of one.
        decoder: What decodes think tokens in place of the backbone: for ``lame``, ``LameLoss.light_decoder``.
        max_tokens: The most tokens of a decoded thought. In ``explicit-cot`` it is ``think_budget`` that limits them.
        batch_size: Items in one pass.
        think_budget: As for ``encode``.
        prompt_name: As for ``encode``.
        prompt: As for ``encode``.

    Raises:
        InputError: A model that has no rationale, a missing or useless decoder, a think budget of 0, or an unusable item.
        MediaError: Unusable media.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.small_world import draw_pairs
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> pairs = draw_pairs("question", 2, seed=0, split="test")
        >>> for rationale in read_rationale(encoder, [pair.query for pair in pairs]):
        ...     print(rationale.text.strip())
        east big red cross so red
        northwest big green cross so one
    """
    _check(encoder, decoder)
    prompt = encoder._resolve_prompt(prompt, prompt_name)
    items = [items] if encoder.is_singular_input(items) else items
    encoder.eval()
    rationales: list[Rationale] = []
    for start in range(0, len(items), batch_size):
        features = encoder.preprocess(items[start : start + batch_size], prompt=prompt, think_budget=think_budget)
        rationales += _read(encoder, batch_to_device(features, encoder.device), decoder, max_tokens)
    return rationales


def _check(encoder: TTEEncoder, decoder: RationaleDecoder | None) -> None:
    first = encoder.transformer
    writes = isinstance(first, (ExplicitCoT, PlumeTransformer))
    if isinstance(first, ExplicitCoT) and first.mode != "gen":
        raise InputError(f"The mode of this model is {first.mode!r}; it writes a rationale only in mode 'gen'.")
    if isinstance(first, PlumeTransformer) and first.options.readout != "gen":
        raise InputError(
            f"The readout of this model is {first.options.readout!r}, for which it takes no latent steps, so there is no "
            "rationale to read."
        )
    if not writes and not encoder.thought.think_ids:
        raise InputError(
            "This model embeds directly, so there is no rationale to read; give one of the method tte-flash, lame, plume or "
            "explicit-cot."
        )
    if writes and decoder is not None:
        raise InputError("This model writes its rationales itself; leave decoder out, which is for think tokens.")
    if not writes and decoder is None and _LAME_CARD in (encoder._model_card_text or ""):
        raise InputError(
            "This is a model of the method lame, whose decoder is not part of the checkpoint; give the one that it was "
            "trained with as decoder: LameLoss.light_decoder, from the state of the loss in the last stage's checkpoint."
        )


@torch.no_grad()
def _read(
    encoder: TTEEncoder, features: dict[str, Any], decoder: RationaleDecoder | None, max_tokens: int
) -> list[Rationale]:
    first = encoder.transformer
    if isinstance(first, ExplicitCoT):
        written, vectors = _of_explicit_cot(encoder, first, features)
    elif isinstance(first, PlumeTransformer):
        written, vectors = _of_latent_steps(encoder, first, features, max_tokens)
    else:
        written, vectors = _of_think_tokens(encoder, features, decoder, max_tokens)
    rationales = []
    for row, vector in enumerate(vectors.float().cpu().numpy()):
        tokens = tuple(token for token in written.ids[row].tolist() if token >= 0)
        probabilities = tuple(written.probabilities[row, : len(tokens)].tolist())
        text = encoder.tokenizer.decode(tokens)
        rationales.append(Rationale(text, tokens, written.stops[row], probabilities, vector.copy()))
    return rationales


def _of_think_tokens(
    encoder: TTEEncoder, features: dict[str, Any], decoder: RationaleDecoder | None, max_tokens: int
) -> tuple[Written, Tensor]:
    out, backbone = encoder(features), qwen_vl_model(encoder.transformer)
    ids = out["input_ids"]
    thinks = torch.isin(ids, torch.tensor(encoder.thought.think_ids, device=ids.device))  # (B, L)
    _check_budgets(thinks.sum(1).tolist())
    states = out["token_embeddings"]  # (B, L, D)
    if decoder is None:
        advance: BehindStates | WithDecoder = BehindStates(backbone, states, thinks)
    else:
        columns = visible_columns(thinks)
        advance = WithDecoder(decoder, backbone, states_at(states, columns), thinks.gather(1, columns))
    written = write_greedily(advance, backbone, _ends(encoder), max_tokens)
    return written, out["sentence_embedding"]


def _of_latent_steps(
    encoder: TTEEncoder, first: PlumeTransformer, features: dict[str, Any], max_tokens: int
) -> tuple[Written, Tensor]:
    budgets = features["think_budget"]  # (B,)
    _check_budgets(budgets.tolist())
    backbone = qwen_vl_model(first)
    advance = BehindRollout(backbone, first.think(first.read_prefix(features), budgets))
    written = write_greedily(advance, backbone, {**_ends(encoder), first.gen_id: "embed"}, max_tokens)
    return written, encoder(features)["sentence_embedding"]


def _of_explicit_cot(encoder: TTEEncoder, first: ExplicitCoT, features: dict[str, Any]) -> tuple[Written, Tensor]:
    out = encoder(dict(features))
    ids = out["rationale_ids"]  # (B, R)
    end = (ids >= 0).sum(1, keepdim=True)  # (B, 1)
    read = {**features, "written_ids": F.pad(ids, (0, 1), value=-100).scatter(1, end, first.gen_id)}
    states = first(read)["token_embeddings"]  # (B, L + R + 1, D)
    length, matrix = features["input_ids"].shape[1], output_matrix(qwen_vl_model(first))
    predicting = states[:, length - 1 : length - 1 + ids.shape[1]]  # (B, R, D)
    probabilities = F.linear(predicting.to(matrix.dtype), matrix).float().softmax(-1)  # (B, R, V)
    chosen = probabilities.gather(2, ids.clamp(min=0)[..., None])[..., 0].where(ids >= 0, 0)  # (B, R)
    stops = [STOPS[index] for index in out["stop"].tolist()]
    return Written(ids, chosen, stops), out["sentence_embedding"]


def _ends(encoder: TTEEncoder) -> dict[int, Stop]:
    return dict.fromkeys(end_of_turn_ids(encoder.tokenizer), "end-of-turn")


def _check_budgets(budgets: Sequence[int]) -> None:
    if 0 in budgets:
        raise InputError(f"The think budgets are {budgets}. Without a thought there is no rationale; give 1 or more.")
