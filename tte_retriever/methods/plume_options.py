"""What a PLUME is beside its weights, as its checkpoint says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tte_retriever.errors import InputError

Context = Literal["disc", "prefix_last", "none"]
Positions = Literal["kv", "mrope", "kv-then-mrope"]
Readout = Literal["gen", "disc", "after_disc"]


@dataclass(frozen=True)
class PlumeOptions:
    """What a PLUME checkpoint is, beside its weights; saved with it.

    The defaults are those of the public checkpoint, whose authors keep them on their command line.

    Attributes:
        steps: K, the most latent steps; ``think_budget`` takes fewer.
        context: What the router looks at beside state and step: the state at ``<disc_emb>`` (``disc``), that at the end of
            the prefix (``prefix_last``), or ``none``.
        positions: Where latent steps and suffix stand: behind as many tokens as were read (``kv``), which no text of the
            backbone's training does once there is a picture, or where a text would go on (``mrope``). ``kv-then-mrope`` is
            the first for the steps and the second for the suffix, as the public checkpoint was trained, but not evaluated.
        experts: Number of routed experts; 0 is no adapter: every state is the next input as it is.
        active_experts: How many of them are chosen at each step; 0 without an adapter.
        shared_expert: Whether there is one that is always on; not without an adapter.
        step_table: For how many steps the adapter has a row.
        prefix: How the thought is opened; part of the chat template.
        suffix: What is read after the latent steps.
        readout: The vector: the state at the suffix's ``<gen_emb>`` (``gen``), the state at ``<disc_emb>``, for which
            nothing is thought (``disc``), or that of the token after it (``after_disc``), which the authors' evaluation
            takes for it.
        text_only_visual: What a text alone is shown: a white picture (``blank``) or nothing (``none``).
        several_images: Of several images in an item, ``all`` or the ``first``.
        resize_stages: Fewest and most pixels of each resize of images and frames before the processor's own.
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
        words = {"context": Context, "positions": Positions, "readout": Readout}
        for name, allowed in words.items():
            if (value := getattr(self, name)) not in get_args(allowed):
                raise InputError(f"{name} is {value!r}; it can be {' or '.join(get_args(allowed))}.")
        for name, words_of in {"text_only_visual": ("blank", "none"), "several_images": ("all", "first")}.items():
            if (value := getattr(self, name)) not in words_of:
                raise InputError(f"{name} is {value!r}; it can be {' or '.join(words_of)}.")
        if not self.suffix:
            raise InputError("suffix is empty, but the vector is the state at its <gen_emb>; give at least that.")
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
