"""What each method brings to training: its config, its loss, its collator."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from tte_retriever.errors import InputError
from tte_retriever.training.config import ModelConfig, TrainConfig, config_from, read_values
from tte_retriever.training.explicit_cot.config import ExplicitCoTConfig
from tte_retriever.training.lame.config import LameConfig
from tte_retriever.training.plume.config import PlumeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tte_retriever.training.collator import TTECollator
    from tte_retriever.training.tte_flash.loss import TTELoss


@dataclass(frozen=True)
class TrainingMethod:
    """How one method is trained.

    Attributes:
        config: What its YAML becomes: ``TrainConfig``, or a subclass whose ``stages``, ``loss`` and ``collator`` are
            subclasses of the sections there. Flags of ``loss`` and ``collator`` reach the classes below by name, and so
            does every ``<part>_weight`` of a stage the loss.
        loss: Its :class:`~tte_retriever.training.tte_flash.loss.TTELoss`, as ``module:class``: reading a config loads no torch.
        collator: Its :class:`~tte_retriever.training.collator.TTECollator`, likewise.
    """

    config: type[TrainConfig] = TrainConfig
    loss: str = "tte_retriever.training.tte_flash.loss:TTELoss"
    collator: str = "tte_retriever.training.collator:TTECollator"

    def load_loss(self) -> type[TTELoss]:
        """The loss class."""
        return resolve_name(self.loss)

    def load_collator(self) -> type[TTECollator]:
        """The collator class."""
        return resolve_name(self.collator)


METHODS = {
    "direct": TrainingMethod(),
    "tte-flash": TrainingMethod(),
    "lame": TrainingMethod(
        LameConfig,
        "tte_retriever.training.lame.loss:LameLoss",
        "tte_retriever.training.lame.collator:LameCollator",
    ),
    "plume": TrainingMethod(
        PlumeConfig,
        "tte_retriever.training.plume.loss:PlumeLoss",
        "tte_retriever.training.plume.collator:PlumeCollator",
    ),
    "explicit-cot": TrainingMethod(
        ExplicitCoTConfig,
        "tte_retriever.training.explicit_cot.loss:ExplicitCoTLoss",
        "tte_retriever.training.explicit_cot.collator:ExplicitCoTCollator",
    ),
}
"""Name of the method, as in ``model.method`` → how it is trained."""


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config of whatever method it names; nothing is loaded.

    Args:
        path: A YAML file.
        overrides: As for :func:`tte_retriever.training.config.read_config_as`.

    Raises:
        InputError: As there, and a method that is not in :data:`METHODS`.
    """
    values = read_values(path, overrides)
    return config_from(METHODS[_method(values)].config, values)


def _method(values: Any) -> str:
    """The method that is named; whatever else is wrong with the values is said when they are converted."""
    model = values.get("model") if isinstance(values, dict) else None
    name = model.get("method", ModelConfig.method) if isinstance(model, dict) else ModelConfig.method
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"model.method is {name!r}; it can be {' or '.join(METHODS)}.")
    return name
