"""The front door: a ``SentenceTransformer`` that takes typed inputs only and thinks as long as it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device, import_from_string, truncate_embeddings
from tqdm.autonotebook import tqdm

from tte_retriever.chats import as_chat, own_budget, parts, refuse_ignored, take_metadata
from tte_retriever.checkpoint import fingerprint, resolve_model, settings
from tte_retriever.errors import CheckpointError, InputError, TTEError
from tte_retriever.inference import collate, split, stream
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, VideoSampling, typed_input
from tte_retriever.methods.thinking_module import ThinkingModule
from tte_retriever.tokens import ThoughtVocabulary, thought_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.base.modules.transformer import ProcessingKwargs
    from torch import nn

OWN_MODULES = "tte_retriever.methods."
"""Home of the modules that think by code of their own; they ship with this class, so that loading them trusts nobody else."""

_PROCESSING = Lock()
"""Tokenizers keep padding and truncation as state, so one thread at a time may use a processor."""


class TTEEncoder(SentenceTransformer):
    """Text, images, video and chats in, one unit vector each out.

    Everything ``SentenceTransformer`` does works the same (``encode``, ``encode_query``, ``encode_document``,
    ``similarity``, saving, training), and a checkpoint gives the same vectors in both. On top:

    * A ``str`` is text, always. Media are ``pathlib.Path``, ``bytes``, PIL images, arrays or frame lists, alone or in
      ``{"text": …, "image": …, "video": …}``, opened under ``media_limits``, which may allow URLs of named hosts, too;
      chats are lists of messages.
    * ``encode(…, think_budget=n)`` thinks with the first ``n`` think tokens, or for as many steps, 0…``max_budget``; a chat
      message may carry its own ``think_budget``.
    * Methods that need code of ours at inference load without ``trust_remote_code``.
    * Control tokens that a text spells out stay text.
    * A row whose thought was cut off by truncation raises instead of yielding a wrong vector, and so does a vector that
      holds NaN or infinity.

    A checkpoint without think tokens, such as ``Qwen/Qwen3-VL-Embedding-2B``, embeds directly: its K is 0.

    Args:
        model_name_or_path: A bundled name (``tte-flash-tiny``), a folder, or a hub id.
        media_limits: What may be opened.
        **kwargs: As for ``SentenceTransformer``.

    Raises:
        CheckpointError: If it is no Qwen-VL checkpoint with a chat template, or tokenizer and embedding matrix do not
            belong together.
    """

    def __init__(
        self, model_name_or_path: str | None = None, *, media_limits: MediaLimits = DEFAULT_LIMITS, **kwargs: Any
    ) -> None:
        name = resolve_model(str(model_name_or_path)) if model_name_or_path is not None else None
        super().__init__(name, **kwargs)
        self.media_limits = media_limits
        processor: Any = getattr(self[0], "processor", None)
        if not (hasattr(processor, "video_processor") and processor.chat_template):
            raise CheckpointError(
                f"{model_name_or_path!r} is no Qwen-VL checkpoint with a chat template, which is what a TTEEncoder takes; "
                "load it with SentenceTransformer."
            )
        self.transformer.unpad_inputs = (
            False  # rows that FlashAttention packs have no place for three kinds of positions
        )
        matrix = cast("nn.Embedding", self.transformer.model.get_input_embeddings())
        rows, tokens = matrix.num_embeddings, len(self.tokenizer)
        if tokens > rows:
            raise CheckpointError(
                f"The tokenizer of {model_name_or_path!r} has {tokens} tokens but its embedding matrix only {rows} "
                "rows; the two are not of one checkpoint. Load a folder in which they were saved together."
            )
        self.thought: ThoughtVocabulary = thought_vocabulary(self.tokenizer)
        self._hashed: tuple[tuple[tuple[tuple[int, int], ...], str], str] | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the embedding space; see :func:`tte_retriever.checkpoint.fingerprint`.

        Hashing takes seconds for a large model, so it is done once, and again after weights or settings were changed. A
        write through ``.data`` is no change that torch tells of: it is seen only before the first hashing.
        """
        weights = tuple((tensor.data_ptr(), tensor._version) for tensor in self.state_dict().values())
        state = (weights, settings(self))
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = (state, fingerprint(self))
        return self._hashed[1]

    @property
    def transformer(self) -> Transformer:
        """The first module: backbone, processor and chat template."""
        return cast("Transformer", self[0])

    @property
    def video_sampling(self) -> VideoSampling:
        """How many frames this model takes from a video: what its video processor says."""
        processor = self.processor.video_processor
        return VideoSampling(
            fps=float(getattr(processor, "fps", None) or 2.0),
            min_frames=int(getattr(processor, "min_frames", None) or 4),
            max_frames=int(getattr(processor, "max_frames", None) or 768),
        )

    def get_model_kwargs(self) -> list[str]:
        """Names that ``encode`` accepts besides its own."""
        return sorted({*super().get_model_kwargs(), "think_budget"})

    @property
    def max_budget(self) -> int:
        """The largest ``think_budget``: what the first module says, where it thinks by code of its own, else K."""
        first = self.transformer
        return first.max_budget if isinstance(first, ThinkingModule) else self.thought.max_budget

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        think_budget: int | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turn items into model features.

        Args:
            inputs: Items, as for ``encode``.
            prompt: Instruction; becomes a system message.
            think_budget: Number of think tokens or steps, 0…``max_budget``, which is what ``None`` means. That of a chat's
                last message wins. A first module with a ``max_budget`` finds it in the features, as
                ``think_budget`` (B,) int64; for any other it is a variable of the chat template.
            processing_kwargs: As for ``SentenceTransformer``, but for which frames of a video are taken and for the
                think budget.
            **kwargs: As for ``SentenceTransformer``.

        Raises:
            InputError: An unusable item, budget or option, or a row that does not fit into the maximum length.
            MediaError: Unusable media.
        """
        given: ProcessingKwargs = processing_kwargs or {}
        refuse_ignored(given)
        items = [typed_input(item, self.media_limits, video=self.video_sampling) for item in inputs]
        chats = [as_chat(item, self.tokenizer) for item in items]
        budgets = [self._checked_budget(own_budget(chat, think_budget)) for chat in chats]
        for chat, budget in zip(chats, budgets, strict=True):
            chat[-1] = {**chat[-1], "think_budget": budget}
        # Every item goes in as a chat: stock code drops the content of chats that share a batch with other inputs.
        video = {**given.get("video", {}), "do_sample_frames": False}
        if metadata := [take_metadata(part) for part in parts(chats) if part["type"] == "video"]:
            video["video_metadata"] = metadata
        try:
            with _PROCESSING:
                features = self.transformer.preprocess(
                    chats, prompt=prompt, processing_kwargs={**given, "video": video}, **kwargs
                )
        except ValueError as error:  # truncation inside an image, say: the processor's own words are the reason
            raise InputError(f"The batch does not fit the model: {error}") from error
        if isinstance(self.transformer, ThinkingModule):
            features["think_budget"] = torch.tensor(budgets)  # (B,)
        else:
            self._check_thoughts(features["input_ids"], budgets)
        return features

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Features to vectors, as ``SentenceTransformer`` does, and never to a vector that is none.

        Raises:
            TTEError: If a vector holds NaN or infinity; training goes on, for its scaler to handle that.
        """
        output: dict[str, Any] = super().forward(input, **kwargs)
        vectors = output.get("sentence_embedding")  # (B, E)
        if not self.training and vectors is not None and not (finite := vectors.isfinite().all(1)).all():
            raise TTEError(
                f"{int((~finite).sum())} of {len(finite)} vectors hold NaN or infinity, so none is given. Load the model in "
                'float32 or bfloat16 (model_kwargs={"dtype": "float32"}); if that does not help, its weights are broken.'
            )
        return output

    def embed(
        self,
        inputs: Iterable[Any],
        *,
        batch_tokens: int = 8192,
        look_ahead: int = 256,
        prompt_name: str | None = None,
        prompt: str | None = None,
        think_budget: int | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        show_progress_bar: bool = False,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Any]:
        """Encode a stream: any iterable, in bounded memory, in batches of bounded size.

        The vectors are those of ``encode``. ``np.stack(list(encoder.embed(items)))`` is the array that it returns.

        Args:
            inputs: Items, as for ``encode``; taken one by one as they are needed, so that it may be endless.
            batch_tokens: Most tokens in a batch, padding and media included; an item that is longer goes alone.
            look_ahead: Most items taken from ``inputs`` and not yet yielded: more sort better, fewer wait less.
            prompt_name: As for ``encode``.
            prompt: As for ``encode``.
            think_budget: As for ``encode``.
            normalize_embeddings: As for ``encode``.
            truncate_dim: As for ``encode``.
            show_progress_bar: Whether to count vectors on stderr.
            on_error: What becomes of an item that cannot be encoded: ``raise`` ends the stream when its turn comes,
                ``yield`` gives the error in its place, also of an item that the model makes NaN or infinity of.

        Returns:
            An iterator of vectors (E,), float32, in the order of ``inputs``.

        Raises:
            InputError: If ``inputs`` is a single item, an argument is out of range, or an item is unusable.
            MediaError: Unusable media in an item. Messages name the item's index.
            TTEError: If a vector holds NaN or infinity; that ends the stream at once.
        """
        sequence = isinstance(inputs, (list, np.ndarray, torch.Tensor))
        single = self.is_singular_input(inputs) if sequence else isinstance(inputs, (str, bytes, Mapping))
        if single or not isinstance(inputs, Iterable):
            raise InputError(
                f"embed takes an iterable of items, but one {type(inputs).__name__} was given; use [item]."
            )
        for name, value in (("batch_tokens", batch_tokens), ("look_ahead", look_ahead)):
            if value < 1:
                raise InputError(f"{name} is {value}; give a positive number.")
        if on_error not in ("raise", "yield"):
            raise InputError(f"on_error is {on_error!r}; give 'raise' or 'yield'.")
        self._checked_budget(think_budget)
        prompt = self._resolve_prompt(prompt, prompt_name)
        dimension = self.truncate_dim if truncate_dim is None else truncate_dim

        def prepare(items: Sequence[Any]) -> list[dict[str, Any]]:
            return split(self.preprocess(items, prompt=prompt, think_budget=think_budget))

        def encode(items: list[dict[str, Any]]) -> list[np.ndarray | InputError]:
            try:
                return [*encode_batch(items)]
            except TTEError as error:  # of a vector that is none: it is not to take the others with it
                if on_error == "raise":
                    raise
                if len(items) > 1:
                    return [result for item in items for result in encode([item])]
                return [InputError(str(error))]

        def encode_batch(items: list[dict[str, Any]]) -> list[np.ndarray]:
            tokenizer = self.tokenizer
            batch = collate(items, pad_id=tokenizer.pad_token_id or 0, padding_side=tokenizer.padding_side)
            with torch.inference_mode():
                vectors = self(batch_to_device(batch, self.device))["sentence_embedding"]
                if dimension is not None:
                    vectors = truncate_embeddings(vectors, dimension)
                if normalize_embeddings:
                    vectors = torch.nn.functional.normalize(vectors, dim=1)
            return [vector.copy() for vector in vectors.float().cpu().numpy()]  # a kept row must not keep its batch

        def vectors() -> Iterator[Any]:
            self.eval()
            total = len(inputs) if isinstance(inputs, Sized) else None
            with tqdm(total=total, desc="Vectors", disable=not show_progress_bar) as progress:
                for vector in stream(inputs, prepare, encode, batch_tokens=batch_tokens, look_ahead=look_ahead):
                    if isinstance(vector, Exception) and not (isinstance(vector, TTEError) and on_error == "yield"):
                        raise vector
                    progress.update()
                    yield vector

        return vectors()

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        """Stock code takes any class outside of sentence-transformers for a stranger's, ours included."""
        if class_ref.startswith(OWN_MODULES):
            return import_from_string(class_ref)
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)

    def _checked_budget(self, budget: int | None) -> int:
        largest = self.max_budget
        if budget is None:
            return largest
        if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or not 0 <= budget <= largest:
            raise InputError(
                f"think_budget is {budget!r}, but this model has {largest} think tokens or steps; give an int from 0 to "
                f"{largest}."
            )
        return int(budget)

    def _check_thoughts(self, input_ids: torch.Tensor, budgets: list[int]) -> None:
        """Raise where truncation has cut into the thought.  ``input_ids`` is (B, L)."""
        if self.thought.embed_id is None:
            return
        ids = torch.tensor([*self.thought.think_ids, self.thought.embed_id])
        found = torch.isin(input_ids.cpu(), ids).sum(1).tolist()  # (B,)
        for row, (has, budget) in enumerate(zip(found, budgets, strict=True)):
            if has != budget + 1:
                raise InputError(
                    f"Row {row} of the batch carries {has} thought tokens instead of {budget + 1}: it does not fit into "
                    f"{self.max_seq_length} tokens. Shorten the text, use smaller or fewer media, or raise max_seq_length."
                )
