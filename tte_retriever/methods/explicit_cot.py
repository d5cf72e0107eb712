"""Explicit chain of thought (TTE, arXiv 2510.05014; UME-R1, arXiv 2511.00405): write a rationale, then embed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch
from sentence_transformers.base.modules import Transformer
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tte_retriever.backbones import Backbone, Init, add_token_rows, load_backbone
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.tokens import thought_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

GEN_TOKEN = "<gen_emb>"  # noqa: S105  (a vocabulary entry, no secret)
"""The embed token: the model writes it after its rationale, and its last hidden state is the ``gen`` embedding."""

DISC_TOKEN = "<disc_emb>"  # noqa: S105
"""Stands after the user's input; its last hidden state is the ``disc`` embedding, which needs no rationale."""

Mode: TypeAlias = Literal["gen", "disc"]

Stop: TypeAlias = Literal["embed", "end-of-turn", "cap"]
"""Why a rationale ended: the model wrote the embed token, it ended its turn without, or it had written all it may."""

_STOPS: tuple[Stop, ...] = get_args(Stop)
_POSITION_KEYS = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
_TURN = "<|im_start|>assistant\n"


class ExplicitCoT(Transformer):
    """A Qwen-VL model with its output head, which writes a rationale after the prompt and embeds it.

    The rationale ends where the model writes the embed token. If it ends its turn without, or has written as many tokens
    as it may, the embed token is put there; ``stopped`` counts how often each has happened. What leaves this module is the
    one state that is the embedding, so that a ``lasttoken`` pooling after it finds it, and

    * ``rationale_ids`` (B, R) int64: what was written before the embed token, padded with -100;
    * ``stop`` (B,) int64: why it ended, an index into ``embed``, ``end-of-turn``, ``cap``.

    How tokens are chosen is the ``generation_config`` of the model: greedily, as built. It may sample and penalise, but not
    search with beams, for one rationale is written per item. Features may carry ``written_ids`` (B, R) int64, padded with
    -100: rationale and embed token that are read instead of written.

    Args:
        *args: As for ``Transformer``.
        mode: ``gen`` embeds after a rationale, ``disc`` without one. May be set later.
        max_budget: Most tokens of a rationale, the largest ``think_budget``.
        **kwargs: As for ``Transformer``.

    Raises:
        CheckpointError: If the checkpoint has no output head.
    """

    config_keys: list[str] = [*Transformer.config_keys, "mode", "max_budget"]  # noqa: RUF012  (as stock modules have it)
    forward_kwargs: set[str] = {"think_budget"}  # noqa: RUF012

    def __init__(self, *args: Any, mode: Mode = "gen", max_budget: int = 512, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "transformer_task": "any-to-any"})
        config = self.model.config
        if not config.tie_word_embeddings and "ForConditionalGeneration" not in "".join(config.architectures or ()):
            raise CheckpointError(
                "The checkpoint has no output head to write with: it is untied and was not kept. Give the backbone that "
                "the checkpoint was made from."
            )
        self.mode = mode
        self.max_budget = max_budget
        self.stopped: Counter[Stop] = Counter()

    @property
    def mode(self) -> Mode:
        """``gen`` or ``disc``."""
        return self._mode

    @mode.setter
    def mode(self, value: Mode) -> None:
        if value not in get_args(Mode):
            raise InputError(f"mode is {value!r}; it can be {' or '.join(map(repr, get_args(Mode)))}.")
        self._mode = value

    @property
    def gen_id(self) -> int:
        """Id of the embed token."""
        return cast("int", cast("Any", self.tokenizer).convert_tokens_to_ids(GEN_TOKEN))

    @property
    def disc_id(self) -> int:
        """Id of the token of the ``disc`` embedding."""
        return cast("int", cast("Any", self.tokenizer).convert_tokens_to_ids(DISC_TOKEN))

    @property
    def added_token_ids(self) -> list[int]:
        """Both: what the method adds to a backbone's vocabulary."""
        return [self.gen_id, self.disc_id]

    def preprocess(self, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the stock module; rows that truncation has robbed of their prompt are refused.

        Raises:
            InputError: If there is such a row.
        """
        features = super().preprocess(inputs, *args, **kwargs)
        del features["logits_to_keep"]  # of stock rerankers; no feature of any row
        turn = cast("Any", self.tokenizer)(_TURN, add_special_tokens=False).input_ids
        ids = features["input_ids"]
        whole = (ids[:, -len(turn) :] == torch.tensor(turn)).all(1) & (ids == self.disc_id).any(1)  # (B,)
        if not whole.all():
            raise InputError(
                f"Row {int(whole.long().argmin())} of the batch does not fit into {self.max_seq_length} tokens. Shorten the "
                "text, use smaller or fewer media, or raise max_seq_length."
            )
        return features

    def forward(self, features: dict[str, Any], think_budget: int | None = None, **kwargs: Any) -> dict[str, Any]:
        """Write and read a rationale, or read one that is given, or read the prompt alone.

        Args:
            features: As :meth:`preprocess` makes them, padded on the left. ``think_budget`` (B,) int64 among them is each
                row's own.
            think_budget: Most tokens of a rationale in every other case; ``None`` is ``max_budget``.
            **kwargs: Not used.

        Returns:
            ``features`` with ``token_embeddings`` (B, L, D), where the last token of ``attention_mask`` (B, L) is the one
            whose state is the embedding.
        """
        if self.mode == "disc":
            features["token_embeddings"] = self._states(features)  # (B, L, D)
            features["attention_mask"] = self.up_to_disc(features)
        elif "written_ids" in features:
            features.update(self._continued(features))
            features["token_embeddings"] = self._states(features)  # (B, L + R, D)
        else:
            most = self.max_budget if think_budget is None else think_budget
            budgets = features.get("think_budget", torch.full((len(features["input_ids"]),), most))
            features.update(self._write(features, budgets.to(features["input_ids"].device)))
        return features

    def up_to_disc(self, features: dict[str, Any]) -> Tensor:
        """The attention mask without what comes after the last ``<disc_emb>``; (B, L)."""
        after = (features["input_ids"] == self.disc_id).flip(1).cumsum(1).flip(1) == 0  # (B, L)
        return cast("Tensor", features["attention_mask"].masked_fill(after, 0))

    def _model_inputs(self, features: dict[str, Any]) -> dict[str, Any]:
        known = signature(self.model.base_model.forward).parameters
        return {key: value for key, value in features.items() if key in known}

    def _states(self, features: dict[str, Any]) -> Tensor:
        return cast("Tensor", self.model.base_model(**self._model_inputs(features)).last_hidden_state)

    def _continued(self, features: dict[str, Any]) -> dict[str, Any]:
        """The prompt with ``written_ids`` behind it."""
        written, mask = features["written_ids"], features["attention_mask"]  # (B, R), (B, L)
        there = (written >= 0).to(mask.dtype)
        ids = written.masked_fill(written < 0, cast("Any", self.tokenizer).pad_token_id)
        longer = {
            "input_ids": torch.cat([features["input_ids"], ids], dim=1),  # (B, L + R)
            "attention_mask": torch.cat([mask, there], dim=1),  # (B, L + R)
        }
        if (kinds := features.get("mm_token_type_ids")) is not None:
            longer["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(there, dtype=kinds.dtype)], dim=1)
        return longer

    def _write(self, features: dict[str, Any], budgets: Tensor) -> dict[str, Any]:
        """Generate the rationales, and read the state of an embed token that is put behind each."""
        chosen_by = cast("Any", self.model).generation_config
        for name in ("num_beams", "num_return_sequences"):
            if (value := getattr(chosen_by, name)) not in (None, 1):
                raise InputError(
                    f"generation_config.{name} is {value}, but one rationale is written per item, token by token; set it "
                    "to 1. do_sample, temperature, top_k, top_p and penalties may be chosen."
                )
        tokenizer, mask, gen = cast("Any", self.tokenizer), features["attention_mask"], self.gen_id
        rows, length = mask.shape
        stops = torch.tensor([gen, *self._ends_of_turn()], device=mask.device)
        out = cast("Any", self.model).generate(
            **self._model_inputs(features),
            max_new_tokens=int(budgets.max()) + 1,
            logits_processor=LogitsProcessorList([_Deadline(length, budgets, gen)]),
            eos_token_id=stops.tolist(),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
            return_dict_in_generate=True,
        )
        written = out.sequences[:, length:]  # (B, R + 1)
        lengths = torch.isin(written, stops).int().argmax(1)  # (B,): every row stops, by the deadline if not before
        rationale = torch.arange(written.shape[1] - 1, device=mask.device) < lengths[:, None]  # (B, R)
        # The cache holds all but the last token. What rows that stopped early were filled up with is masked, and so is
        # the embed token that some of them have fed already: it comes last, for all rows in one column.
        seen = torch.cat([mask, rationale.to(mask.dtype), mask.new_ones(rows, 1)], dim=1)  # (B, L + R + 1)
        backbone = cast("Any", self.model).base_model
        # Not by the model's own rope_deltas: they are of whichever batch went through it last, maybe in another thread.
        given = {key: features[key] for key in _POSITION_KEYS if key in features}
        positions, _ = backbone.get_rope_index(features["input_ids"], attention_mask=mask, **given)  # (3, B, L)
        states = backbone(
            input_ids=torch.full((rows, 1), gen, device=mask.device),
            attention_mask=seen,
            position_ids=positions[:, :, -1:] + 1 + lengths[:, None],  # (3, B, 1)
            past_key_values=out.past_key_values,
            use_cache=True,
        ).last_hidden_state  # (B, 1, D)
        capped = lengths >= budgets  # (B,)
        ended = written.gather(1, lengths[:, None])[:, 0] != gen  # (B,)
        stop = torch.where(ended, 1, torch.where(capped, 2, 0))  # (B,)
        self.stopped.update(_STOPS[index] for index in stop.tolist())
        return {
            "token_embeddings": states,
            "attention_mask": mask.new_ones(rows, 1),
            "rationale_ids": written[:, :-1].masked_fill(~rationale, -100),
            "stop": stop,
        }

    def _ends_of_turn(self) -> list[int]:
        added = cast("Any", self.tokenizer).get_added_vocab()
        return [added[token] for token in ("<|im_end|>", "<|endoftext|>") if token in added]


def add_rationale_prompt(template: str) -> str:
    """Make the last message of a chat template end in ``<disc_emb>``, and leave the model's turn open.

    The template's own generation prompt is switched off: that of a Thinking model opens ``<think>``, which is for the model
    to write.
    """
    ending = json.dumps(f"\n{DISC_TOKEN}")
    return (
        "{%- set add_generation_prompt = false %}"
        f"{{%- set ending = {ending} %}}"
        "{%- set content = messages[-1].content %}"
        "{%- set content = content + (ending if content is string else [{'type': 'text', 'text': ending}]) %}"
        "{%- set messages = messages[:-1] + [{'role': messages[-1].role, 'content': content}] %}"
        + template.rstrip("\n")
        + f"{{{{- {json.dumps(_TURN)} }}}}"
    )


def build(
    backbone: str | Path | Backbone,
    think_tokens: int = 512,
    *,
    init: Init = "keep",
    seed: int = 0,
    ask: Callable[[str], str] = add_rationale_prompt,
) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of an encoder that thinks in words.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint, or one that is loaded, with :class:`ExplicitCoT` for its first
            module; it is changed in place. Tokens of its own that are called as ours are taken for ours.
        think_tokens: Most tokens of a rationale.
        init: How the rows of new tokens start; ``keep`` leaves them as the backbone initialised them.
        seed: Of the rows.
        ask: Makes the chat template of the backbone's: ``<disc_emb>`` after the input, and the model's turn opened.

    Raises:
        CheckpointError: If the backbone has think tokens, an embed token of another method, or no output head.
    """
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone, ExplicitCoT)
    transformer = cast("ExplicitCoT", loaded.transformer)
    tokenizer, processor = cast("Any", transformer.tokenizer), transformer.processor
    present = thought_vocabulary(tokenizer)
    if present.embed_id is not None or present.think_ids:
        raise CheckpointError(
            f"The backbone already has {present.max_budget} think tokens and an embed token, which no rationale follows; "
            "build from the backbone that it came from."
        )
    new = [token for token in (GEN_TOKEN, DISC_TOKEN) if token not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    add_token_rows(transformer.model, tokenizer.convert_tokens_to_ids(new), init=init, seed=seed)
    processor.chat_template = tokenizer.chat_template = ask(processor.chat_template)
    cast("Any", transformer.model).generation_config = GenerationConfig()  # that of a chat model samples
    transformer.max_budget = think_tokens
    return [transformer, *loaded.head]


@dataclass(frozen=True)
class Rationale:
    """What a model thought about one item, in its own words.

    Attributes:
        text: What it wrote before the embed token.
        tokens: Its length.
        stop: Why it ended: ``embed``, ``end-of-turn`` without the embed token, or ``cap``, the think budget.
        vector: The embedding that followed.  (E,) float32
    """

    text: str
    tokens: int
    stop: Stop
    vector: np.ndarray = field(compare=False, repr=False)


def think_aloud(encoder: SentenceTransformer, items: Any, *, batch_size: int = 32, **options: Any) -> list[Rationale]:
    """Encode items and tell what was thought of each.

    Args:
        encoder: Built with the method ``explicit-cot``, in mode ``gen``.
        items: As for ``encode``; a single one gives a list of one.
        batch_size: Items in one pass.
        **options: As for ``encode``: ``think_budget``, ``prompt`` …

    Raises:
        InputError: If the encoder thinks otherwise, or not at all.
    """
    first = encoder[0]
    if not isinstance(first, ExplicitCoT) or first.mode != "gen":
        raise InputError(
            "This model writes no rationale; give one of the method explicit-cot, and leave its mode at 'gen'."
        )
    if encoder.is_singular_input(items):
        items = [items]
    rationales = []
    for start in range(0, len(items), batch_size):  # a batch at a time, because its features hold all of its media
        batch = list(items[start : start + batch_size])
        for features in encoder.encode(batch, output_value=None, batch_size=batch_size, **options):
            ids = [token for token in features["rationale_ids"].tolist() if token >= 0]
            text = cast("Any", first.tokenizer).decode(ids)
            vector = features["sentence_embedding"].float().cpu().numpy()
            rationales.append(Rationale(text, len(ids), _STOPS[int(features["stop"])], vector))
    return rationales


class _Deadline(LogitsProcessor):
    """Leaves rows that have written as many tokens as they may nothing but the embed token."""

    def __init__(self, prompt_length: int, budgets: Tensor, embed_id: int) -> None:
        self.prompt_length, self.budgets, self.embed_id = prompt_length, budgets, embed_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        due = input_ids.shape[1] - self.prompt_length >= self.budgets  # (B,)
        forced = torch.full_like(scores, -torch.inf)  # (B, V)
        forced[:, self.embed_id] = 0
        return torch.where(due[:, None], forced, scores)
