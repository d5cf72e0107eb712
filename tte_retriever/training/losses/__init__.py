"""One file per loss."""

from __future__ import annotations

from .contrastive import masked_info_nce
from .rationale import rationale_nll
from .visual_words import visual_word_nll

__all__ = ["masked_info_nce", "rationale_nll", "visual_word_nll"]
