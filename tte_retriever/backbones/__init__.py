"""What differs between the backbone families, as data, and how one is loaded and given more vocabulary."""

from __future__ import annotations

from tte_retriever.backbones.loading import Backbone, load_backbone
from tte_retriever.backbones.rows import INITS, Init, add_token_rows
from tte_retriever.backbones.specs import BACKBONES, BackboneSpec, backbone_spec

__all__ = [
    "BACKBONES",
    "INITS",
    "Backbone",
    "BackboneSpec",
    "Init",
    "add_token_rows",
    "backbone_spec",
    "load_backbone",
]
