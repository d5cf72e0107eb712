"""The layout of ``config.json`` and weights that inference engines load."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CHAT_MODELS

from tte_retriever.backbones.specs import BackboneSpec, backbone_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

HEAD_DROPPED = "output_head_dropped"
"""Key of ``config.json``: the backbone had an untied output head, which was not kept."""


@contextmanager
def engine_layout(transformer: nn.Module) -> Iterator[None]:
    """Save in the layout that vLLM, SGLang and llama.cpp load, as long as the block runs.

    It is the layout of the family's chat models on the hub: ``architectures`` names the ``ForConditionalGeneration`` class,
    and weights have the prefixes of :class:`BackboneSpec`. transformers writes other names for a model without an output
    head, which engines refuse or skip in silence. transformers loads both layouts.

    Where an untied output head was dropped, the config says that the head is the embedding matrix, because an engine
    initialises or demands a missing head.

    Args:
        transformer: A ``Transformer`` module of sentence-transformers, whose ``save`` is changed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever import TTEEncoder
        >>> transformer = TTEEncoder("tte-flash-tiny", device="cpu").transformer
        >>> with TemporaryDirectory() as folder, engine_layout(transformer):
        ...     transformer.save(folder)
        ...     json.loads(Path(folder, "config.json").read_text())["architectures"]
        ['Qwen3VLForConditionalGeneration']
    """
    model = transformer.model
    assert isinstance(model, PreTrainedModel)

    def save_pretrained(folder: str | Path, **options: Any) -> None:
        spec = backbone_spec(model.config.model_type)
        weights = {_engine_name(name, spec): tensor for name, tensor in model.state_dict().items()}
        type(model).save_pretrained(model, folder, state_dict=weights, save_original_format=False, **options)
        _edit_config(Path(folder, "config.json"), has_head=model.get_output_embeddings() is not None)

    vars(model)["save_pretrained"] = save_pretrained  # sentence-transformers has no option for names
    try:
        yield
    finally:
        vars(model).pop("save_pretrained", None)  # a block inside a block has removed it


def _engine_name(name: str, spec: BackboneSpec) -> str:
    part, _, rest = name.removeprefix("model.").partition(".")  # a model with an output head has the rest in ``model``
    prefixes = {"language_model": spec.language_prefix, "visual": spec.vision_prefix, "lm_head": "lm_head."}
    return prefixes[part] + rest


def _edit_config(file: Path, *, has_head: bool) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config["architectures"] = [CHAT_MODELS[config["model_type"]]]
    if not has_head and not config["tie_word_embeddings"]:
        config |= {"tie_word_embeddings": True, HEAD_DROPPED: True}
        config["text_config"]["tie_word_embeddings"] = True
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
