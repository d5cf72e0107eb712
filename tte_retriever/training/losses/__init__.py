"""One file per loss."""

from __future__ import annotations

from .contrastive import distinct_candidates, masked_info_nce
from .explicit_cot import ExplicitCoTLoss
from .lame import LameLoss
from .plume import PlumeLoss
from .rationale import rationale_nll
from .tte import TTELoss
from .visual_words import visual_word_nll

__all__ = [
    "ExplicitCoTLoss",
    "LameLoss",
    "PlumeLoss",
    "TTELoss",
    "distinct_candidates",
    "masked_info_nce",
    "rationale_nll",
    "visual_word_nll",
]
