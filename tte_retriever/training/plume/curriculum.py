"""PLUME's curriculum as data: how much of a rationale is written and how much of it is latent, by training progress."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from tte_retriever.errors import InputError

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)\s*|[。！？]+\s*|\n+\s*")
_WORD_END = re.compile(r"\s+")
_CHARACTER = re.compile(r".", re.DOTALL)


@dataclass(frozen=True)
class Phase:
    """What holds from one moment of training to the next.

    Attributes:
        start: Progress at which it begins, from 0 up to 1.
        segments: Segments of the rationale that are latent, from its beginning.
        latents: L, latent steps that stand for them.
        answer: Whether the answer is written.
    """

    start: float
    segments: int
    latents: int
    answer: bool


@dataclass(frozen=True)
class Curriculum:
    """From a written rationale to a latent one.

    A rationale is split into S segments, which become latent one after the other, c latent steps each. The ratio of a
    stage says how much of it is latent. Every row of a batch takes as many latent steps, one without a rationale too.

    Attributes:
        ratios: Latent share of the rationale in each stage, rising to 1.
        segments: S.
        latents_per_segment: c; S c is K, the steps of inference.
        final_portion: Share of training that belongs to the last ratio; the others have equal parts of the rest.
        answer_drop: Share of that last stage, at its end, in which the answer is not written either: what remains is the
            suffix of inference.
        reset_moments: Whether Adam's moments begin anew with each ratio, as in the original; in the middle of a schedule
            of learning rates that invites a jump of the loss.

    Raises:
        InputError: Values out of range.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    segments: int = 8
    latents_per_segment: int = 1
    final_portion: float = 0.5
    answer_drop: float = 0.5
    reset_moments: bool = False

    def __post_init__(self) -> None:
        ratios = self.ratios
        if not ratios or ratios[-1] != 1 or min(ratios) < 0 or list(ratios) != sorted(set(ratios)):
            raise InputError(f"curriculum.ratios are {list(ratios)}; give rising shares from 0 on that end in 1.")
        if min(self.segments, self.latents_per_segment) < 1:
            raise InputError(
                f"The curriculum has {self.segments} segments of {self.latents_per_segment} latents; give 1 or more of both."
            )
        if not (0 < self.final_portion <= 1 and 0 <= self.answer_drop <= 1):
            raise InputError(
                f"curriculum.final_portion is {self.final_portion} and answer_drop {self.answer_drop}; give shares of 1, "
                "the first above 0."
            )

    @property
    def steps(self) -> int:
        """K, the latent steps when everything is latent."""
        return self.segments * self.latents_per_segment

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """All phases, in order; the first starts at 0."""
        *earlier, _ = self.ratios
        length = (1 - self.final_portion) / max(1, len(earlier))
        phases = [self._phase(index * length, ratio) for index, ratio in enumerate(earlier)]
        final = 1 - self.final_portion if earlier else 0.0
        phases.append(self._phase(final, 1.0))
        if self.answer_drop:
            phases.append(self._phase(1 - (1 - final) * self.answer_drop, 1.0, answer=False))
        return tuple(phases)

    def phase_at(self, progress: float) -> int:
        """Index of the phase that holds when a share ``progress`` of training, from 0 to 1, is behind."""
        return max(index for index, phase in enumerate(self.phases) if phase.start <= progress or index == 0)

    def _phase(self, start: float, ratio: float, *, answer: bool = True) -> Phase:
        latents = max(1, round(self.steps * ratio)) if ratio else 0
        segments = latents // self.latents_per_segment
        return Phase(start, segments, segments * self.latents_per_segment, answer)


def remainder(rationale: str, latent: int, segments: int) -> str:
    """What is left to be written when the first ``latent`` of ``segments`` segments are not.

    Segments are runs of sentences, as many in each as in the next or one more; where there are fewer sentences than
    segments, runs of words, and where there are fewer words, of characters. (The original goes from sentences to
    characters, which cuts words in two.)
    """
    if latent == segments:
        return ""
    for end_of_piece in (_SENTENCE_END, _WORD_END, _CHARACTER):
        ends = [match.end() for match in end_of_piece.finditer(rationale)]
        starts = [0, *(end for end in ends if end < len(rationale))]
        if len(starts) >= segments:
            break
    size, longer = divmod(len(starts), segments)
    first = latent * size + min(latent, longer)
    return rationale[starts[first] :].lstrip() if first < len(starts) else ""


def written(rationale: str, answer: str, phase: Phase, curriculum: Curriculum) -> str:
    """The assistant's words after the latent steps, up to where it embeds.

    Args:
        rationale: The thought; ``""`` for none.
        answer: What it comes to; ``""`` for none.
        phase: One of the curriculum.
        curriculum: Whose segments it is split into.
    """
    rest = remainder(rationale, phase.segments, curriculum.segments)
    return f"{rest}</think>" + (f"<answer>{answer}</answer>" if answer and phase.answer else "") + "\n"
