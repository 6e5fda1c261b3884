"""Conversations as tokens by a chat template: which block of the talk each token belongs to, and which are learned.

Blocks are measured, not guessed: a conversation is rendered up to each of its messages, and what the next message adds
is its block. So the header of a role belongs to the block that it opens, the end-of-text token to its response, BOS and
system prompt to the first instruction. Learned is what the model has to write: the response behind its header, up to
the end token and not the white space after it. A template with `{% generation %}` says itself what is learned.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from longspan.data.conversations import Message, UnusableRowError
from longspan.data.text import read_text
from longspan.errors import DataError

PLAIN = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For tokenizers without a template: `<s>User:⏎...⏎Assistant:⏎...</s>⏎`, with no special token but BOS and EOS."""
PLAIN_NAME = "plain"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Span(NamedTuple):
    """Characters `start` to `end` of a rendered conversation."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text."""

    text: str
    block_ends: tuple[int, ...]
    """Where each block ends, in characters: the first instruction, the first response, the second instruction, ..."""
    learned: tuple[Span, ...]
    """What is learned of each response."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as tokens; three lists of one length."""

    ids: list[int]
    turns: list[int]
    """Block of each token: 0 is the first instruction with what stands before it, 1 the first response, and so on."""
    learned: list[bool]
    """Whether the token counts in the loss."""


def with_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> PreTrainedTokenizerBase:
    """`tokenizer`, changed so that `template` is its own from now on: a checkpoint must talk as it was trained.

    Args:
        template: `plain`, or a file that holds a jinja template; None keeps the tokenizer's, or else `plain`.

    Raises:
        DataError: the file cannot be read, the template is not jinja, or the tokenizer cannot be used with it.
    """
    if template not in (None, PLAIN_NAME):
        tokenizer.chat_template = read_text(Path(str(template)).expanduser())
    elif template == PLAIN_NAME or not tokenizer.chat_template:
        if tokenizer.bos_token is None or tokenizer.eos_token is None:
            raise DataError("the plain chat template needs a tokenizer with BOS and EOS: name a file in data.template")
        tokenizer.chat_template = PLAIN
    if not tokenizer.is_fast:
        raise DataError("this tokenizer does not tell where its tokens lie in the text: use one with a tokenizer.json")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            f"the chat template is not valid jinja ({error.message}): correct it or name another"
        ) from error
    except (jinja2.TemplateError, ValueError):
        pass  # it wants other messages; each conversation is told what it lacks
    return tokenizer


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Rendered:
    """The conversation as the tokenizer's chat template writes it, and the borders of its blocks.

    Raises:
        UnusableRowError: the template refuses the conversation, its text holds one of the tokenizer's special tokens,
            or the template writes a message otherwise once more follow, so that borders have no meaning.
    """
    _refuse_special_tokens(tokenizer, messages)
    first = int(messages[0].role == "system")
    text = _text(tokenizer, messages)
    ends: list[int] = []
    learned: list[Span] = []
    for number in range(first + 1, len(messages) + 1):
        before = text if number == len(messages) else _text(tokenizer, messages[:number])
        if not text.startswith(before) or (ends and len(before) <= ends[-1]):
            raise UnusableRowError(
                f"the chat template writes message {number} otherwise when more follow: choose another data.template"
            )
        if messages[number - 1].role == "assistant":
            prompt = _text(tokenizer, messages[: number - 1], add_generation_prompt=True)
            learned.append(_learned(text, Span(ends[-1], len(before)), prompt, messages[number - 1].content))
        ends.append(len(before))
    if _GENERATION.search(tokenizer.get_chat_template()):
        learned = _marked(tokenizer, messages, ends)
    return Rendered(text, tuple(ends), tuple(learned))


def encode(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered]) -> list[Encoded]:
    """Tokens of rendered conversations. A token across a border belongs where its last character lies."""
    texts = [conversation.text for conversation in rendered]
    found = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return [
        _encoded(ids, [max(start, end - 1) for start, end in offsets], conversation)
        for conversation, ids, offsets in zip(rendered, found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _encoded(ids: list[int], last_characters: list[int], conversation: Rendered) -> Encoded:
    ends = conversation.block_ends
    turns = [min(bisect.bisect_right(ends, last), len(ends) - 1) for last in last_characters]
    # two tokens of one character that merges bytes may swap their offsets; blocks never go back
    turns = list(itertools.accumulate(turns, max))
    learned = [
        bool(turn % 2) and conversation.learned[turn // 2].start <= last < conversation.learned[turn // 2].end
        for turn, last in zip(turns, last_characters, strict=True)
    ]
    return Encoded(ids, turns, learned)


def _learned(text: str, block: Span, prompt: str, content: str) -> Span:
    """What the model writes of a response: all behind its header, which a generation prompt shows."""
    if len(prompt) > block.start and len(prompt) < block.end and text.startswith(prompt):
        start = len(prompt)
    else:  # no generation prompt, or one that says more than a finished response
        start = text.find(content.strip(), block.start, block.end)
        if start < 0:
            raise UnusableRowError("the chat template does not write a response as it stands: choose another")
        if not text[block.start : start].strip():  # there is no header: the white space is the response's own
            start = block.start
    return Span(start, start + len(text[start : block.end].rstrip()))


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], block_ends: Sequence[int]) -> list[Span]:
    """What `{% generation %}` marks in each response: from its first mark to its last."""
    _, (marks,) = render_jinja_template(
        conversations=[_values(messages)],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    found = []
    for start, end in itertools.pairwise(block_ends):
        inside = [(first, last) for first, last in marks if start <= first and last <= end]
        found.append(Span(inside[0][0], inside[-1][1]) if inside else Span(start, start))
    found = found[::2]  # every other block is an instruction
    if not any(end > start for start, end in found):
        raise UnusableRowError("the chat template marks no response with {% generation %}")
    return found


def _values(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(_values(messages), tokenize=False, **options))
    except (jinja2.TemplateError, TypeError) as error:
        raise UnusableRowError(f"the chat template refuses it ({' '.join(str(error).split())})") from error


def _refuse_special_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, start=1):
        for token in tokenizer.all_special_tokens:
            if token in message.content:
                raise UnusableRowError(f"message {number} holds the special token {token} in its text")
