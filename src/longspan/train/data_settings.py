"""The settings of what a run reads: text or conversations."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_serializer, model_validator

from longspan.data.conversation_dataset import Packing
from longspan.data.mixture import Mixture
from longspan.data.text import Part
from longspan.data.tokenizer import SMALLEST_VOCAB
from longspan.train.settings import Settings


class DataSettings(Settings):
    """The text, or the conversations, and what is made of it."""

    text: str | None = None
    """A file, a folder, a .jsonl file or `datasets:NAME[:CONFIG][:SPLIT]`."""
    conversations: str | None = None
    """A .json or .jsonl file of conversations (ShareGPT, Alpaca, OpenAI messages), or a folder of them: only responses
    are learned. In place of `text`."""
    template: str | None = None
    """Conversations: a file with a jinja chat template, or `plain`; null takes the tokenizer's own, or else `plain`."""
    packing: Packing | None = None
    """Conversations: `none` puts one in a row, `packed` as many as fit in, which do not see each other."""
    on_bad_rows: Literal["stop", "skip"] | None = None
    """Conversations: what to do about rows that cannot be used; both count them and name the first."""
    field: str = "text"
    """Key of the text in a row of a .jsonl file or a data set."""
    part: Part = "all"
    """`train` leaves every 20th document out, `validation` takes only those."""
    tokenizer: str | None = None
    """Folder of a tokenizer; null trains one (from scratch) or takes the model's own (fine-tuning)."""
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCAB)] | None = None
    """Size of the tokenizer that is trained."""
    mixture: Mixture | None = None
    """Text: shares of plain windows and planted retrieval tasks."""
    cache: str | None = None
    """Folder for the tokenizer and the token files; runs that name the same one share them."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        text = values.get("conversations") is None
        defaults: dict[str, Any] = {"mixture": {}} if text else {"packing": "none", "on_bad_rows": "stop"}
        return {**values, **{key: value for key, value in defaults.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.conversations is None):
            raise ValueError("set one of 'text' and 'conversations', not both and not none")
        unused = ("template", "packing", "on_bad_rows") if self.conversations is None else ("mixture",)
        for key in unused:
            if getattr(self, key) is not None:
                kind = "text" if self.conversations is None else "conversations"
                raise ValueError(f"'{key}' has no effect on {kind}; leave it out")
        text = self.text or ""
        has_fields = text.startswith("datasets:") or text.endswith(".jsonl")
        if self.field != "text" and not has_fields:
            raise ValueError("'field' has no effect on plain text; leave it out or name a .jsonl file")
        return self

    @property
    def source(self) -> str:
        """What is read."""
        return self.text or self.conversations or ""

    @field_serializer("mixture")
    def _effective(self, mixture: Mixture | None) -> dict[str, Any] | None:
        """All settings of the mixture but those that it refuses, since they have no effect."""
        if mixture is None:
            return None
        values = mixture.model_dump(exclude_unset=True)
        for name, value in mixture.model_dump().items():
            with contextlib.suppress(ValidationError):
                Mixture.model_validate({**values, name: value})
                values[name] = value
        return {name: values[name] for name in type(mixture).model_fields if name in values}
