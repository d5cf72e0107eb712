"""How a model is loaded and used: one definition for the command line, training and LlamaIndex."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tte_retriever.errors import InputError, check_choice

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder

DTYPES = ("float32", "bfloat16", "float16")


def _option(help: str) -> Any:
    return field(default=None, metadata={"help": help})


@dataclass(frozen=True)
class ModelOptions:
    """A model, how it is loaded, and how it encodes. ``None`` is the model's own choice, or that of a collection.

    Attributes:
        model: Bundled name, folder or hub id.
        revision: Branch, tag or commit of a model on the hub.
        device: Torch device.
        dtype: Data type of the weights.
        attention: Attention implementation of transformers.
        max_pixels: The most pixels of an image or page that the model sees.
        think_budget: Think tokens or latent steps per item.
        batch_tokens: The most tokens in a batch.

    Raises:
        InputError: An option is out of range.

    Example:
        >>> ModelOptions("tte-flash-tiny", device="cpu", think_budget=2).load().encode("a red circle").shape
        (128,)
    """

    model: str | None = _option("Bundled name, folder or hub id.")
    revision: str | None = _option("Branch, tag or commit of a model on the hub.")
    device: str | None = _option("Torch device, such as cuda:0 or cpu. Default: a GPU if there is one.")
    dtype: str | None = _option(f"Data type of the weights: {', '.join(DTYPES)}. Default: that of the checkpoint.")
    attention: str | None = _option("Attention of transformers, such as sdpa or flash_attention_2.")
    max_pixels: int | None = _option(
        "The most pixels of an image or page that the model sees. Default: the model's own."
    )
    think_budget: int | None = _option("Think tokens or latent steps per item, from 0 to K. Default: K.")
    batch_tokens: int | None = _option("The most tokens in a batch, media and padding included. Default: 8192.")

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_choice("dtype", self.dtype, DTYPES)
        for name, least in (("max_pixels", 1), ("think_budget", 0), ("batch_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; give {least} or more.")

    @classmethod
    def help_of(cls, name: str) -> str:
        """One sentence about an option."""
        return str(next(each for each in fields(cls) if each.name == name).metadata["help"])

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of ``SentenceTransformer`` that load the model as chosen."""
        weights = {"dtype": self.dtype, "attn_implementation": self.attention}
        chosen = {
            "revision": self.revision,
            "device": self.device,
            "model_kwargs": {key: value for key, value in weights.items() if value is not None},
        }
        return {key: value for key, value in chosen.items() if value}

    @property
    def encoding(self) -> dict[str, Any]:
        """The arguments of ``TTEEncoder`` that choose how it encodes."""
        chosen = {name: getattr(self, name) for name in ("max_pixels", "think_budget", "batch_tokens")}
        return {key: value for key, value in chosen.items() if value is not None}

    def load(self) -> TTEEncoder:
        """Load the model.

        Raises:
            InputError: There is no such model, or an option does not fit it.
            CheckpointError: It is not an embedding model that ``TTEEncoder`` takes.
        """
        from tte_retriever.encoder import TTEEncoder

        if not self.model:
            raise InputError("No model is named; give a bundled name, a folder or a hub id.")
        return TTEEncoder(self.model, **self.loading, **self.encoding)
