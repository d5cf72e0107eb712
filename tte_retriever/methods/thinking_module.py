"""What a first module with custom code offers to the encoder and to training."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class ThinkingModule(Protocol):
    """A first module that needs custom code to think, such as ``ExplicitCoT`` and ``PlumeTransformer``.

    It finds the think budget of each row in the features, as ``think_budget`` (B,) int64. A stock ``Transformer`` thinks
    with its vocabulary and chat template, so it is not a ThinkingModule: its budget is a variable of the chat template.

    """

    @property
    def max_budget(self) -> int:
        """The largest ``think_budget``: latent steps, or tokens of a rationale."""

    @property
    def added_token_ids(self) -> list[int]:
        """Ids of the tokens that the method adds to the vocabulary of the backbone."""
