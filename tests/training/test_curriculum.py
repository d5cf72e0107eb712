"""PLUME's curriculum: what is latent when, and what is left to be written."""

from __future__ import annotations

import pytest

from tte_retriever.errors import InputError
from tte_retriever.training.plume.curriculum import Curriculum, Phase, remainder, written

ORIGINAL = Curriculum(ratios=(0, 0.25, 0.5, 0.75, 1), segments=4, latents_per_segment=2)
CAT = "The image shows a cat. It sits on a mat. The mat is red. The scene is calm. So the answer is a cat. Done."
MAN = "A man plays guitar. He is on a stage."
COUNT = "One. Two! Three? Four. Five. Six. Seven."


@pytest.mark.parametrize(
    ("progress", "segments", "latents", "answer"),
    [
        *[(0, 0, 0, True), (0.124, 0, 0, True), (0.125, 1, 2, True), (0.25, 2, 4, True), (0.4, 3, 6, True)],
        *[(0.5, 4, 8, True), (0.749, 4, 8, True), (0.75, 4, 8, False), (0.8, 4, 8, False), (1, 4, 8, False)],
    ],
)
def test_the_final_ratio_has_half_of_training_and_drops_the_answer_in_half_of_that(
    progress, segments, latents, answer
):
    phase = ORIGINAL.phases[ORIGINAL.phase_at(progress)]
    assert (phase.segments, phase.latents, phase.answer) == (segments, latents, answer)


@pytest.mark.parametrize(
    ("curriculum", "latents"),
    [
        (Curriculum(), [2, 4, 6, 8, 8]),
        (Curriculum(segments=6), [2, 3, 4, 6, 6]),  # 1.5 and 4.5 round to even
        (Curriculum(ratios=(0.01, 1)), [1, 8, 8]),  # a ratio above 0 is one step at least
        (Curriculum(ratios=(0.3, 1), segments=3, latents_per_segment=3), [3, 9, 9]),
        (Curriculum(ratios=(0.1, 1), segments=3, latents_per_segment=3), [0, 9, 9]),  # not enough for a segment
        (Curriculum(ratios=(1,), answer_drop=0), [8]),
    ],
)
def test_steps_of_every_phase(curriculum, latents):
    assert [phase.latents for phase in curriculum.phases] == latents
    assert curriculum.phases[0].start == 0
    assert curriculum.phases[-1].latents == curriculum.steps


@pytest.mark.parametrize(
    ("thought", "expected"),
    [
        (
            CAT,
            [
                CAT,
                "The mat is red. The scene is calm. So the answer is a cat. Done.",
                "So the answer is a cat. Done.",
                "Done.",
            ],
        ),
        (MAN, [MAN, "guitar. He is on a stage.", "is on a stage.", "a stage."]),
        (COUNT, [COUNT, "Three? Four. Five. Six. Seven.", "Five. Six. Seven.", "Seven."]),
        ("Short", ["Short", "ort", "rt", "t"]),
        ("left red small circle so red", [*["left red small circle so red", "small circle so red"], "so red", "red"]),
        ("", [""] * 4),
        ("ab", ["ab", "b", "", ""]),
        ("3.5 m tall\nold\n\nred。blue", ["3.5 m tall\nold\n\nred。blue", "old\n\nred。blue", "red。blue", "blue"]),
    ],
)
def test_segments_are_runs_of_sentences_or_words_or_characters(thought, expected):
    assert [remainder(thought, latent, 4) for latent in range(5)] == [*expected, ""]


def test_what_is_written_ends_as_inference_does():
    texts = [written(CAT, "a cat", phase, ORIGINAL) for phase in ORIGINAL.phases]
    assert texts[0] == f"{CAT}</think><answer>a cat</answer>\n"
    assert texts[3] == "Done.</think><answer>a cat</answer>\n"
    assert texts[4:] == ["</think><answer>a cat</answer>\n", "</think>\n"]
    assert written(CAT, "", Phase(0, 4, 8, answer=True), ORIGINAL) == "</think>\n"


@pytest.mark.parametrize(
    "values",
    [
        *[{"ratios": ()}, {"ratios": (0.5,)}, {"ratios": (0.5, 0.25, 1)}, {"ratios": (-1, 1)}, {"ratios": (1, 1)}],
        *[{"segments": 0}, {"latents_per_segment": 0}, {"final_portion": 0}, {"answer_drop": 2}],
    ],
)
def test_impossible_values_are_refused(values):
    with pytest.raises(InputError):
        Curriculum(**values)
