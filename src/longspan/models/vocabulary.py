"""llama2.c vocabularies (`tok512.bin`) as fast tokenizers: SentencePiece's BPE with byte fallback.

Source    github.com/karpathy/llama2.c, `tokenizer.py` (export) and `run.c` (encode); SentencePiece merges the pair
          whose union has the best score, which is a fixed order of merges.
Checked   SentencePiece itself on the `tok512.model` that the file was made from.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from longspan.errors import CheckpointError

_SPACE = "\u2581"
_SPECIAL = ("<unk>", "<s>", "</s>")
_FIRST_PIECE = 259  # after the three special pieces and the 256 bytes


def find_vocabulary(folder: Path) -> Path | None:
    """The vocabulary beside a llama2.c checkpoint: `tokenizer.bin` or `tok512.bin`, or None."""
    found = [path for path in sorted(folder.glob("tok*.bin")) if path.is_file()]
    return found[0] if found else None


def read_vocabulary(path: Path) -> list[tuple[str, float]]:
    """Pieces and scores in the order of their ids.

    Raises:
        CheckpointError: `path` is missing, truncated, or not such a vocabulary.
    """
    broken = CheckpointError(f"{path} is truncated or is not a llama2.c vocabulary: copy it again")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    pieces: list[tuple[str, float]] = []
    start = 4  # the longest piece's length, which only C needs
    try:
        while start < len(data):
            score, length = struct.unpack_from("<fi", data, start)
            start += 8
            piece = data[start : start + length]
            start += length
            if length <= 0 or start > len(data):
                raise broken
            pieces.append((piece.decode("utf-8"), score))
    except (struct.error, UnicodeDecodeError):
        raise broken from None
    if len(pieces) < _FIRST_PIECE or pieces[3][0] != "<0x00>":
        raise broken
    return [(name, 0.0) for name in _SPECIAL] + [(piece.replace(" ", _SPACE), score) for piece, score in pieces[3:]]


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, best score first, as SentencePiece picks them."""
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    found = []
    for piece, score in pieces[_FIRST_PIECE:]:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def load_vocabulary(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the llama2.c vocabulary at `path`; it puts `<s>` in front, as `run.c` does.

    Raises:
        CheckpointError: `path` is missing, truncated, or not such a vocabulary.
    """
    pieces = read_vocabulary(path)
    vocab = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=_merges(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
