"""The thought in vocabulary and chat template."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tte_retriever import model_path
from tte_retriever.tokens import EMBED_TOKEN, add_thinking_turn, add_thought, think_token, thought_vocabulary

BASE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.fixture
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("tte-flash-tiny"))


def render(think_tokens, message=None, **variables):
    template = ImmutableSandboxedEnvironment().from_string(add_thinking_turn(BASE, think_tokens))
    return template.render(messages=[{"role": "user", "content": "hello", **(message or {})}], **variables)


def thought(budget):
    return "<|im_start|>assistant\n" + "".join(map(think_token, range(budget))) + EMBED_TOKEN


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_every_render_ends_in_the_whole_thought(add_generation_prompt):
    assert render(3, add_generation_prompt=add_generation_prompt).endswith(thought(3))
    assert render(3, add_generation_prompt=add_generation_prompt).count("assistant") == 1


def test_the_chats_own_budget_wins_over_the_call_over_the_default():
    assert render(3).endswith(thought(3))
    assert render(3, think_budget=1).endswith(thought(1))
    assert render(3, {"think_budget": 2}, think_budget=1).endswith(thought(2))
    assert render(3, think_budget=0).endswith(thought(0))


def test_adding_the_thought_twice_changes_nothing(tokenizer):
    first = thought_vocabulary(tokenizer)
    size = len(tokenizer)
    assert add_thought(tokenizer, first.max_budget) == first
    assert len(tokenizer) == size
    assert first.max_budget == 8


def test_a_tokenizer_of_others_has_no_thought():
    from transformers import Qwen2Tokenizer

    thought = thought_vocabulary(Qwen2Tokenizer())
    assert (thought.max_budget, thought.embed_id) == (0, None)


def test_every_word_of_the_small_world_is_one_token(tokenizer):
    from tte_retriever.small_world import vocabulary as v

    words = (
        *v.COLORS,
        *v.SHAPES,
        *v.SIZES,
        *v.PLACES,
        *v.NUMBERS,
        *v.KEYS,
        *v.VALUES,
        *v.TITLE_FIRST,
        *v.TITLE_SECOND,
    )
    assert all(len(tokenizer(f" {word}").input_ids) == 1 for word in words)
    assert tokenizer.decode(tokenizer("any other text works, too: naïve 東京").input_ids) == (
        "any other text works, too: naïve 東京"
    )
