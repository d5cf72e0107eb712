"""Explicit chain of thought (TTE, arXiv 2510.05014; UME-R1, arXiv 2511.00405): write a rationale, then embed."""

from __future__ import annotations

import json
from collections import Counter
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch
from sentence_transformers.base.modules import Transformer
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tte_retriever.backbones import Backbone, Init, add_token_rows, backbone_spec, load_backbone
from tte_retriever.backbones.engine_layout import HEAD_DROPPED
from tte_retriever.backbones.qwen_vl import qwen_vl_model, qwen_vl_tokenizer, rope_positions, token_id
from tte_retriever.errors import CheckpointError, InputError, check_choice
from tte_retriever.tokens import REFUSE_ASSISTANT_TURN, end_of_turn_ids, refuse_thought, remove_read_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import Cache

GEN_TOKEN = "<gen_emb>"  # noqa: S105  (a vocabulary entry, no secret)
"""The embed token: the model writes it after its rationale, and its last hidden state is the ``gen`` embedding."""

DISC_TOKEN = "<disc_emb>"  # noqa: S105
"""The token after the user's input; its last hidden state is the ``disc`` embedding, which needs no rationale."""

Mode: TypeAlias = Literal["gen", "disc"]

Stop: TypeAlias = Literal["embed", "end-of-turn", "cap"]
"""Why a rationale ended: the model wrote the embed token, it ended its turn without one, or it reached the cap."""

STOPS: tuple[Stop, ...] = get_args(Stop)
_TURN = "<|im_start|>assistant\n"


