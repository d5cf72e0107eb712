"""Think tokens and the embed token: vocabulary entries that the chat template appends.

They are ordinary tokens, so a checkpoint with them is a stock ``Transformer`` → ``Pooling("lasttoken")`` → ``Normalize``.
The number of think tokens is the template variable ``think_budget``, per call or per message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBED_TOKEN = "<|embed|>"  # noqa: S105  (a vocabulary entry, no secret)
"""The token whose last hidden state is the embedding."""

WEMM_TOKEN = "<embedding>"  # noqa: S105
"""The same of an imported WeMM-Embedding, whose chat template ends in it."""

READ_OUT_END = f"{{{{- '{WEMM_TOKEN}' }}}}"
"""The end of that template."""


def think_token(index: int) -> str:
    """The ``index``-th think token, counted from 0."""
    return f"<|think_{index}|>"


@dataclass(frozen=True)
class ThoughtVocabulary:
    """Ids of the think tokens and the embed token in one tokenizer.

    Attributes:
        think_ids: K ids, in the order in which they are appended; empty for ``direct``.
        embed_id: Id of the embed token; ``None`` for a checkpoint without one, which embeds its last token.
    """

    think_ids: tuple[int, ...]
    embed_id: int | None

    @property
    def max_budget(self) -> int:
        """K, the largest think budget."""
        return len(self.think_ids)


def add_thought(tokenizer: PreTrainedTokenizerBase, think_tokens: int) -> ThoughtVocabulary:
    """Add ``think_tokens`` think tokens and the embed token to a tokenizer, in place, unless it has them."""
    tokenizer.add_tokens([*(think_token(i) for i in range(think_tokens)), EMBED_TOKEN], special_tokens=True)
    return thought_vocabulary(tokenizer)


def thought_vocabulary(tokenizer: PreTrainedTokenizerBase, template: str = "") -> ThoughtVocabulary:
    """Find the think tokens and the embed token of a tokenizer, or the token that an imported ``template`` ends in."""
    added = tokenizer.get_added_vocab()
    think_ids: list[int] = []
    while (token := think_token(len(think_ids))) in added:
        think_ids.append(added[token])
    embed_id = added.get(EMBED_TOKEN)
    if embed_id is None and template.endswith(READ_OUT_END):
        embed_id = added.get(WEMM_TOKEN)
    return ThoughtVocabulary(tuple(think_ids), embed_id)


def refuse_thought(tokenizer: PreTrainedTokenizerBase, advice: str) -> None:
    """Refuse a vocabulary that has think tokens or an embed token.

    Raises:
        CheckpointError: It has some.
    """
    present = thought_vocabulary(tokenizer)
    if present.embed_id is not None or present.think_ids:
        raise CheckpointError(f"The backbone already has {present.max_budget} think tokens and an embed token{advice}")


def escape_control_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Insert a space after the first character of every control token in a text, so that it stays text.

    ``sanitize_control_tokens`` of transformers does the same, but a checkpoint saved with it fails in older releases.
    """
    control = _pattern_of(tuple(tokenizer.get_added_vocab()))
    return control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


@lru_cache(maxsize=8)
def _pattern_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")  # the latter matches nothing


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens with which a chat model ends its turn."""
    added = tokenizer.get_added_vocab()
    return [added[token] for token in ("<|im_end|>", "<|endoftext|>") if token in added]


def add_thinking_turn(template: str, think_tokens: int) -> str:
    """Make a chat template end in an assistant turn of think tokens and the embed token.

    The number of think tokens is the ``think_budget`` of the last message, else the template variable ``think_budget``,
    else ``think_tokens``. The generation prompt of the template is switched off: that of a Thinking model opens
    ``<think>``, which nothing would close. In a template that ends in ``<embedding>`` the tokens take its place, and there
    is no assistant turn.
    """
    prompt = template.rstrip("\n")
    if (shorter := remove_read_out(prompt)) != prompt:
        return REFUSE_ASSISTANT_TURN + _NO_GENERATION_PROMPT + shorter + _thought(think_tokens)
    return REFUSE_ASSISTANT_TURN + _NO_GENERATION_PROMPT + prompt + _thinking_turn(think_tokens)


def remove_read_out(template: str) -> str:
    """A chat template without ``<embedding>`` at its end; other templates are unchanged."""
    return template.removesuffix(READ_OUT_END)


def remove_thinking_turn(template: str, think_tokens: int) -> str:
    """Undo :func:`add_thinking_turn`; other templates are unchanged."""
    turn = _thinking_turn(think_tokens)
    if not template.endswith(turn):
        return template
    return template.removeprefix(REFUSE_ASSISTANT_TURN).removeprefix(_NO_GENERATION_PROMPT).removesuffix(turn)


REFUSE_ASSISTANT_TURN = (
    "{%- if messages[-1].role == 'assistant' %}{{- raise_exception('The conversation ends with an assistant turn, but an "
    "embedding is of what the user gives: end with a user turn.') }}{%- endif %}"
)
"""Start of the chat template of every build. The official request for Qwen3-VL-Embedding ends in an empty assistant turn, after
which think tokens and embed token would be a second one."""

_NO_GENERATION_PROMPT = "{%- set add_generation_prompt = false %}"


def _thinking_turn(think_tokens: int) -> str:
    return "{{- '<|im_start|>assistant\\n' }}" + _thought(think_tokens)


def _thought(think_tokens: int) -> str:
    budget = f"messages[-1].think_budget | default(think_budget) | default({think_tokens})"
    return (
        f"{{%- for i in range({budget}) %}}{{{{- '<|think_' ~ i ~ '|>' }}}}{{%- endfor %}}{{{{- '{EMBED_TOKEN}' }}}}"
    )
