"""The options of a PLUME checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tte_retriever.errors import InputError, check_choice

Context = Literal["disc", "prefix_last", "none"]
Positions = Literal["kv", "mrope", "kv-then-mrope"]
Readout = Literal["gen", "disc", "after_disc"]


@dataclass(frozen=True)
class PlumeOptions:
    """The options of a PLUME checkpoint, which are saved with it.

    The defaults are those of the public checkpoint, whose authors keep them on their command line.

    Attributes:
        steps: K, the largest ``think_budget``.
        context: Second input of the router: the state at ``<disc_emb>`` (``disc``), the state at the end of the prefix
            (``prefix_last``), or ``none``.
        positions: Positions of latent steps and suffix: they continue the number of tokens (``kv``) or the positions of text
            (``mrope``), which differ after an image. ``kv-then-mrope`` is ``kv`` for the steps and ``mrope`` for the suffix:
            the public checkpoint was trained so, and evaluated with ``kv``.
        experts: Number of routed experts; 0 is no adapter: every state is the next input.
        active_experts: Number of experts that are chosen at each step; 0 without an adapter.
        shared_expert: Whether one more expert is always on; ``False`` without an adapter.
        step_table: Number of steps with an embedding of their own.
        prefix: Start of the assistant turn in the chat template.
        suffix: Text that is read after the latent steps.
        readout: Which state is the embedding: at the ``<gen_emb>`` of the suffix (``gen``), at ``<disc_emb>`` (``disc``), or
            one token later (``after_disc``), as in the authors' evaluation. The last two take no latent steps.
        text_only_visual: What is added to an item of text alone: a white picture (``blank``) or nothing (``none``).
        several_images: Which images of an item are used: ``all`` or the ``first``.
        resize_stages: Smallest and largest number of pixels of each resize of images and frames before the processor's own.
    """

    steps: int = 8
    context: Context = "disc"
    positions: Positions = "kv"
    experts: int = 4
    active_experts: int = 2
    shared_expert: bool = True
    step_table: int = 32
    prefix: str = "<think><bot>"
    suffix: str = "<eot></think>\n<gen_emb>"
    readout: Readout = "gen"
    text_only_visual: Literal["blank", "none"] = "blank"
    several_images: Literal["all", "first"] = "first"
    resize_stages: tuple[tuple[int, int], ...] = ((3136, 12845056), (784, 2359296))

    def __post_init__(self) -> None:
        check_choice("context", self.context, get_args(Context))
        check_choice("positions", self.positions, get_args(Positions))
        check_choice("readout", self.readout, get_args(Readout))
        check_choice("text_only_visual", self.text_only_visual, ("blank", "none"))
        check_choice("several_images", self.several_images, ("all", "first"))
        if not self.suffix:
            raise InputError("suffix is empty, but the embedding is the state at its <gen_emb>; give at least that.")
        _check_count("steps", self.steps, 0, self.step_table, "the rows of the adapter's step table")
        if self.experts:
            _check_count("active_experts", self.active_experts, 1, self.experts, "the number of experts")
        elif self.active_experts or self.shared_expert:
            raise InputError(
                f"experts is 0, which is no adapter, but active_experts is {self.active_experts} and shared_expert "
                f"{self.shared_expert}; give 0 and False, or a number of experts."
            )
        object.__setattr__(self, "resize_stages", tuple((fewest, most) for fewest, most in self.resize_stages))


def _check_count(name: str, value: object, least: int, most: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}; give an int from {least} to {most}, {what}.")
