"""Tokenizers as a GGUF file holds them, where llama.cpp cuts text as they do.

Source    github.com/ggml-org/llama.cpp, src/llama-vocab.cpp: the pre-tokenizers by name, `llm_tokenizer_bpe`,
          `llm_tokenizer_spm`
Differs   llama.cpp does not normalize (Qwen's NFC), puts a blank also before a text that begins with one (Llama 2's
          tokenizer of transformers v5 does not), and reads special tokens in a text only when it is asked to
Checked   llama.cpp itself, on texts with digits, contractions, blanks, line ends and several scripts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from longspan.errors import DataError

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool, first: Mapping[str, Any]) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}
    return {"type": "Sequence", "pretokenizers": [first, last]}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_PRE_TOKENIZERS = {
    "smollm": _byte_level(True, {"type": "Digits", "individual_digits": True}),  # which is longspan's own
    "llama-bpe": _byte_level(False, _split(_WORDS % "{1,3}")),
    "qwen2": _byte_level(False, _split(_WORDS % "")),
}
"""llama.cpp's name of each pre-tokenizer that was compared with it."""
_WHOLE_WORDS = ("llama-bpe",)
"""Those under which llama.cpp takes a word that is a token as it is, without merging."""
_SPACE = "\u2581"
_SENTENCEPIECE = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ],
}
_METASPACE = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
_NOT_COMPOSED = "llama.cpp does not normalize: give it text in Unicode's form NFC, which the tokenizer makes of any"
_FIRST_BLANK = "llama.cpp puts a blank before every text, the tokenizer only before one that does not begin with one"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_STOPS = ("eos", "eot", "eom")
"""llama.cpp's places for tokens that end an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """The `tokenizer.ggml` keys of a file."""

    model: str
    """llama.cpp's name of the algorithm: `gpt2` (byte-level BPE) or `llama` (SentencePiece's)."""
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...] = ()
    """Of `gpt2`: pairs in the order in which they are merged."""
    scores: tuple[float, ...] = ()
    """Of `llama`: the pair with the highest is merged first."""
    special: Mapping[str, int]
    """Ids of `bos`, `eos` and so on."""
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    caveat: str | None
    """Which texts llama.cpp cuts otherwise after all."""

    def write(self, writer: GGUFWriter) -> None:
        """Add the keys to a file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def gguf_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, stops: Sequence[int]) -> GgufVocabulary:
    """`tokenizer` as llama.cpp reads it.

    Args:
        rows: of the model's embedding, which may be more than the tokens.
        stops: tokens that end an answer.

    Raises:
        DataError: llama.cpp cuts text otherwise, with the reason.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(f"{type(tokenizer).__name__} is none of the tokenizers library")
    state = json.loads(backend.to_str())
    model = state["model"]
    if model["type"] != "BPE" or any(
        model[key] for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise _refused(f"its model {model['type']} is no plain BPE")
    tokens, types = _listed(tokenizer, state, rows)
    kind: dict[str, Any]
    if model["byte_fallback"]:
        kind = {"model": "llama", "pre": "default", "scores": _scores(tokens, model["merges"])}
        caveat = _sentencepiece_caveat(state, types)
    else:
        merges = tuple(" ".join(pair) for pair in model["merges"])
        kind = {"model": "gpt2", "pre": _pre_tokenizer(state), "merges": merges}
        caveat = None if state["normalizer"] is None else _NOT_COMPOSED
    add_bos, add_eos = _frame(tokenizer)
    template = tokenizer.chat_template
    return GgufVocabulary(
        **kind,
        tokens=tokens,
        types=types,
        special=_special(tokenizer, stops),
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=template if isinstance(template, str) else None,
        caveat=caveat,
    )


def _refused(reason: str) -> DataError:
    return DataError(f"llama.cpp would not cut text as this tokenizer does: {reason}; export with --to hf")


def _pre_tokenizer(state: Mapping[str, Any]) -> str:
    found = _without_offsets(state["pre_tokenizer"])
    name = next((name for name, known in _PRE_TOKENIZERS.items() if known == found), None)
    if name is None:
        raise _refused(f"its pre-tokenizer is none of {', '.join(_PRE_TOKENIZERS)}")
    normalizer = state["normalizer"]
    if normalizer is not None and (name, normalizer["type"]) != ("qwen2", "NFC"):
        raise _refused(f"it normalizes ({normalizer['type']})")
    if state["model"]["ignore_merges"] != (name in _WHOLE_WORDS):
        raise _refused(f"its merges are not those of a '{name}' tokenizer")
    return name


def _sentencepiece_caveat(state: Mapping[str, Any], types: Sequence[TokenType]) -> str | None:
    """Refuse what is not cut as SentencePiece's BPE cuts; else where it is not quite."""
    if types.count(TokenType.BYTE) != 256:
        raise _refused("it has no token for some byte")
    normalizer, pre_tokenizer = state["normalizer"], state["pre_tokenizer"]
    if normalizer == _SENTENCEPIECE and pre_tokenizer is None:
        return None
    if normalizer is None and pre_tokenizer == _METASPACE:
        return _FIRST_BLANK
    raise _refused("it treats blanks otherwise than SentencePiece's BPE")


