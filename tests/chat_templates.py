"""Chat templates as public models have them, each with one conversation written out by hand.

A part of the expected text is (block, learned, text): cut into tokens by itself, it says where its tokens belong.
"""

from __future__ import annotations

from dataclasses import dataclass

from longspan.data.conversations import Message
from longspan.data.templates import PLAIN

SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
]
SYSTEM, ASK, ANSWER, MORE, REST = "stone lamp", "river 42", "copper bird,", "window 7", "paper; cloud."
EXCHANGES = (Message("user", ASK), Message("assistant", ANSWER), Message("user", MORE), Message("assistant", REST))
WITH_SYSTEM = (Message("system", SYSTEM), *EXCHANGES)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_MARKED = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else -%}{{ message['content'] + '<|im_end|>' }}{%- endif -%}{{ '\\n' }}{%- endfor -%}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

Part = tuple[int, bool, str]


@dataclass(frozen=True)
class Case:
    """A template, a conversation, and its text in parts."""

    template: str
    messages: tuple[Message, ...]
    parts: tuple[Part, ...]


def _chatml(head: str) -> tuple[Part, ...]:
    return (
        (0, False, f"{head}<|im_start|>user\n{ASK}<|im_end|>\n"),
        (1, False, "<|im_start|>assistant\n"),
        (1, True, f"{ANSWER}<|im_end|>"),
        (1, False, "\n"),
        (2, False, f"<|im_start|>user\n{MORE}<|im_end|>\n"),
        (3, False, "<|im_start|>assistant\n"),
        (3, True, f"{REST}<|im_end|>"),
        (3, False, "\n"),
    )


def _llama_3_header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


CASES = {
    "chatml": Case(CHATML, WITH_SYSTEM, _chatml(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")),
    "chatml with generation": Case(CHATML_MARKED, EXCHANGES, _chatml("")),
    "llama 2": Case(
        LLAMA_2,
        WITH_SYSTEM,
        (
            (0, False, f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{ASK} [/INST]"),
            (1, True, f" {ANSWER} </s>"),
            (2, False, f"<s>[INST] {MORE} [/INST]"),
            (3, True, f" {REST} </s>"),
        ),
    ),
    "llama 3": Case(
        LLAMA_3,
        WITH_SYSTEM,
        (
            (0, False, f"<s>{_llama_3_header('system')}{SYSTEM}<|eot_id|>{_llama_3_header('user')}{ASK}<|eot_id|>"),
            (1, False, _llama_3_header("assistant")),
            (1, True, f"{ANSWER}<|eot_id|>"),
            (2, False, f"{_llama_3_header('user')}{MORE}<|eot_id|>"),
            (3, False, _llama_3_header("assistant")),
            (3, True, f"{REST}<|eot_id|>"),
        ),
    ),
    "mistral": Case(
        MISTRAL,
        EXCHANGES,
        (
            (0, False, f"<s>[INST] {ASK} [/INST]"),
            (1, True, f" {ANSWER}</s>"),
            (2, False, f"[INST] {MORE} [/INST]"),
            (3, True, f" {REST}</s>"),
        ),
    ),
    "plain": Case(
        PLAIN,
        WITH_SYSTEM,
        (
            (0, False, f"<s>System:\n{SYSTEM}\nUser:\n{ASK}\n"),
            (1, False, "Assistant:\n"),
            (1, True, f"{ANSWER}</s>"),
            (1, False, "\n"),
            (2, False, f"User:\n{MORE}\n"),
            (3, False, "Assistant:\n"),
            (3, True, f"{REST}</s>"),
            (3, False, "\n"),
        ),
    ),
}
