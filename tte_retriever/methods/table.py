"""The table of methods: for each one, what builds it, what trains it and what its card says."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

_THINK_TOKENS = "{k} think tokens and one embed token in its vocabulary and chat template"
_LATENT_STEPS = "{k} latent steps through a routed adapter, and PLUME's tokens in its vocabulary and chat template"
_RATIONALE = "a rationale of up to {k} tokens to write, and tokens to embed it by in its vocabulary and chat template"


@dataclass(frozen=True)
class Method:
    """One method. Functions and classes are named as ``"module:name"`` and imported on use by :meth:`resolve`.

    So this module imports nothing of the layers above it, and a training config is read without loading torch.

    Attributes:
        build: Function from a :class:`~tte_retriever.backbones.Backbone` and K to a list of modules.
        think_tokens: K if none is given.
        max_think_tokens: The largest K.
        has_thought: Whether there is anything between prompt and embed token that a rationale can be decoded from.
        needs_custom_code: Whether a checkpoint has modules outside sentence-transformers, so that plain
            ``SentenceTransformer`` loads it only with ``trust_remote_code=True``.
        module_class: Class of the first module, which loads the backbone.
        card: What the method adds to a backbone, for model cards; ``{k}`` is K.
        config: What the YAML of a training run becomes: ``TrainConfig``, or a subclass whose ``stages``, ``loss`` and
            ``collator`` are subclasses of the sections there. Options of ``loss`` and ``collator`` reach the two classes
            below by name, and so does every ``<part>_weight`` of a stage the loss.
        loss: The training loss.
        collator: What turns training rows into a batch.

    Example:
        >>> METHODS["lame"].think_tokens
        8
        >>> METHODS["lame"].resolve("config").__name__
        'LameConfig'
    """

    build: str
    think_tokens: int
    max_think_tokens: int = 64
    has_thought: bool = True
    needs_custom_code: bool = False
    module_class: str = "sentence_transformers.base.modules:Transformer"
    card: str = _THINK_TOKENS
    config: str = "tte_retriever.training.tte_flash.config:TTEConfig"
    loss: str = "tte_retriever.training.tte_flash.loss:TTELoss"
    collator: str = "tte_retriever.training.tte_flash.collator:TTECollator"

    def resolve(self, field: Literal["build", "module_class", "config", "loss", "collator"]) -> Any:
        """Import the function or class that a field names."""
        return resolve_name(getattr(self, field))

    def how_to_load(self, folder: str | Path) -> str:
        """Code that loads a checkpoint of the method, with each class that needs no flag for it."""
        loaders = ["TTEEncoder"] if self.needs_custom_code else ["SentenceTransformer", "TTEEncoder"]
        return " or ".join(f'{loader}("{folder}")' for loader in loaders)

    @property
    def loading(self) -> str:
        """The sentence of a model card that says who loads the folder; what follows it is the range of budgets."""
        if self.needs_custom_code:
            return (
                "`TTEEncoder` of `tte-retriever` loads this folder, or `SentenceTransformer` with\n"
                "`trust_remote_code=True`; both take `think_budget`"
            )
        return (
            "Plain `SentenceTransformer` loads this folder; `TTEEncoder` of `tte-retriever` adds typed\n"
            "inputs and `think_budget`"
        )


METHODS = {
    "direct": Method("tte_retriever.methods.direct:build", think_tokens=0, has_thought=False),
    "tte-flash": Method("tte_retriever.methods.tte_flash:build", think_tokens=8),
    "lame": Method(
        "tte_retriever.methods.lame:build",
        think_tokens=8,
        config="tte_retriever.training.lame.config:LameConfig",
        loss="tte_retriever.training.lame.loss:LameLoss",
        collator="tte_retriever.training.lame.collator:LameCollator",
    ),
    "plume": Method(
        "tte_retriever.methods.plume:build",
        think_tokens=8,
        needs_custom_code=True,
        card=_LATENT_STEPS,
        config="tte_retriever.training.plume.config:PlumeConfig",
        loss="tte_retriever.training.plume.loss:PlumeLoss",
        collator="tte_retriever.training.plume.collator:PlumeCollator",
    ),
    "explicit-cot": Method(
        "tte_retriever.methods.explicit_cot:build",
        think_tokens=512,
        max_think_tokens=8192,
        needs_custom_code=True,
        module_class="tte_retriever.methods.explicit_cot:ExplicitCoT",
        card=_RATIONALE,
        config="tte_retriever.training.explicit_cot.config:ExplicitCoTConfig",
        loss="tte_retriever.training.explicit_cot.loss:ExplicitCoTLoss",
        collator="tte_retriever.training.explicit_cot.collator:ExplicitCoTCollator",
    ),
}
"""By name, which is the same in Python, YAML, on the command line and in reports."""
