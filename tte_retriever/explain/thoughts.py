"""Read the hidden states of think tokens or latent steps, and embed with other hidden states in their place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.methods.plume import PlumeTransformer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from tte_retriever.encoder import TTEEncoder

Visit: TypeAlias = Callable[[int, slice, "Tensor"], "Tensor"]
"""Called with a layer index, the think positions and the hidden states there (B, steps, D); returns what replaces them."""


@dataclass(frozen=True)
class Thoughts:
    """Hidden states at the think tokens or latent steps of a batch, and its embeddings.

    Attributes:
        inputs: Hidden states that entered each layer.  (layers, B, K, D)
        states: Last hidden states.  (B, K, D)
        vectors: Embeddings.  (B, E)
    """

    inputs: Tensor
    states: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class _Place:
    """The think positions of the current forward pass.

    Attributes:
        mask: True at think tokens or latent steps.  (B, L) bool
        steps: Their indices among the K positions.
    """

    mask: Tensor
    steps: slice


def observe(encoder: TTEEncoder, features: Mapping[str, Any]) -> Thoughts:
    """Embed a batch and return its hidden states at the think tokens or latent steps.

    Args:
        encoder: A model with think tokens or latent steps.
        features: As ``encoder.preprocess`` makes them, all rows with one think budget above 0.

    Raises:
        InputError: If the model has neither think tokens nor latent steps, the think budget is 0, or the rows have several.
    """
    seen: list[list[Tensor]] = [[] for _ in range(len(_decoder(encoder).layers) + 1)]

    def note(layer: int, _steps: slice, hidden: Tensor) -> Tensor:
        seen[layer].append(hidden)
        return hidden

    vectors = _embed(encoder, features, note)  # (B, E)
    *inputs, states = (torch.cat(each, dim=1) for each in seen)  # (B, K, D) each
    return Thoughts(torch.stack(inputs), states, vectors)  # (layers, B, K, D)


def embed_with(encoder: TTEEncoder, features: Mapping[str, Any], inputs: Tensor) -> Tensor:
    """Embed a batch with other hidden states at its think tokens or latent steps, (B, E).

    Args:
        encoder: As for :func:`observe`.
        features: As for :func:`observe`.
        inputs: Hidden states for the first layers, or for the first layer alone: the inputs of the steps.  (layers, B, K, D)

    Raises:
        InputError: As for :func:`observe`.
    """

    def put(layer: int, steps: slice, hidden: Tensor) -> Tensor:
        return inputs[layer][:, steps] if layer < len(inputs) else hidden

    return _embed(encoder, features, put)


def _embed(encoder: TTEEncoder, features: Mapping[str, Any], visit: Visit) -> Tensor:
    budgets = features.get("think_budget")
    if budgets is not None and (budgets != budgets[0]).any():
        raise InputError(f"The rows think for {budgets.tolist()} steps; give them one think_budget.")
    visited = []

    def count(layer: int, steps: slice, hidden: Tensor) -> Tensor:
        visited.append(layer)
        return visit(layer, steps, hidden)

    with torch.no_grad(), _visited(encoder, count):
        vectors = encoder(dict(features))["sentence_embedding"]
    if not visited:
        raise InputError("The think budget is 0, so there are no think tokens or latent steps; give one above 0.")
    return cast("Tensor", vectors)


def _decoder(encoder: TTEEncoder) -> Any:
    return qwen_vl_model(encoder.transformer).base_model.language_model


@contextmanager
def _visited(encoder: TTEEncoder, visit: Visit) -> Iterator[None]:
    """Call ``visit`` with the think positions at the input of each layer and at the output of the last norm.

    The result for the last norm, whose index is the number of layers, is ignored.
    """
    decoder = _decoder(encoder)
    here: list[_Place] = []  # at most one

    def enter(_module: Any, args: tuple[Tensor, ...], layer: int) -> tuple[Any, ...] | None:
        if not here:
            return None
        hidden, *others = args
        put = visit(layer, here[0].steps, _at(here[0], hidden))
        return hidden.masked_scatter(here[0].mask[..., None], put.to(hidden)), *others

    def leave(_module: Any, _args: Any, output: Any) -> None:
        if here:
            visit(len(decoder.layers), here[0].steps, _at(here[0], output.last_hidden_state))
            here.clear()

    with _find_thought(encoder, here), ExitStack() as hooks, decoder.register_forward_hook(leave):
        for index, layer in enumerate(decoder.layers):
            hooks.enter_context(layer.register_forward_pre_hook(partial(enter, layer=index)))
        yield


def _at(place: _Place, hidden: Tensor) -> Tensor:
    return hidden[place.mask].unflatten(0, (len(hidden), -1))  # (B, steps, D)


def _find_thought(encoder: TTEEncoder, here: list[_Place]) -> Any:
    """Register a hook that finds the think positions of the decoder's next forward pass."""
    transformer = encoder.transformer
    if isinstance(transformer, PlumeTransformer):

        def step(_module: Any, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            here[:] = [_Place(output[0].new_ones(len(output[0]), 1).bool(), slice(args[1], args[1] + 1))]

        return transformer.adapter.register_forward_hook(step)
    if not encoder.thought.think_ids:
        raise InputError(
            "This model has no think tokens and no latent steps; give a model of the method tte-flash, lame or plume."
        )

    def tokens(_module: Any, args: tuple[dict[str, Any]]) -> None:
        ids = args[0]["input_ids"]
        mask = torch.isin(ids, torch.tensor(encoder.thought.think_ids, device=ids.device))  # (B, L)
        budgets = mask.sum(1)  # (B,)
        if (budgets != budgets[0]).any():
            raise InputError(f"The rows think with {budgets.tolist()} think tokens; give them one think_budget.")
        here[:] = [_Place(mask, slice(0, int(budgets[0])))] if budgets[0] else []

    return transformer.register_forward_pre_hook(tokens)
