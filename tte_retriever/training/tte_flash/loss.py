"""The loss of TTE-Flash: a contrastive part on the embeddings, a generation part on the think tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from tte_retriever.backbones import backbone_spec, qwen_vl_model
from tte_retriever.errors import InputError, check_choice
from tte_retriever.tokens import thought_vocabulary
from tte_retriever.training.cached_contrastive import CachedContrastiveLoss
from tte_retriever.training.tte_flash.thought_pass import Decoder, RationaleFrom, ThoughtPass

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TTELoss(CachedContrastiveLoss):
    """InfoNCE over a batch of any size, and the NLL of rationales that are decoded from the think tokens.

    After TTE-Flash (arXiv 2605.16638), of which only the abstract is public; what is our reading has a flag. Inputs are
    those of :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`. Each rationale ends in the
    end-of-turn token. The NLL is the mean over a rationale's tokens, then over all rows of all columns that have a
    rationale and, unless it is decoded from the query as well, at least one think token.

    Do not wrap this in ``MatryoshkaLoss``, which would destroy the generation part; use ``matryoshka_dims``.

    Args:
        model: A checkpoint with an embed token, and with think tokens where the options need them.
        rationale_weight: Of the generation part. 0 leaves it out, and rationales are not read. May be set between steps.
        rationale_from: What a rationale is decoded from: the think tokens alone, or everything in front of the embed
            token, which works without think tokens, too.
        decoder: ``soft-prompt`` puts their last hidden states in front of the rationale; ``kv`` lets it attend to their
            keys and values in every layer, which neither gradient checkpointing nor the recurrent layers of Qwen3.5 keep.
        stop_gradient: Whether the contrastive part reads the think states as constants: in every layer its gradient
            stops at the hidden states of the think tokens. It reaches neither them nor their embedding rows, only the
            weights that read them. Costs a second forward pass.
        **options: Those of :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`.

    Raises:
        InputError: An option is out of range, or the model lacks the think tokens that the options need.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.training.tte_flash.collator import TTECollator
        >>> encoder = TTEEncoder("tte-flash-tiny")
        >>> rows = [
        ...     {"anchor": "a red circle", "positive": "circle", "anchor_rationale": "it is round"},
        ...     {"anchor": "a blue square", "positive": "square", "anchor_rationale": "it has corners"},
        ... ]
        >>> batch = TTECollator(encoder)(rows)
        >>> anchor, positive = (
        ...     {name.removeprefix(f"{column}_"): value for name, value in batch.items() if name.startswith(column)}
        ...     for column in ("anchor", "positive")
        ... )
        >>> sorted(TTELoss(encoder)([anchor, positive]))
        ['contrastive', 'rationale']
    """

    OPTIONS = (*CachedContrastiveLoss.OPTIONS, "rationale_from", "decoder", "stop_gradient")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        rationale_weight: float = 1.0,
        rationale_from: RationaleFrom = "thought",
        decoder: Decoder = "soft-prompt",
        stop_gradient: bool = False,
        **options: Any,
    ) -> None:
        check_choice("rationale_from", rationale_from, get_args(RationaleFrom))
        check_choice("decoder", decoder, get_args(Decoder))
        super().__init__(model, rationale_weight=rationale_weight, **options)
        self.thought = thought_vocabulary(model.tokenizer)
        spec = backbone_spec(qwen_vl_model(model[0]).config.model_type)
        if decoder == "kv" and spec.is_recurrent:
            raise InputError(
                f"decoder is 'kv', but the recurrent layers of {spec.name} keep no keys and values of single tokens; use "
                "decoder='soft-prompt', which decodes from last hidden states."
            )
        decodes_thought = rationale_weight > 0 and rationale_from == "thought"
        if (decodes_thought or stop_gradient) and not self.thought.think_ids:
            raise InputError(
                "This model has no think tokens to decode a rationale from; set rationale_weight=0 and leave out "
                "stop_gradient, set rationale_from='query+thought', or build a checkpoint with think tokens."
            )
        self.rationale_from, self.decoder, self.stop_gradient = rationale_from, decoder, stop_gradient

    @property
    def rationale_pass(self) -> ThoughtPass:
        """Rationales are decoded from the think tokens."""
        stop = self.stop_gradient and self.contrastive_weight > 0
        return ThoughtPass(self.thought, self.rationale_from, self.decoder, stop)

    @property
    def reads_rationales(self) -> bool:
        """Without a weight, nothing is decoded: the think tokens do not depend on the rationale."""
        return self.rationale_weight > 0
