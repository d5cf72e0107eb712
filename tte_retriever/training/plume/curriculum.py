"""PLUME's curriculum as data: which share of a rationale is latent at which point of training."""

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
    """A phase of training.

    Attributes:
        start: Progress at which it begins, from 0 up to 1.
        segments: Number of segments that are latent, from the beginning of the rationale.
        latents: Number of latent steps that replace them.
        answer: Whether the answer is written.
    """

    start: float
    segments: int
    latents: int
    answer: bool


@dataclass(frozen=True)
class Curriculum:
    """From a written rationale to a latent one (PLUME, arXiv 2604.02073).

    A rationale is split into segments, which become latent one after the other. The ratio of a stage is the latent share.
    All rows of a batch take the same number of latent steps, also those without a rationale.

    Attributes:
        ratios: Latent share of the rationale in each stage, rising to 1.
        segments: Number of segments.
        latents_per_segment: Latent steps that replace a segment. Times ``segments`` it is K, the latent steps of inference.
        final_portion: Share of training that belongs to the last ratio; the others have equal parts of the rest.
        answer_drop: Share of that last stage, at its end, in which the answer is not written either. What remains is the
            suffix of inference.
        reset_moments: Whether Adam's moments are cleared with each ratio, as in the original. In the middle of a schedule
            of learning rates the loss may jump.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> [(phase.start, phase.latents, phase.answer) for phase in Curriculum(ratios=(0, 1), segments=4).phases]
        [(0.0, 0, True), (0.5, 4, True), (0.75, 4, False)]
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
        """K, the number of latent steps when everything is latent."""
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
        """Index of the phase after a share ``progress`` of training, from 0 to 1."""
        return max(index for index, phase in enumerate(self.phases) if phase.start <= progress or index == 0)

    def _phase(self, start: float, ratio: float, *, answer: bool = True) -> Phase:
        latents = max(1, round(self.steps * ratio)) if ratio else 0
        segments = latents // self.latents_per_segment
        return Phase(start, segments, segments * self.latents_per_segment, answer)


def remainder(rationale: str, latent: int, segments: int) -> str:
    """What is still written when the first ``latent`` of ``segments`` segments are latent.

    Segments are runs of sentences, whose lengths differ by at most one. With fewer sentences than segments they are runs of
    words, with fewer words runs of characters. (The original goes from sentences to characters, which splits words.)

    Example:
        >>> remainder("It is red. It is round.", latent=1, segments=2)
        'It is round.'
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
    """What is written after the latent steps, up to the embed token.

    Args:
        rationale: The whole rationale; ``""`` for none.
        answer: Its conclusion; ``""`` for none.
        phase: One of the curriculum.
        curriculum: The curriculum.
    """
    rest = remainder(rationale, phase.segments, curriculum.segments)
    return f"{rest}</think>" + (f"<answer>{answer}</answer>" if answer and phase.answer else "") + "\n"
