"""Import the public WeMM-Embedding checkpoints (arXiv 2608.24053): Qwen3.5 models that embed at a token of their own.

The folders come with custom code, which is not run. Their chat template and tokenizer say how a prompt is read; the new
template writes the same tokens, and the import compares the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoProcessor

from tte_retriever.backbones import load_backbone
from tte_retriever.backbones.rows import check_rows
from tte_retriever.errors import CheckpointError
from tte_retriever.importing.layout import load_backbone_weights, read_weights
from tte_retriever.tokens import READ_OUT_END, WEMM_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Qwen3VLProcessor

CARD = """# {name}, imported

WeMM-Embedding (arXiv 2608.24053): `{name}` without its custom code, in the layout of `tte-retriever`. The weights are its
authors', unchanged except for the output head, which embedding does not need and which is left out. So is their licence.

Plain `SentenceTransformer` loads this folder; `TTEEncoder` of `tte-retriever` adds typed inputs. A prompt is one user turn and the
token `<embedding>`, at which the vector is read. An instruction (`prompt`) stands in front of the first text of the turn.

Imported by `tte-retriever import --from wemm`.
"""

_LINE_END = "\n$"
"""A rule of its tokenizer's normaliser: a line end goes away in front of another one and in front of a special token.

transformers replaces the normaliser of a Qwen3.5 tokenizer when it loads one, so the template does the work of the rule.
"""

_FRAMES = "<|vision_start|><|video_pad|><|vision_end|>"
"""A pair of frames, in the template of the original a video. Its model was trained without a second pair of marks around all
frames, which the processor of this release of transformers would leave there."""

TEMPLATE = (
    "{%- macro tidy(text) %}"
    "{{- '\\n' if text.startswith('\\n') and text.strip('\\n') }}{{- text.split('\\n') | select | join('\\n') }}"
    "{%- endmacro %}"
    "{%- if messages[-1].role in ('system', 'assistant') %}"
    "{{- raise_exception('The last message is of the ' ~ messages[-1].role ~ '; it has to be what is embedded.') }}"
    "{%- endif %}"
    "{%- set turn = namespace(text='', instruction='') %}"
    "{%- for message in messages %}"
    "{%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content %}"
    "{%- if message.role == 'system' %}"
    "{%- for part in parts %}{%- set turn.instruction = turn.instruction ~ part.text %}{%- endfor %}"
    "{%- else %}"
    "{{- '<|im_start|>' }}{%- set turn.text = message.role ~ '\\n' %}"
    "{%- for part in parts %}"
    "{%- if part.type == 'image' or 'image' in part %}"
    "{{- tidy(turn.text) ~ '<|vision_start|><|image_pad|><|vision_end|>' }}{%- set turn.text = '' %}"
    "{%- elif part.type == 'video' or 'video' in part %}"
    "{%- set turn.text = turn.text ~ '<|video_pad|>' %}"
    "{%- elif 'text' in part %}"
    "{%- set turn.text = turn.text ~ turn.instruction ~ (' ' if turn.instruction) ~ part.text %}"
    "{%- set turn.instruction = '' %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{{- tidy(turn.text ~ turn.instruction) ~ '<|im_end|>' }}{%- set turn.instruction = '' %}"
    "{%- endif %}"
    "{%- endfor %}" + READ_OUT_END
)
"""A turn is the role, a line end and the content between ``<|im_start|>`` and ``<|im_end|>``; the prompt ends in ``<embedding>``.

A system message is an instruction: it stands in front of the first text of the next turn, or at its end if there is none.
"""

_TEXTS = ("hello world", "two  spaces, a\ttab", "第一行 line one\nline two", "a paragraph\n\n\nand another one\n")
_CONTENTS = (
    *([{"type": "text", "text": text}] for text in _TEXTS),
    [{"type": "image"}, {"type": "text", "text": "what is it?"}],
    [{"type": "image"}, {"type": "image"}],
    [{"type": "text", "text": "like this:\n"}, {"type": "image"}],
    [{"type": "video"}, {"type": "text", "text": "\nand then?"}],
)
"""Prompts whose tokens are compared with those of the original."""


@dataclass(frozen=True)
class Settings:
    """There are none: everything is in the files."""


def load(folder: Path, settings: Settings) -> SentenceTransformer:
    """Load a folder of WeMM-Embedding.

    Args:
        folder: The original folder.
        settings: None.

    Raises:
        CheckpointError: A token or a weight is missing, a weight is not expected, or a prompt would get other tokens than in
            the original.
    """
    processor, original = _processor(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    _check_line_ends(original, folder)
    prompts = [_rendered(processor, content) for content in _CONTENTS]
    model = load_backbone_weights(folder, read_weights(folder))
    matrix = model.get_input_embeddings()
    assert isinstance(matrix, nn.Embedding)
    check_rows(processor.tokenizer, matrix, str(folder))
    if hasattr(model.config, "auto_map"):  # it names the custom code
        del model.config.auto_map
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE
    with TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        loaded = load_backbone(scratch)
    for content, prompt in zip(_CONTENTS, prompts, strict=True):
        ids = loaded.transformer.processor.tokenizer(_rendered(loaded.transformer.processor, content)).input_ids
        _check_tokens(ids, original.encode(prompt).ids, original)
    return SentenceTransformer(modules=[loaded.transformer, *loaded.head], similarity_fn_name="cosine", device="cpu")


def _processor(folder: Path) -> Qwen3VLProcessor:
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(folder)!r} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}); give the complete "
            "folder of a WeMM-Embedding, or its hub id."
        ) from error
    if model_type != "qwen3_5" or WEMM_TOKEN not in processor.tokenizer.get_added_vocab():
        raise CheckpointError(
            f"{str(folder)!r} is no WeMM-Embedding, which is a qwen3_5 model with the token {WEMM_TOKEN}: it is a {model_type} "
            "model. Give the complete, original folder."
        )
    return processor


def _check_line_ends(original: Tokenizer, folder: Path) -> None:
    """Raise unless the normaliser is the one whose work the template does.

    Raises:
        CheckpointError: It is another one.
    """
    rules = [rule for rule in _rules(json.loads(original.to_str())["normalizer"]) if rule != {"type": "NFC"}]
    patterns = [rule.get("pattern") for rule in rules if rule.get("content") == ""]
    if len(rules) != 1 or patterns not in ([{"Regex": _LINE_END}], [{"Regex": r"\n$"}]):
        raise CheckpointError(
            f"The tokenizer in {str(folder)!r} normalises texts by {rules}, and that of a WeMM-Embedding only drops line ends; "
            "give the original folder."
        )


def _rules(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None or normalizer["type"] != "Sequence":
        return [] if normalizer is None else [normalizer]
    return [rule for each in normalizer["normalizers"] for rule in _rules(each)]


def _rendered(processor: Any, content: list[dict[str, str]]) -> str:
    """A prompt before media are inserted, with one pair of frames and their time in place of a video."""
    chat = [{"role": "user", "content": content}]
    text = str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=False))
    return text.replace(_FRAMES, "<|video_pad|>").replace("<|video_pad|>", f"<0.5 seconds>{_FRAMES}")


def _check_tokens(ids: list[int], expected: list[int], original: Tokenizer) -> None:
    if ids != expected:
        read, wanted = (original.decode(each, skip_special_tokens=False) for each in (ids, expected))
        raise CheckpointError(
            f"The import would read {read!r} where the original reads {wanted!r}, so its vectors would be wrong. The chat "
            "template or the tokenizer is not that of the public WeMM-Embedding; give the original folder."
        )
