"""Load a backbone: a checkpoint of transformers or of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import is_sentence_transformer_model
from transformers import AutoConfig

from tte_retriever.backbones.custom_code import refuse_custom_code
from tte_retriever.backbones.qwen_vl import qwen_vl_tokenizer
from tte_retriever.backbones.special_tokens import remove_special_tokens
from tte_retriever.backbones.specs import BackboneSpec, backbone_spec
from tte_retriever.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tte_retriever.backbones.rows import Init

SimilarityName: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]
"""The similarity functions of sentence-transformers."""

_ANY_CHAT = [{"role": "user", "content": [{"type": "text", "text": "text"}]}]


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone.

    Attributes:
        spec: Its family.
        transformer: Model, processor and chat template.
        head: The modules after it: last-token pooling and normalisation.
        prompts: Instructions of the checkpoint, by name.
        default_prompt_name: Name of the prompt that is used if none is given.
        similarity_fn_name: How its vectors are compared.
        read_out_id: Id of the token at which it reads its own embedding; ``None`` if it is not an embedding model.

    Example:
        >>> from tte_retriever import model_path
        >>> from tte_retriever.backbones import load_backbone
        >>> [type(module).__name__ for module in load_backbone(model_path("tte-flash-tiny")).head]
        ['Pooling', 'Normalize']
    """

    spec: BackboneSpec
    transformer: Transformer
    head: list[nn.Module]
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: SimilarityName = "cosine"
    read_out_id: int | None = None

    def copied_rows(self, embed_id: int, init: Init) -> dict[int, int]:
        """The rows that :func:`add_token_rows` copies: with ``read-out``, the embed token's.

        Raises:
            InputError: ``init`` is ``read-out`` and the backbone is not an embedding model.
        """
        if init != "read-out":
            return {}
        if self.read_out_id is None:
            raise InputError("init is 'read-out', but the backbone is not an embedding model; give mean or keep.")
        return {embed_id: self.read_out_id}


def load_backbone(name_or_path: str | Path, module_class: type[Transformer] = Transformer) -> Backbone:
    """Load a Qwen-VL checkpoint.

    Args:
        name_or_path: Folder or hub id, of a transformers checkpoint or of a SentenceTransformer.
        module_class: Class of the first module.

    Raises:
        InputError: If there is no such checkpoint, or it cannot be reached.
        CheckpointError: If it is of another family, has no chat template, does not pool the last token or has to be imported
            first.

    Example:
        >>> from tte_retriever import model_path
        >>> load_backbone(model_path("tte-flash-tiny")).spec.name
        'Qwen3-VL'
    """
    name = str(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name)
        refuse_custom_code(name, getattr(config, "auto_map", None))
        spec = backbone_spec(config.model_type)
        load = _load_stock if is_sentence_transformer_model(name) else _load_raw
        loaded = load(spec, name, module_class)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The backbone {name!r} cannot be loaded ({(str(error).splitlines() or [type(error).__name__])[0]}); give the "
            "folder of a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 checkpoint, or the id of one on the hub."
        ) from error
    if not loaded.transformer.processor.chat_template:
        raise CheckpointError(f"The backbone {name!r} has no chat template; give an Instruct model.")
    remove_special_tokens(qwen_vl_tokenizer(loaded.transformer))
    return loaded


def _load_raw(spec: BackboneSpec, name: str, module_class: type[Transformer]) -> Backbone:
    transformer = module_class(name, unpad_inputs=False)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return Backbone(spec, transformer, [pooling, Normalize()])


def _load_stock(spec: BackboneSpec, name: str, module_class: type[Transformer]) -> Backbone:
    stock = SentenceTransformer(name, device="cpu")
    transformer, *head = cast("list[nn.Module]", list(stock))
    pooling = next((module for module in head if isinstance(module, Pooling)), None)
    if pooling is None or pooling.pooling_mode not in ("lasttoken", ("lasttoken",)):
        raise CheckpointError(
            f"The backbone {name!r} does not pool the last token, which is where the embed token is; give a model that does, "
            "or a checkpoint of transformers."
        )
    transformer = cast("Transformer", transformer)
    read_out_id = int(transformer.preprocess([_ANY_CHAT])["input_ids"][0, -1])
    if module_class is not Transformer:  # the folder is a checkpoint of transformers, too
        transformer = module_class(name, processing_kwargs=transformer.processing_kwargs)
    transformer.unpad_inputs = False
    if not isinstance(head[-1], Normalize):
        head.append(Normalize())
    similarity: SimilarityName = stock.similarity_fn_name or "cosine"
    prompts = {key: prompt for key, prompt in stock.prompts.items() if prompt is not None}
    return Backbone(spec, transformer, head, prompts, stock.default_prompt_name, similarity, read_out_id)
