"""PLUME (arXiv 2604.02073): latent states rolled out through a routed adapter, then a forced embed token."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tte_retriever.backbones import Backbone, Init, add_token_rows, load_backbone
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.methods.plume_adapter import IdentityAdapter, RoutedAdapter
from tte_retriever.methods.plume_options import PlumeOptions
from tte_retriever.methods.plume_prompt import (
    INSTRUCTION,
    PLUME_TOKENS,
    add_plume_prompt,
    check_plume_tokens,
    prepare_chat,
)
from tte_retriever.methods.plume_rollout import DecodeState, Rollout, read, rollout
from tte_retriever.tokens import remove_thinking_turn, thought_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sentence_transformers.base.modules.transformer import ProcessingKwargs
    from torch import nn
    from transformers import PreTrainedTokenizerBase

ADAPTER_FILE = "plume_adapter.safetensors"

_MEDIA_KEYS = ("pixel_values", "pixel_values_videos", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")
_POSITION_KEYS = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")


@dataclass(frozen=True)
class Prefix:
    """A batch of prompts, read.

    Attributes:
        states: (B, L, D), after the last norm.
        decode_state: Where the rows stand.
        text_position: (B,) int64, where a text would go on.
        last: (B, D), the state at the end of each.
        anchor: (B,) int64, where the last ``<disc_emb>`` of each stands.
    """

    states: torch.Tensor
    decode_state: DecodeState
    text_position: torch.Tensor
    last: torch.Tensor
    anchor: torch.Tensor

    def at_anchor(self, offset: int = 0) -> torch.Tensor:
        """The state at ``<disc_emb>``, or so many tokens after it: (B, D)."""
        return self.states[torch.arange(len(self.states), device=self.states.device), self.anchor + offset]


_CONTEXTS: dict[str, Callable[[Prefix], torch.Tensor]] = {
    "disc": Prefix.at_anchor,
    "prefix_last": lambda prefix: prefix.last,
    "none": lambda prefix: torch.zeros_like(prefix.last),
}
_ANCHORED = {"disc": 0, "after_disc": 1}
"""Read-outs for which nothing is thought: so many tokens after the anchor."""


class PlumeTransformer(Transformer):
    """Backbone, processor, chat template and adapter; items in, one vector each out, before its normalisation.

    Args:
        *args: As for ``Transformer``.
        plume: Fields of :class:`~tte_retriever.methods.plume_options.PlumeOptions`.
        **kwargs: As for ``Transformer``.

    Raises:
        CheckpointError: If the tokenizer lacks a token of :data:`~tte_retriever.methods.plume_prompt.PLUME_TOKENS`.
        InputError: Unusable options.
    """

    config_keys = [*Transformer.config_keys, "plume"]  # noqa: RUF012  (as stock modules have it)
    forward_kwargs = {"think_budget"}  # noqa: RUF012

    def __init__(self, *args: Any, plume: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.options = PlumeOptions(**(plume or {}))
        tokenizer = cast("PreTrainedTokenizerBase", self.tokenizer)
        check_plume_tokens(tokenizer)
        tokenizer.padding_side = "left"
        suffix = tokenizer(options.suffix, add_special_tokens=False).input_ids
        embed_id = tokenizer.convert_tokens_to_ids("<gen_emb>")
        ends = [index for index, token in enumerate(suffix) if token == embed_id] or [len(suffix) - 1]
        self.register_buffer("suffix_ids", torch.tensor(suffix[: ends[-1] + 1]), persistent=False)  # (S,)
        self.adapter = _adapter(options, self.get_embedding_dimension()).to(self.model.dtype)

    @property
    def max_budget(self) -> int:
        """The most latent steps."""
        return self.options.steps

    @property
    def added_token_ids(self) -> list[int]:
        """Ids of what the method adds to a backbone's vocabulary."""
        return [cast("Any", self.tokenizer).convert_tokens_to_ids(mark) for mark in PLUME_TOKENS]

    @property
    def plume(self) -> dict[str, Any]:
        """The options, as they are saved."""
        return json.loads(json.dumps(asdict(self.options)))

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Items to features; nothing is cut off.

        Raises:
            InputError: If a row is longer than ``max_seq_length``.
        """
        options, images = self.options, self.processor.image_processor
        modality, values, extra = self.input_formatter.parse_inputs(inputs)
        if modality != "message":
            _, values = self.input_formatter.batch_to_message(modality, values)
        chats = [
            prepare_chat(
                chat,
                blank=options.text_only_visual == "blank",
                first_image_only=options.several_images == "first",
                stages=options.resize_stages,
                factor=images.patch_size * images.merge_size,
            )
            for chat in values["message"]
        ]
        given: dict[str, Any] = {**(processing_kwargs or {})}
        given["text"] = {**given.get("text", {}), "truncation": False}
        given["video"] = {**extra.get("video", {}), **given.get("video", {})}
        features = super().preprocess(
            chats, prompt=prompt, processing_kwargs=cast("ProcessingKwargs", given), **kwargs
        )
        longest = int(features["attention_mask"].sum(1).max())
        if self.max_seq_length is not None and longest > self.max_seq_length:
            raise InputError(
                f"A row of the batch has {longest} tokens, more than {self.max_seq_length}. Shorten the text, use smaller "
                "or fewer media, or raise max_seq_length."
            )
        return features

    def forward(self, features: dict[str, Any], think_budget: int | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding``, (B, D) float32, and, if something is thought, what training looks at.

        That is ``anchor_state`` (B, D), the state at ``<disc_emb>``; ``routing`` (B, K, N) float32, the router's
        probabilities; ``suffix_states`` (B, S + 1, D), the states at the suffix and, first, the one before it.

        Args:
            features: As :meth:`preprocess` gives them; ``think_budget`` (B,) among them goes before the argument.
                ``written_ids`` (B, S) int64, padded on the right with -100, are read in place of the suffix.
            think_budget: Latent steps of all rows; ``None`` is all there are.
            **kwargs: Unused.
        """
        prefix = self.read_prefix(features)
        if self.options.readout in _ANCHORED:
            vector = prefix.at_anchor(_ANCHORED[self.options.readout])  # (B, D)
        else:
            if (budget := features.get("think_budget")) is None:
                steps = self.max_budget if think_budget is None else think_budget
                budget = torch.full_like(prefix.anchor, steps)  # (B,)
            thought = self.think(prefix, budget)
            before = torch.cat([prefix.last[:, None], thought.states], 1)  # (B, K + 1, D)
            before = before[torch.arange(len(budget), device=budget.device), budget]  # (B, D)
            decode_state = thought.decode_state
            if self.options.positions == "kv-then-mrope":
                decode_state = replace(decode_state, position=prefix.text_position + budget)
            states, vector = self.read_suffix(decode_state, features.get("written_ids"))  # (B, S, D), (B, D)
            features["anchor_state"], features["routing"] = prefix.at_anchor(), thought.routing
            features["suffix_states"] = torch.cat([before[:, None], states], 1)  # (B, S + 1, D)
        features["sentence_embedding"] = vector.float()
        return features

    def read_prefix(self, features: Mapping[str, Any]) -> Prefix:
        """Read the prompts of a batch."""
        backbone, ids, mask = cast("Any", self.model), features["input_ids"], features["attention_mask"]
        given = {key: features[key] for key in _POSITION_KEYS if key in features}
        positions, _ = backbone.get_rope_index(ids, attention_mask=mask, **given)  # (3, B, L)
        output = backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{key: features[key] for key in _MEDIA_KEYS if key in features},
        )
        text_position = positions.masked_fill(mask == 0, 0).amax((0, 2)) + 1  # (B,)
        position = text_position if self.options.positions == "mrope" else mask.sum(1)  # (B,)
        states = output.last_hidden_state
        anchors = ids == self.tokenizer.convert_tokens_to_ids("<disc_emb>")  # type: ignore[union-attr]
        rows = torch.arange(len(ids), device=ids.device)
        decode_state = DecodeState(output.past_key_values, mask.bool(), position)
        return Prefix(states, decode_state, text_position, states[rows, _last(mask)], _last(anchors))

    def think(self, prefix: Prefix, budget: torch.Tensor) -> Rollout:
        """Take ``budget`` latent steps, (B,) int64, behind a prefix, whose cache they extend."""
        context = _CONTEXTS[self.options.context](prefix)  # (B, D)
        steps = int(budget.max())  # the one time that the host waits, before the loop
        return rollout(self.model, self.adapter, prefix.decode_state, prefix.last, context, budget=budget, steps=steps)

    def read_suffix(
        self, decode_state: DecodeState, ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the suffix behind a decode_state up to its ``<gen_emb>``.

        Args:
            decode_state: Where the rows stand.
            ids: What is read instead, (B, S) int64 padded on the right with -100, with a ``<gen_emb>`` in every row.

        Returns:
            Its states, (B, S, D), and the one at the last ``<gen_emb>``, or at the end where a suffix has none, (B, D).
        """
        backbone = cast("Any", self.model)
        if ids is None:
            ids = cast("torch.Tensor", self.suffix_ids).expand(len(decode_state.position), -1)  # (B, S)
            end = torch.full_like(decode_state.position, ids.shape[1] - 1)  # (B,)
        else:
            end = _last(ids == cast("Any", self.tokenizer).convert_tokens_to_ids("<gen_emb>"))
        states, _ = read(backbone, backbone.get_input_embeddings()(ids.clamp(min=0)), decode_state, ids >= 0)
        return states, states[torch.arange(len(ids), device=ids.device), end]

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save backbone, processor, options and, beside them, the adapter."""
        super().save(output_path, *args, safe_serialization=safe_serialization, **kwargs)
        save_file(self.adapter.state_dict(), Path(output_path) / ADAPTER_FILE)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> PlumeTransformer:
        """Load what :meth:`save` saved.

        Raises:
            CheckpointError: If the adapter's file is missing, or not of this adapter.
        """
        module = super().load(model_name_or_path, *args, **kwargs)
        places = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        place = {key: kwargs[key] for key in places if key in kwargs}
        file = cls.load_file_path(model_name_or_path, ADAPTER_FILE, **place)
        if file is None:
            raise CheckpointError(
                f"{model_name_or_path!r} has no {ADAPTER_FILE}; load the whole folder, or import the original again."
            )
        try:
            module.adapter.load_state_dict(load_file(file))
        except RuntimeError as error:
            raise CheckpointError(
                f"{file} is not the adapter of this checkpoint: {error}. Import it again."
            ) from error
        return module


def build(
    backbone: str | Path | Backbone,
    think_tokens: int = 8,
    *,
    init: Init = "keep",
    seed: int = 0,
    instruction: str = INSTRUCTION,
    experts: int = PlumeOptions.experts,
) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of a new PLUME.

    Other than the public one, it steps on where a text would, sees all images as its backbone does, and shows no picture
    to a text.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint, or one that is loaded; it is changed in place. The think and
            embed tokens of another method stay in its vocabulary and out of its chat template.
        think_tokens: K, the number of latent steps.
        init: How the rows of new tokens start; ``keep`` leaves them as the backbone initialised them.
        seed: Of the rows and of the adapter.
        instruction: What is asked for after every item.
        experts: Of the adapter, beside the shared one; 0 is no adapter.

    Raises:
        InputError: If there are more steps than rows in the adapter's table.
        CheckpointError: If the backbone is a PLUME already.
    """
    options = PlumeOptions(
        steps=think_tokens,
        positions="mrope",
        experts=experts,
        active_experts=min(PlumeOptions.active_experts, experts),
        shared_expert=experts > 0,
        text_only_visual="none",
        several_images="all",
        resize_stages=(),
    )
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    tokenizer = cast("PreTrainedTokenizerBase", loaded.transformer.tokenizer)
    processor = loaded.transformer.processor
    if "<disc_emb>" in processor.chat_template:
        raise CheckpointError("The backbone is a PLUME already; load it as it is, or build from where it came from.")
    processor.chat_template = remove_thinking_turn(processor.chat_template, thought_vocabulary(tokenizer).max_budget)
    present = len(tokenizer)
    tokenizer.add_tokens(list(PLUME_TOKENS))
    added = tokenizer.get_added_vocab()
    new_ids = [added[mark] for mark in PLUME_TOKENS if added[mark] >= present]
    add_token_rows(loaded.transformer.model, new_ids, init=init, seed=seed)
    return modules(loaded, options, seed=seed, instruction=instruction)


def modules(
    loaded: Backbone, options: PlumeOptions, *, seed: int = 0, instruction: str = INSTRUCTION
) -> list[nn.Module]:
    """Put PLUME's prompt and an adapter, whose weights ``seed`` decides, around a backbone that has its tokens."""
    transformer, processor = loaded.transformer, loaded.transformer.processor
    given = transformer.processing_kwargs
    template = add_plume_prompt(processor.chat_template, options.prefix, instruction)
    processor.chat_template = processor.tokenizer.chat_template = template
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        transformer.save(folder)
        torch.manual_seed(seed)
        thinker = PlumeTransformer(folder, plume=asdict(options), unpad_inputs=False, processing_kwargs=given)
    return [thinker, *(module for module in loaded.head if not isinstance(module, Pooling))]


def _adapter(options: PlumeOptions, width: int) -> RoutedAdapter | IdentityAdapter:
    if not options.experts:
        return IdentityAdapter()
    return RoutedAdapter(
        width,
        experts=options.experts,
        active_experts=options.active_experts,
        shared_expert=options.shared_expert,
        step_table=options.step_table,
    )


def _last(found: torch.Tensor) -> torch.Tensor:
    """Index of the last place, of (B, L), that holds: (B,)."""
    return found.shape[1] - 1 - found.long().flip(1).argmax(1)
