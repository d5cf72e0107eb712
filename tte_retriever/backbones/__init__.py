"""What differs between the backbone families, as data; how one is loaded and given new tokens."""

from __future__ import annotations

from tte_retriever.backbones.loading import Backbone, load_backbone
from tte_retriever.backbones.qwen_vl import QwenVLModel, qwen_vl_model, qwen_vl_tokenizer, token_id
from tte_retriever.backbones.rows import Init, add_token_rows
from tte_retriever.backbones.specs import BACKBONES, BackboneSpec, backbone_spec

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "Init",
    "QwenVLModel",
    "add_token_rows",
    "backbone_spec",
    "load_backbone",
    "qwen_vl_model",
    "qwen_vl_tokenizer",
    "token_id",
]
