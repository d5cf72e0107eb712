"""PLUME (arXiv 2604.02073): latent steps through a routed adapter, then a suffix that ends in the embed token."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tte_retriever.backbones import Backbone, Init, add_token_rows, load_backbone
from tte_retriever.backbones.qwen_vl import qwen_vl_model, qwen_vl_tokenizer, rope_positions, token_id
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
from tte_retriever.methods.plume_rollout import CONTEXTS, DecodeState, Prefix, Rollout, read, rollout
from tte_retriever.tokens import remove_thinking_turn, thought_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sentence_transformers.base.modules.transformer import ProcessingKwargs
    from torch import nn

ADAPTER_FILE = "plume_adapter.safetensors"

_MEDIA_KEYS = ("pixel_values", "pixel_values_videos", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")


_ANCHORED = {"disc": 0, "after_disc": 1}
"""Read-outs that take no latent steps: how many tokens after the anchor the state is taken."""


class PlumeTransformer(Transformer):
    """Backbone, processor, chat template and adapter; from items to one embedding each, before its normalisation.

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
        self._set_up(PlumeOptions(**(plume or {})))

    @classmethod
    def convert(cls, transformer: Transformer, options: PlumeOptions) -> PlumeTransformer:
        """Turn a stock module into this one, in place, with a random adapter.

        Args:
            transformer: Its chat template is PLUME's, and its tokenizer has PLUME's tokens.
            options: What the checkpoint is beside its weights.
        """
        transformer.__class__ = cls
        thinker = cast("PlumeTransformer", transformer)
        thinker._set_up(options)
        return thinker

    def _set_up(self, options: PlumeOptions) -> None:
        self.options = options
        tokenizer = qwen_vl_tokenizer(self)
        check_plume_tokens(tokenizer)
        tokenizer.padding_side = "left"
        suffix = tokenizer(options.suffix, add_special_tokens=False).input_ids
        ends = [index for index, token in enumerate(suffix) if token == self.gen_id] or [len(suffix) - 1]
        self.register_buffer("suffix_ids", torch.tensor(suffix[: ends[-1] + 1]), persistent=False)  # (R,)
        self.adapter = _adapter(options, self.get_embedding_dimension()).to(self.model.dtype)

    @property
    def max_budget(self) -> int:
        """The most latent steps."""
        return self.options.steps

    @property
    def gen_id(self) -> int:
        """Id of ``<gen_emb>``, the embed token."""
        return token_id(qwen_vl_tokenizer(self), "<gen_emb>")

    @property
    def added_token_ids(self) -> list[int]:
        """Ids of the tokens that the method adds to the vocabulary of the backbone."""
        return [token_id(qwen_vl_tokenizer(self), token) for token in PLUME_TOKENS]

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
        """Turn items into features, without truncation.

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
        given: Any = {**(processing_kwargs or {})}
        given["text"] = {**given.get("text", {}), "truncation": False}
        given["video"] = {**extra.get("video", {}), **given.get("video", {})}
        features = super().preprocess(chats, prompt=prompt, processing_kwargs=given, **kwargs)
        longest = int(features["attention_mask"].sum(1).max())
        if self.max_seq_length is not None and longest > self.max_seq_length:
            raise InputError(
                f"A row of the batch has {longest} tokens, more than {self.max_seq_length}. Shorten the text, use smaller "
                "or fewer media, or raise max_seq_length."
            )
        return features

    def forward(self, features: dict[str, Any], think_budget: int | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding`` (B, D) float32 and, if latent steps are taken, what training reads.

        Training reads ``anchor_state`` (B, D), the state at ``<disc_emb>``; ``routing`` (B, K, X) float32, the router's
        probabilities; ``suffix_states`` (B, R + 1, D), the state before the suffix and the states at the suffix.

        Args:
            features: As :meth:`preprocess` gives them. ``think_budget`` (B,) among them goes before the argument, and
                ``written_ids`` (B, R) int64, padded on the right with -100, are read in place of the suffix.
            think_budget: Latent steps of all rows; ``None`` is ``max_budget``.
            **kwargs: Unused.
        """
        prefix = self.read_prefix(features)
        if self.options.readout in _ANCHORED:
            vector = prefix.at_anchor(_ANCHORED[self.options.readout])  # (B, D)
        else:
            budget = features.get("think_budget")
            if budget is None:
                budget = torch.full_like(prefix.anchor, self.max_budget if think_budget is None else think_budget)
            thought = self.think(prefix, budget)
            states, vector = self.read_suffix(thought.decode_state, features.get("written_ids"))
            features["anchor_state"], features["routing"] = prefix.at_anchor(), thought.routing
            features["suffix_states"] = torch.cat([thought.last[:, None], states], 1)  # (B, R + 1, D)
        features["sentence_embedding"] = vector.float()
        return features

    def read_prefix(self, features: Mapping[str, Any]) -> Prefix:
        """Read the prompts of a batch."""
        backbone, ids, mask = qwen_vl_model(self), features["input_ids"], features["attention_mask"]
        positions = rope_positions(backbone, features)  # (3, B, L)
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
        anchors = ids == token_id(qwen_vl_tokenizer(self), "<disc_emb>")  # (B, L)
        rows = torch.arange(len(ids), device=ids.device)
        decode_state = DecodeState(output.past_key_values, mask.bool(), position)
        return Prefix(states, decode_state, text_position, states[rows, _last(mask)], _last(anchors))

    def think(self, prefix: Prefix, budget: torch.Tensor) -> Rollout:
        """Take ``budget`` latent steps, (B,) int64, behind a prefix, whose cache they extend."""
        context = CONTEXTS[self.options.context](prefix)  # (B, D)
        steps = int(budget.max())  # the host waits for the device here, and nowhere in the loop
        thought = rollout(
            qwen_vl_model(self), self.adapter, prefix.decode_state, prefix.last, context, budget=budget, steps=steps
        )
        if self.options.positions != "kv-then-mrope":
            return thought
        return replace(thought, decode_state=replace(thought.decode_state, position=prefix.text_position + budget))

    def read_suffix(
        self, decode_state: DecodeState, ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the suffix up to its ``<gen_emb>``.

        Args:
            decode_state: What has been read before.
            ids: What is read in place of the suffix, padded on the right with -100, with a ``<gen_emb>`` in every row.
                (B, R) int64

        Returns:
            Its states, (B, R, D), and the state at the last ``<gen_emb>``, or at the end of a suffix without one, (B, D).
        """
        backbone = qwen_vl_model(self)
        if ids is None:
            ids = cast("torch.Tensor", self.suffix_ids).expand(len(decode_state.position), -1)  # (B, R)
            end = torch.full_like(decode_state.position, ids.shape[1] - 1)  # (B,)
        else:
            end = _last(ids == self.gen_id)  # (B,)
        states, _ = read(backbone, backbone.get_input_embeddings()(ids.clamp(min=0)), decode_state, ids >= 0)
        return states, states[torch.arange(len(ids), device=ids.device), end]

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save backbone, processor and options, and the adapter in a file of its own."""
        super().save(output_path, *args, safe_serialization=safe_serialization, **kwargs)
        save_file(self.adapter.state_dict(), Path(output_path) / ADAPTER_FILE)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> PlumeTransformer:
        """Load what :meth:`save` saved.

        Raises:
            CheckpointError: If the file of the adapter is missing, or belongs to an adapter of another shape.
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
            raise CheckpointError(f"{file} is not the adapter of this model: {error}. Import it again.") from error
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

    It differs from the public checkpoint: latent steps take the positions that a text would take, an item keeps all its
    images in the sizes of its backbone, and a text comes without a picture.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint, or a loaded one, which is changed in place. The think and embed
            tokens of another method stay in its vocabulary but leave its chat template.
        think_tokens: K, the number of latent steps.
        init: How the rows of new tokens start; ``keep`` leaves them as the backbone initialised them.
        seed: Seed of the rows and of the adapter.
        instruction: Appended to every item.
        experts: Number of routed experts, beside the shared one; 0 is no adapter.

    Raises:
        InputError: If there are more steps than rows in the adapter's table.
        CheckpointError: If the backbone is a PLUME already, or has recurrent layers, as Qwen3.5.
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
    if loaded.spec.is_recurrent:
        raise CheckpointError(
            f"plume cannot be built on {loaded.spec.name}: the rows of a batch take different numbers of latent steps, and its "
            "recurrent layers cannot leave out a step that a row does not take; give a Qwen2-VL, Qwen2.5-VL or Qwen3-VL "
            "backbone, or use tte-flash."
        )
    tokenizer = qwen_vl_tokenizer(loaded.transformer)
    processor = loaded.transformer.processor
    if "<disc_emb>" in processor.chat_template:
        raise CheckpointError("The backbone is a PLUME already; load it as it is, or build from where it came from.")
    processor.chat_template = remove_thinking_turn(processor.chat_template, thought_vocabulary(tokenizer).max_budget)
    present = len(tokenizer)
    tokenizer.add_tokens(list(PLUME_TOKENS))
    added = tokenizer.get_added_vocab()
    new_ids = [added[token] for token in PLUME_TOKENS if added[token] >= present]
    copied = loaded.copied_rows(added["<gen_emb>"], init)
    add_token_rows(qwen_vl_model(loaded.transformer), new_ids, init=init, seed=seed, copied=copied)
    return modules(loaded, options, seed=seed, instruction=instruction)


def modules(
    loaded: Backbone, options: PlumeOptions, *, seed: int = 0, instruction: str = INSTRUCTION
) -> list[nn.Module]:
    """Give a backbone that has PLUME's tokens its prompt and an adapter, in place.

    Args:
        loaded: The backbone.
        options: What the checkpoint is beside its weights.
        seed: Seed of the adapter.
        instruction: Appended to every item.
    """
    transformer, processor = loaded.transformer, loaded.transformer.processor
    template = add_plume_prompt(processor.chat_template, options.prefix, instruction)
    processor.chat_template = processor.tokenizer.chat_template = template
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = PlumeTransformer.convert(transformer, options)
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
    """Column of the last true value of each row; (B, L) to (B,)."""
    return found.shape[1] - 1 - found.long().flip(1).argmax(1)
