"""What stands around a prompt's text: BOS for a base model, the chat template's turns for one that talks."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
from transformers import PreTrainedTokenizerBase

from longspan.data.tokenizer import encode
from longspan.errors import DataError

_MARK = "\u2402MARK\u2403"
"""Stands for the user's words while the template is rendered; no template touches it."""


@dataclass(frozen=True, slots=True)
class Talk:
    """How a prompt begins, and what stands between its question and the words that lead to the answer."""

    opening: str
    """Text before the prompt's own; it gives the first token of the prompt its context."""
    opening_ids: tuple[int, ...]
    """Tokens of it, BOS included."""
    between: str
    """A blank; or the end of the user's turn and the head of the model's."""


def plain_talk(tokenizer: PreTrainedTokenizerBase) -> Talk:
    """BOS, if the tokenizer has one, and nothing else."""
    return Talk("", () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,), " ")


def chat_talk(tokenizer: PreTrainedTokenizerBase) -> Talk:
    """One turn of a user, and the head of the model's answer, as the tokenizer's chat template writes them.

    Raises:
        DataError: the tokenizer has no chat template, or one that does not repeat what a user says.
    """
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template: leave --chat out, or name a chat model")
    messages = [{"role": "user", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template refuses one user's turn ({error}): leave --chat out") from error
    opening, mark, between = text.partition(_MARK)
    if not mark:
        raise DataError("the chat template does not write what a user says: leave --chat out")
    return Talk(opening, tuple(encode(tokenizer, opening)), between)