def _without_offsets(state: Any) -> Any:
    """`trim_offsets` changes only what is reported of a token, not the token."""
    if isinstance(state, dict):
        return {key: _without_offsets(value) for key, value in state.items() if key != "trim_offsets"}
    return [_without_offsets(value) for value in state] if isinstance(state, list) else state


def _listed(
    tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any], rows: int
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Tokens and what they are, in the order of their ids; ids without a token are filled."""
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [TokenType.UNUSED] * rows
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= rows:
        raise DataError(f"the tokenizer has ids up to {max(vocabulary.values())}, but the embedding {rows} rows")
    for token, index in vocabulary.items():
        tokens[index] = token
        types[index] = (
            TokenType.BYTE if state["model"]["byte_fallback"] and _BYTE.fullmatch(token) else TokenType.NORMAL
        )
    for added in state["added_tokens"]:
        if any(added[key] for key in ("single_word", "lstrip", "rstrip")):
            raise _refused(f"its token {added['content']} takes blanks or word ends with it")
        index = added["id"]
        types[index] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if state["model"]["unk_token"] is not None:
        types[vocabulary[state["model"]["unk_token"]]] = TokenType.UNKNOWN
    return tuple(tokens), tuple(types)


def _scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Scores under which SentencePiece's algorithm merges in the same order.

    It merges whatever gives a token, the best token first: so all pairs of one token must follow each other in the
    order of merges, and no pair that gives a token may be missing there.
    """
    runs = [token for token, _ in groupby("".join(pair) for pair in merges)]
    if len(runs) != len(set(runs)):
        raise _refused("its merges are in no order that scores of whole tokens give")
    known, pairs = set(tokens), {tuple(pair) for pair in merges}
    for token in tokens:
        splits = {(token[:cut], token[cut:]) for cut in range(1, len(token))}
        if any({first, second} <= known and (first, second) not in pairs for first, second in splits):
            raise _refused(f"it never merges to {token!r}, which llama.cpp would")
    rank = {token: -float(place) for place, token in enumerate(runs)}
    return tuple(rank.get(token, 0.0) for token in tokens)


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether it puts bos before a text and eos after it."""
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for add_bos in (False, True):
        for add_eos in (False, True):
            front = [tokenizer.bos_token_id] if add_bos else []
            back = [tokenizer.eos_token_id] if add_eos else []
            if framed == front + bare + back:
                return add_bos, add_eos
    raise _refused("it frames a text with more than its bos and eos")


def _special(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> dict[str, int]:
    """Ids under llama.cpp's names for them."""
    if not 0 < len(stops) <= len(_STOPS):
        raise DataError(
            f"the model has {len(stops)} tokens that end an answer, and GGUF places for 1 to {len(_STOPS)}: set "
            "eos_token_id in its generation config"
        )
    own = {"bos": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id, "unk": tokenizer.unk_token_id}
    return {name: token for name, token in own.items() if token is not None} | dict(zip(_STOPS, stops, strict=False))