class ExplicitCoT(Transformer):
    """A Qwen-VL model with its output head, which writes a rationale after the prompt and embeds it.

    The rationale ends where the model writes the embed token. If it ends its turn without one, or reaches its budget, the
    embed token is appended; ``stopped`` counts how often each happened. The last hidden state in the output features is that
    of the embed token, so that ``lasttoken`` pooling returns it. They also contain

    * ``rationale_ids`` (B, R) int64: the tokens before the embed token, padded with -100;
    * ``stop`` (B,) int64: why the rationale ended, an index into ``embed``, ``end-of-turn``, ``cap``.

    The ``generation_config`` of the model decides how tokens are chosen: greedily, as built. Sampling and penalties work;
    beam search is refused, because one rationale is written per item. If the features contain ``written_ids`` (B, R)
    int64, padded with -100, the model reads that rationale and embed token instead of writing its own.

    Args:
        *args: As for ``Transformer``.
        mode: ``gen`` embeds after a rationale, ``disc`` without one. It can be set later.
        max_budget: The most tokens of a rationale: the largest ``think_budget``.
        **kwargs: As for ``Transformer``.

    Raises:
        CheckpointError: If the checkpoint has no output head.
    """

    config_keys: list[str] = [*Transformer.config_keys, "mode", "max_budget"]  # noqa: RUF012  (as stock modules have it)
    forward_kwargs: set[str] = {"think_budget"}  # noqa: RUF012

    def __init__(self, *args: Any, mode: Mode = "gen", max_budget: int = 512, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "transformer_task": "any-to-any"})
        config = self.model.config
        saved_with_head = "ForConditionalGeneration" in "".join(config.architectures or ())
        if getattr(config, HEAD_DROPPED, False) or not (config.tie_word_embeddings or saved_with_head):
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
        check_choice("mode", value, get_args(Mode))
        self._mode = value

    @property
    def gen_id(self) -> int:
        """Id of the embed token."""
        return token_id(qwen_vl_tokenizer(self), GEN_TOKEN)

    @property
    def disc_id(self) -> int:
        """Id of the token of the ``disc`` embedding."""
        return token_id(qwen_vl_tokenizer(self), DISC_TOKEN)

    @property
    def added_token_ids(self) -> list[int]:
        """Ids of the tokens that the method adds to the vocabulary of the backbone."""
        return [self.gen_id, self.disc_id]

    def preprocess(self, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Turn items into features, as the stock module does.

        Raises:
            InputError: A row whose generation prompt was truncated.
        """
        features = super().preprocess(inputs, *args, **kwargs)
        del features["logits_to_keep"]  # stock code adds it for rerankers
        turn = qwen_vl_tokenizer(self)(_TURN, add_special_tokens=False).input_ids
        ids = features["input_ids"]
        whole = (ids[:, -len(turn) :] == torch.tensor(turn)).all(1) & (ids == self.disc_id).any(1)  # (B,)
        if not whole.all():
            raise InputError(
                f"Row {int(whole.long().argmin())} of the batch does not fit into {self.max_seq_length} tokens. Shorten the "
                "text, use smaller or fewer media, or raise max_seq_length."
            )
        return features

    def forward(self, features: dict[str, Any], think_budget: int | None = None, **kwargs: Any) -> dict[str, Any]:
        """Write and embed a rationale, or read the given one, or in mode ``disc`` read the prompt alone.

        Args:
            features: As :meth:`preprocess` gives them, padded on the left. ``think_budget`` (B,) int64 among them goes
                before the argument.
            think_budget: The most tokens of a rationale; ``None`` is ``max_budget``.
            **kwargs: Unused.

        Returns:
            ``features`` with ``token_embeddings`` (B, L, D). The state at the last token of ``attention_mask`` (B, L) is
            the embedding.
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
        """The attention mask up to the last ``<disc_emb>``; (B, L)."""
        after = (features["input_ids"] == self.disc_id).flip(1).cumsum(1).flip(1) == 0  # (B, L)
        return cast("Tensor", features["attention_mask"].masked_fill(after, 0))

    def _model_inputs(self, features: dict[str, Any]) -> dict[str, Any]:
        known = signature(self.model.base_model.forward).parameters
        return {key: value for key, value in features.items() if key in known}

    def _states(self, features: dict[str, Any]) -> Tensor:
        return cast("Tensor", self.model.base_model(**self._model_inputs(features)).last_hidden_state)

    def _continued(self, features: dict[str, Any]) -> dict[str, Any]:
        """The prompt followed by ``written_ids``."""
        written, mask = features["written_ids"], features["attention_mask"]  # (B, R), (B, L)
        present = (written >= 0).to(mask.dtype)
        ids = written.masked_fill(written < 0, qwen_vl_tokenizer(self).pad_token_id)
        longer = {
            "input_ids": torch.cat([features["input_ids"], ids], dim=1),  # (B, L + R)
            "attention_mask": torch.cat([mask, present], dim=1),  # (B, L + R)
        }
        if (kinds := features.get("mm_token_type_ids")) is not None:
            longer["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(present, dtype=kinds.dtype)], dim=1)
        return longer

    def _write(self, features: dict[str, Any], budgets: Tensor) -> dict[str, Any]:
        """Generate the rationales, and embed each by an embed token that is appended to it."""
        self._check_generation_config()
        model, tokenizer = qwen_vl_model(self), qwen_vl_tokenizer(self)
        mask, gen = features["attention_mask"], self.gen_id
        length = mask.shape[1]
        stops = torch.tensor([gen, *end_of_turn_ids(tokenizer)], device=mask.device)
        out = model.generate(
            **self._model_inputs(features),
            max_new_tokens=int(budgets.max()) + 1,
            logits_processor=LogitsProcessorList([_Deadline(length, budgets, gen)]),
            eos_token_id=stops.tolist(),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
            return_dict_in_generate=True,
        )
        written = out.sequences[:, length:]  # (B, R + 1)
        lengths = torch.isin(written, stops).int().argmax(1)  # (B,): every row stops, at the latest at its budget
        rationale = torch.arange(written.shape[1] - 1, device=mask.device) < lengths[:, None]  # (B, R)
        capped = lengths >= budgets  # (B,)
        ended = written.gather(1, lengths[:, None])[:, 0] != gen  # (B,)
        stop = torch.where(ended, 1, torch.where(capped, 2, 0))  # (B,)
        self.stopped.update(STOPS[index] for index in stop.tolist())
        written_ids = {"rationale_ids": written[:, :-1].masked_fill(~rationale, -100), "stop": stop}
        if backbone_spec(model.config.model_type).is_recurrent:
            # A recurrent state holds the tokens after a row's stop, too, and no mask takes them out: read everything again.
            ids = F.pad(written_ids["rationale_ids"], (0, 1), value=-100).scatter(
                1, lengths[:, None], gen
            )  # (B, R + 1)
            longer = self._continued({**features, "written_ids": ids})
            return {**longer, **written_ids, "token_embeddings": self._states({**features, **longer})}
        return {
            "token_embeddings": self._embed_token_states(features, out.past_key_values, rationale),
            "attention_mask": mask.new_ones(len(mask), 1),
            **written_ids,
        }

    def _embed_token_states(self, features: dict[str, Any], cache: Cache, rationale: Tensor) -> Tensor:
        """The state of an embed token behind each rationale, over the cache of what was written; (B, 1, D).

        Args:
            features: The prompts.
            cache: Of all tokens but the last.
            rationale: True at the tokens of each row's rationale.  (B, R) bool
        """
        model, mask = qwen_vl_model(self), features["attention_mask"]
        # Tokens after a row's stop are masked. So is the embed token of rows that wrote it early: it is read again, last, in
        # the same column for all rows.
        seen = torch.cat([mask, rationale.to(mask.dtype), mask.new_ones(len(mask), 1)], dim=1)  # (B, L + R + 1)
        # Not from the model's rope_deltas: they belong to the latest batch, which may be another thread's.
        positions = rope_positions(model.base_model, features)  # (3, B, L)
        states = model.base_model(
            input_ids=torch.full((len(mask), 1), self.gen_id, device=mask.device),
            attention_mask=seen,
            position_ids=positions[:, :, -1:] + 1 + rationale.sum(1)[:, None],  # (3, B, 1)
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return cast("Tensor", states)

    def _check_generation_config(self) -> None:
        for name in ("num_beams", "num_return_sequences"):
            if (value := getattr(qwen_vl_model(self).generation_config, name)) not in (None, 1):
                raise InputError(
                    f"generation_config.{name} is {value}, but one rationale is written per item, token by token; set it "
                    "to 1. do_sample, temperature, top_k, top_p and penalties may be chosen."
                )


def add_rationale_prompt(template: str) -> str:
    """Make a chat template append ``<disc_emb>`` to the last message and open the model's turn.

    The generation prompt of the template is switched off: that of a Thinking model opens ``<think>``, which the model has to
    write itself.
    """
    ending = json.dumps(f"\n{DISC_TOKEN}")
    return (
        REFUSE_ASSISTANT_TURN + "{%- set add_generation_prompt = false %}"
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
    """Turn a Qwen-VL checkpoint into the modules of an encoder that writes a rationale.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint, or one loaded with ``module_class=ExplicitCoT``, which is changed
            in place. If it already has ``<gen_emb>`` or ``<disc_emb>``, they are used.
        think_tokens: The most tokens of a rationale.
        init: How the rows of new tokens start; ``keep`` leaves them as the backbone initialised them.
        seed: Seed of the rows.
        ask: Maps the chat template of the backbone to one that has ``<disc_emb>`` after the input and opens the model's
            turn.

    Raises:
        CheckpointError: If the backbone has think tokens, an embed token of another method, or no output head.
    """
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone, ExplicitCoT)
    transformer = cast("ExplicitCoT", loaded.transformer)
    tokenizer, processor = qwen_vl_tokenizer(transformer), transformer.processor
    refuse_thought(tokenizer, ", which explicit-cot cannot use; build from the backbone that it came from.")
    new = [token for token in (GEN_TOKEN, DISC_TOKEN) if token not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    new_ids = [token_id(tokenizer, token) for token in new]
    copied = loaded.copied_rows(token_id(tokenizer, GEN_TOKEN), init)
    add_token_rows(qwen_vl_model(transformer), new_ids, init=init, seed=seed, copied=copied)
    processor.chat_template = tokenizer.chat_template = ask(remove_read_out(processor.chat_template))
    qwen_vl_model(transformer).generation_config = GenerationConfig()  # that of a chat model samples
    transformer.max_budget = think_tokens
    return [transformer, *loaded.head]


class _Deadline(LogitsProcessor):
    """Forces the embed token in rows that have reached their budget."""

    def __init__(self, prompt_length: int, budgets: Tensor, embed_id: int) -> None:
        self.prompt_length, self.budgets, self.embed_id = prompt_length, budgets, embed_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        due = input_ids.shape[1] - self.prompt_length >= self.budgets  # (B,)
        forced = torch.full_like(scores, -torch.inf)  # (B, V)
        forced[:, self.embed_id] = 0
        return torch.where(due[:, None], forced, scores)
