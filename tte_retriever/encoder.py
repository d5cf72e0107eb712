"""``TTEEncoder``: a ``SentenceTransformer`` with typed inputs and a think budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from jinja2 import TemplateError
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import import_from_string
from tqdm.autonotebook import tqdm

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.backbones.engine_layout import engine_layout
from tte_retriever.backbones.rows import check_rows
from tte_retriever.chats import (
    as_chat,
    image_size,
    own_budget,
    parts,
    refuse_ignored,
    take_metadata,
    with_system_message,
)
from tte_retriever.errors import CheckpointError, InputError, TTEError, check_choice
from tte_retriever.fingerprints import Hashing
from tte_retriever.hub import find_model, local_folder, one_sentence_errors
from tte_retriever.inference import BatchEmbedder, stream
from tte_retriever.inference.normalizing import normalize_in_float32
from tte_retriever.inference.thoughts import check_thoughts
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, VideoSampling, typed_input
from tte_retriever.methods.thinking_module import ThinkingModule
from tte_retriever.tokens import ThoughtVocabulary, escape_control_tokens, thought_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.base.modules.transformer import ProcessingKwargs

    from tte_retriever.inference.embedding import Model

CUSTOM_MODULES = "tte_retriever.methods."
"""Package of the modules with custom code. They are installed with this class, so they load without a flag."""

_PROCESSING = Lock()
"""Tokenizers keep padding and truncation as state, so only one thread at a time may use a processor."""


class TTEEncoder(SentenceTransformer):
    """Encodes text, images, videos and chats into one unit vector each.

    All methods of ``SentenceTransformer`` work as usual (``encode``, ``encode_query``, ``encode_document``, ``similarity``,
    saving, training), and a checkpoint gives the same vectors in both classes. In addition:

    * A ``str`` is always text. Media are ``pathlib.Path``, ``bytes``, PIL images, arrays or lists of frames, alone or in
      ``{"text": …, "image": …, "video": …}``. Chats are lists of messages. Media are opened within ``media_limits``, which
      can allow URLs of named hosts.
    * ``encode(…, think_budget=n)`` uses the first ``n`` think tokens or ``n`` latent steps, from 0 to ``max_budget``. A chat
      can set its own ``think_budget`` in its last message.
    * Methods that need custom code load without ``trust_remote_code``.
    * Control tokens in a text are escaped, so they stay text.
    * An item whose think tokens were truncated raises, and so does an embedding with NaN or infinity.
    * Vectors are normalised in float32, so their norm is 1 to 1e-6 with weights in bfloat16 as well. ``SentenceTransformer``
      normalises in the dtype of the weights: in bfloat16 its norms differ from 1 by up to 4e-3.

    A checkpoint without think tokens, such as ``Qwen/Qwen3-VL-Embedding-2B``, embeds directly: its ``max_budget`` is 0.

    Args:
        model_name_or_path: Name of a bundled model (``tte-flash-tiny``), a folder, or a hub id.
        media_limits: Limits on the media that are opened.
        think_budget: The think budget where none is given; ``None`` is ``max_budget``.
        max_pixels: The most pixels of an image that the model sees where ``encode`` is given none: a larger one is scaled
            down, as by ``size["longest_edge"]`` of the image processor. ``None`` is the model's own limit. Videos have a
            limit of their own, ``processor.video_processor.size``.
        batch_tokens: The most tokens in a batch of :meth:`embed` where none is given.
        **kwargs: As for ``SentenceTransformer``.

    Raises:
        InputError: If there is no such model, or an argument is out of range.
        CheckpointError: If the model is no Qwen-VL checkpoint with a chat template, or if its tokenizer and embedding matrix
            do not match.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> pairs = draw_pairs("caption", 3, seed=0, split="test")
        >>> captions = encoder.encode([pair.query for pair in pairs])
        >>> pictures = encoder.encode([pair.positive for pair in pairs], think_budget=4)
        >>> encoder.similarity(captions, pictures).argmax(dim=1).tolist()
        [0, 1, 2]
    """

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        media_limits: MediaLimits = DEFAULT_LIMITS,
        think_budget: int | None = None,
        max_pixels: int | None = None,
        batch_tokens: int = 8192,
        **kwargs: Any,
    ) -> None:
        name = None
        if model_name_or_path is not None:
            options = {
                key: kwargs[key] for key in ("revision", "token", "cache_folder", "local_files_only") if key in kwargs
            }
            name, kwargs["local_files_only"] = find_model(str(model_name_or_path), **options)
        with one_sentence_errors(name):
            super().__init__(name, **kwargs)
        self.media_limits = media_limits
        processor: Any = getattr(self[0], "processor", None)
        if not (hasattr(processor, "video_processor") and processor.chat_template):
            raise CheckpointError(
                f"{model_name_or_path!r} is no Qwen-VL checkpoint with a chat template, which TTEEncoder needs; load it with "
                "SentenceTransformer."
            )
        normalize_in_float32(self)
        self.transformer.unpad_inputs = False  # packed rows of FlashAttention cannot hold three axes of positions
        check_rows(self.tokenizer, qwen_vl_model(self.transformer).get_input_embeddings(), model_name_or_path)
        self.thought: ThoughtVocabulary = thought_vocabulary(self.tokenizer, str(processor.chat_template))
        self.batch_tokens, self.max_pixels, self.think_budget = batch_tokens, max_pixels, think_budget
        _checked_budget(think_budget, self.max_budget)
        image_size(self.processor, max_pixels)  # raise before anything is encoded
        if batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}; give a positive number.")
        folder = None if name is None else local_folder(name, kwargs.get("revision"), kwargs.get("cache_folder"))
        self._hashing = Hashing(self, folder)

    @property
    def fingerprint(self) -> str:
        """Identifies the embedding space; see :func:`tte_retriever.fingerprints.fingerprint`.

        Hashing takes seconds for a large model. So the result is kept until weights or settings change, and remembered in
        the user's cache folder. PyTorch does not report writes through ``.data``, so they may not be noticed.
        """
        return self._hashing.fingerprints(self).space

    @property
    def document_fingerprint(self) -> str:
        """As :attr:`fingerprint`, without the prompts of queries: it identifies the vectors of documents."""
        return self._hashing.fingerprints(self).documents

    @property
    def transformer(self) -> Transformer:
        """The first module: backbone, processor and chat template."""
        return cast("Transformer", self[0])

    @property
    def video_sampling(self) -> VideoSampling:
        """How many frames this model takes from a video, as its video processor sets it."""
        processor = self.processor.video_processor
        return VideoSampling(
            fps=float(getattr(processor, "fps", None) or 2.0),
            min_frames=int(getattr(processor, "min_frames", None) or 4),
            max_frames=int(getattr(processor, "max_frames", None) or 768),
        )

    def get_model_kwargs(self) -> list[str]:
        """Names of the arguments that ``encode`` passes on to the model."""
        return sorted({*super().get_model_kwargs(), "think_budget", "max_pixels"})

    @property
    def max_budget(self) -> int:
        """The largest ``think_budget``: the ``max_budget`` of a :class:`ThinkingModule`, else the number of think tokens."""
        first = self.transformer
        return first.max_budget if isinstance(first, ThinkingModule) else self.thought.max_budget

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        think_budget: int | None = None,
        max_pixels: int | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turn items into model features.

        Args:
            inputs: Items, as for ``encode``.
            prompt: Instruction; becomes the system message of each item that has none of its own.
            think_budget: Number of think tokens or latent steps, 0…``max_budget``; ``None`` is that of the encoder. The
                budget in the last message of a chat goes before it. A :class:`ThinkingModule` finds it in the features, as
                ``think_budget`` (B,) int64; for a stock module it is a variable of the chat template.
            max_pixels: The most pixels of an image that the model sees; ``None`` is that of the encoder.
            processing_kwargs: As for ``SentenceTransformer``, without options that choose frames of a video or set a think
                budget.
            **kwargs: As for ``SentenceTransformer``.

        Raises:
            InputError: An unusable item, budget or option, or media that exceed the maximum length. Longer texts are cut.
            MediaError: Unusable media.
        """
        given: Any = dict(processing_kwargs or {})
        refuse_ignored(given)
        items = [typed_input(item, self.media_limits, video=self.video_sampling) for item in inputs]
        chats = [as_chat(item, self.tokenizer) for item in items]
        largest = self.max_budget
        default = self.think_budget if think_budget is None else think_budget
        budgets = [_checked_budget(own_budget(chat, default), largest) for chat in chats]
        for chat, budget in zip(chats, budgets, strict=True):
            chat[-1] = {**chat[-1], "think_budget": budget}
        if size := image_size(self.processor, self.max_pixels if max_pixels is None else max_pixels):
            given["image"] = {"size": size, **given.get("image", {})}
        # All items become chats: stock code drops the content of chats in a batch with other inputs.
        given["video"] = {**given.get("video", {}), "do_sample_frames": False}
        if metadata := [take_metadata(part) for part in parts(chats) if part["type"] == "video"]:
            given["video"]["video_metadata"] = metadata
        try:
            with _PROCESSING:
                features = self.transformer.preprocess(
                    with_system_message(chats, escape_control_tokens(prompt or "", self.tokenizer)),
                    processing_kwargs=given,
                    **kwargs,
                )
        except (ValueError, TemplateError) as error:  # such as truncation inside an image
            raise InputError(f"The batch does not fit the model: {error}") from error
        if isinstance(self.transformer, ThinkingModule):
            features["think_budget"] = torch.tensor(budgets)  # (B,)
        else:
            check_thoughts(features, budgets, self.thought, tokenizer=self.tokenizer, max_tokens=self.max_seq_length)
        return features

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Turn features into embeddings (B, E) float32, as ``SentenceTransformer`` does.

        Raises:
            TTEError: If an embedding contains NaN or infinity. Not in training, where a gradient scaler handles them.
        """
        output: dict[str, Any] = super().forward(input, **kwargs)
        vectors = output.get("sentence_embedding")  # (B, E)
        if not self.training and vectors is not None and not (finite := vectors.isfinite().all(1)).all():
            raise TTEError(
                f"{int((~finite).sum())} of {len(finite)} vectors hold NaN or infinity. Load the model in float32 or "
                'bfloat16 (model_kwargs={"dtype": "float32"}); if that does not help, its weights are broken.'
            )
        if vectors is not None:
            output["sentence_embedding"] = vectors.float()
        return output

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save as ``SentenceTransformer`` does, in the layout that engines load; see ``docs/serving.md``."""
        with engine_layout(self.transformer):
            super().save(path, *args, **kwargs)

    def embed(
        self,
        inputs: Iterable[Any],
        *,
        batch_tokens: int | None = None,
        look_ahead: int = 256,
        prompt_name: str | None = None,
        prompt: str | None = None,
        think_budget: int | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        show_progress_bar: bool = False,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Any]:
        """Encode an iterable of any length in bounded memory.

        It yields the rows of the array that ``encode`` returns for the same items.

        Args:
            inputs: Items, as for ``encode``. They are taken one by one when they are needed, so it may be endless.
            batch_tokens: The most tokens in a batch, padding and media included; ``None`` is that of the encoder. A longer item
                gets a batch of its own.
            look_ahead: The most items that are taken from ``inputs`` and not yet yielded. More items give batches with less
                padding, fewer a shorter wait.
            prompt_name: As for ``encode``.
            prompt: As for ``encode``.
            think_budget: As for ``encode``.
            normalize_embeddings: As for ``encode``.
            truncate_dim: As for ``encode``.
            show_progress_bar: Whether to count vectors on stderr.
            on_error: ``raise`` ends the stream at the first item that cannot be encoded; ``yield`` yields the error in its
                place, also for an item whose embedding contains NaN or infinity.

        Returns:
            An iterator of embeddings (E,) float32, in the order of ``inputs``.

        Raises:
            InputError: If ``inputs`` is a single item, an argument is out of range, or an item is unusable.
            MediaError: Unusable media in an item. Messages name the item's index.
            TTEError: If an embedding contains NaN or infinity.

        Example:
            >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
            >>> for vector in encoder.embed(text for text in ("a red circle", "two")):
            ...     print(vector.shape)
            (128,)
            (128,)
        """
        sequence = isinstance(inputs, (list, np.ndarray, torch.Tensor))
        single = self.is_singular_input(inputs) if sequence else isinstance(inputs, (str, bytes, Mapping))
        if single or not isinstance(inputs, Iterable):
            raise InputError(f"embed takes an iterable of items, not one {type(inputs).__name__}; use [item].")
        batch_tokens = self.batch_tokens if batch_tokens is None else batch_tokens
        for name, value in (("batch_tokens", batch_tokens), ("look_ahead", look_ahead)):
            if value < 1:
                raise InputError(f"{name} is {value}; give a positive number.")
        check_choice("on_error", on_error, ("raise", "yield"))
        _checked_budget(think_budget, self.max_budget)
        embedder = BatchEmbedder(
            cast("Model", self),
            prompt=self._resolve_prompt(prompt, prompt_name),
            think_budget=think_budget,
            dimension=self.truncate_dim if truncate_dim is None else truncate_dim,
            normalize=normalize_embeddings,
            isolate_errors=on_error == "yield",
        )
        results = stream(inputs, embedder.prepare, embedder.embed, batch_tokens=batch_tokens, look_ahead=look_ahead)
        total = len(inputs) if isinstance(inputs, Sized) else None
        return self._counted(results, total, show_progress_bar, yield_errors=on_error == "yield")

    def _counted(self, results: Iterable[Any], total: int | None, show: bool, *, yield_errors: bool) -> Iterator[Any]:
        self.eval()
        with tqdm(total=total, desc="Vectors", disable=not show) as progress:
            for result in results:
                if isinstance(result, Exception) and not (isinstance(result, TTEError) and yield_errors):
                    raise result
                progress.update()
                yield result

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        """Load the modules of this package without ``trust_remote_code``; stock code asks for it for any third-party class."""
        if class_ref.startswith(CUSTOM_MODULES):
            return import_from_string(class_ref)
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)


def _checked_budget(budget: int | None, largest: int) -> int:
    if budget is None:
        return largest
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or not 0 <= budget <= largest:
        raise InputError(
            f"think_budget is {budget!r}, but this model has {largest} think tokens or steps; give an int from 0 to "
            f"{largest}."
        )
    return int(budget)
