"""The settings of one training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from longspan.equation import Position, fill_slots
from longspan.errors import ConfigError, LongspanError
from longspan.methods.feature.coca import Coca
from longspan.registry import format_methods, parse_methods
from longspan.train.data_settings import DataSettings
from longspan.train.distill import DistillSettings
from longspan.train.lora_settings import LoraSettings
from longspan.train.optimizer_settings import OptimizerSettings, Positive, Share
from longspan.train.parallel_settings import ParallelSettings
from longspan.train.preserve import PreserveSettings
from longspan.train.settings import Length, Settings
from longspan.train.sizes import find_size


class ModelSettings(Settings):
    """A new model by family and size, or a trained one to go on with."""

    from_: str | None = Field(None, alias="from")
    """Folder or name of a trained model (fine-tuning); null trains from scratch."""
    family: Literal["llama", "gpt_neox"] | None = None
    size: str | None = None
    """1m, 3m, 10m, 30m, 125m or 350m."""
    base: Annotated[float, Field(gt=1)] | None = None
    """RoPE's base."""
    rotary_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each head that is rotated (gpt_neox only)."""
    key_value_heads: Annotated[int, Field(gt=0)] | None = None
    """Key heads, each shared by a group of query heads (llama only); null: as many as there are query heads."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("from") is not None:
            return values
        filled = {"family": "llama", "size": "1m", "base": 10000.0}
        filled |= {key: value for key, value in values.items() if value is not None}
        if filled["family"] == "gpt_neox":
            filled.setdefault("rotary_pct", 0.25)
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.from_ is not None:
            for key in ("family", "size", "base", "rotary_pct", "key_value_heads"):
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' has no effect together with 'from'; leave one of them out")
        elif self.family == "llama" and self.rotary_pct is not None:
            raise ValueError("'rotary_pct' has no effect on llama; leave it out or take family gpt_neox")
        elif self.family == "gpt_neox" and self.key_value_heads is not None:
            raise ValueError("'key_value_heads' has no effect on gpt_neox; leave it out or take family llama")
        elif self.key_value_heads is not None and self.size is not None:
            heads = find_size(self.size).heads
            if heads % self.key_value_heads:
                raise ValueError(
                    f"'key_value_heads' {self.key_value_heads} must divide the {heads} heads of {self.size}"
                )
        return self

    @field_validator("size")
    @classmethod
    def _known_size(cls, value: str | None) -> str | None:
        if value is not None:
            _as_value_error(find_size, value)
        return value


class RunConfig(Settings):
    """Everything that decides a training run."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: ModelSettings = Field(default_factory=lambda: ModelSettings.model_validate({}))
    methods: str = "rope"
    """Methods put in before training, as `longspan methods` spells them: `coca`, `coca(form='slack')+yarn`."""
    start: Literal["mean", "random", "fit"] | None = None
    """Fine-tuning into CoCA: what t begins as (see `longspan.convert`); `fit` looks at windows of the training data."""
    train_length: Length
    """Tokens in a training window."""
    target_length: Length | None = None
    """Fine-tuning: the window that the methods extend the model to."""
    again: bool = False
    """Fine-tuning: extend a model that is extended already; new frequencies take the place of the old."""
    data: DataSettings
    trainable: dict[Share, Annotated[list[str], Field(min_length=1)]] | None = None
    """Parts that learn, by the share of the run from which they do: `{0: [k_proj], 0.3: ['*']}`; null: all, always.

    A part is a module or parameter name (`k_proj`, `*norm*`, `embed_tokens`); the others stay as they are.
    """
    lora: LoraSettings | None = None
    """Fine-tuning: adapters learn, and the model stays as it is; null: the model itself learns."""
    distill: DistillSettings | None = None
    """Fine-tuning: learn the predictions of the original model, too."""
    preserve: PreserveSettings | None = None
    """Fine-tuning: `agreement` keeps what the model predicts on short text while its window is extended."""
    optimizer: OptimizerSettings = Field(default_factory=lambda: OptimizerSettings.model_validate({}))
    tokens: Length | None = None
    """Tokens to train on; or give `steps`, or `epochs`."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps; 0 makes the model and trains nothing."""
    epochs: Positive | None = None
    """Conversations: times that each is learned, rounded to whole steps."""
    batch_tokens: Length = 4096
    """Tokens an optimizer step rests on, those of all processes together.

    A conversation that is shorter than `train_length` counts in full.
    """
    micro_batch_tokens: Length | None = None
    """Tokens in one forward pass of a process at most; null takes its part of the batch at once.

    Changes the result by rounding alone.
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes in mixed precision; weights stay float32."""
    compile: bool = False
    """Compile each decoder layer with torch.compile; changes the result by rounding alone."""
    activation_checkpointing: bool = False
    """Keep only the inputs of decoder layers and compute the rest again when it is needed: less memory, more time."""
    loss_chunk: Length | None = None
    """Tokens whose logits exist at once; null: a number by the vocabulary. Changes the result by rounding alone."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """Stop at a step whose loss or gradient is no number, or go on without it; `records.jsonl` keeps those skipped."""
    norm_limit: Positive | None = None
    """Norm of the gradient, before clipping, from which on a step has diverged as well; null: no limit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(gt=0)] | None = None
    """Processor threads; null leaves torch's choice."""
    parallel: ParallelSettings = Field(default_factory=lambda: ParallelSettings.model_validate({}))
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make the windows; 0 makes them between the steps, which is too slow for a GPU."""
    save_every: Annotated[int, Field(gt=0)] = 500
    """Steps between two saved states."""
    log_every: Annotated[int, Field(gt=0)] = 20
    """Steps that one logged loss is the mean of."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers that get what is logged as well; `records.jsonl` is written always."""

    @field_validator("methods")
    @classmethod
    def _canonical_methods(cls, value: str) -> str:
        return str(_as_value_error(_canonical, value))

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """A tokenizer is trained for a new model unless one is given; say at which size."""
        if not isinstance(values, dict) or not isinstance(values.get("data"), dict):
            return values
        model, data = values.get("model") or {}, values["data"]
        from_scratch = isinstance(model, dict) and model.get("from") is None and data.get("conversations") is None
        if from_scratch and data.get("tokenizer") is None and data.get("vocab_size") is None:
            return {**values, "data": {**data, "vocab_size": 1024}}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_budget()
        if self.batch_tokens % self.train_length:
            near = max(1, round(self.batch_tokens / self.train_length)) * self.train_length
            raise ValueError(
                f"'batch_tokens' {self.batch_tokens} is no multiple of 'train_length' {self.train_length}; take {near}"
            )
        micro = self.micro_batch_tokens
        if micro is not None and (micro % self.train_length or self.batch_tokens % micro):
            raise ValueError(
                f"'micro_batch_tokens' {micro} must be a multiple of 'train_length' {self.train_length}"
                f" and divide 'batch_tokens' {self.batch_tokens}"
            )
        if self.tokens is not None and self.tokens < self.batch_tokens:
            raise ValueError(f"'tokens' {self.tokens} is less than one step of 'batch_tokens' {self.batch_tokens}")
        if self.data.vocab_size is not None and (self.data.tokenizer or self.model.from_):
            raise ValueError("'data.vocab_size' has no effect when the tokenizer is given; leave it out")
        if self.trainable is not None and 0 not in self.trainable:
            raise ValueError("'trainable' does not say what learns at first: give the share 0")
        if self.lora is not None:
            self._check_lora()
        if self.target_length is not None:
            self._check_target(self.target_length)
        elif any(isinstance(method, Position) for method in parse_methods(self.methods)):
            raise ValueError(f"'methods' {self.methods} has positions for a longer window: set 'target_length'")
        if self.preserve is not None and self.parallel.sharing > 1:
            raise ValueError("'preserve' reads whole windows, which 'parallel' has processes share: leave that out")
        if self.again and not parse_methods(self.methods):
            raise ValueError("'again' has no effect without a method; set 'methods', say to yarn")
        for name in ("start", "distill", "preserve", "again"):
            if getattr(self, name) and self.model.from_ is None:
                raise ValueError(f"'{name}' is for fine-tuning: name the trained model under 'model.from'")
        if self.start is not None and not any(isinstance(method, Coca) for method in parse_methods(self.methods)):
            raise ValueError("'start' is how CoCA's t begins: put coca among the methods, or leave it out")
        return self

    def _check_budget(self) -> None:
        if self.data.conversations is None:
            if self.epochs is not None:
                raise ValueError("'epochs' is for conversations: windows of text are drawn at random; set 'tokens'")
            if (self.tokens is None) == (self.steps is None):
                raise ValueError("set one of 'tokens' and 'steps', not both and not none")
            return
        if self.tokens is not None:
            raise ValueError("'tokens' is for text: rows of conversations are not all full; set 'epochs' or 'steps'")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set one of 'epochs' and 'steps', not both and not none")
        if self.start == "fit" or self.distill is not None or self.preserve is not None:
            raise ValueError("'start: fit', 'distill' and 'preserve' are for windows of text, not for conversations")
        if self.model.from_ is None and self.data.tokenizer is None:
            raise ValueError("no tokenizer is learned from conversations: set 'model.from' or 'data.tokenizer'")
        if self.parallel.sharing > 1:
            raise ValueError("conversations need masks, so processes cannot share windows of them: leave that out")

    def _check_lora(self) -> None:
        if self.model.from_ is None:
            raise ValueError("'lora' is for fine-tuning: a new model has nothing to stand beside; set 'model.from'")
        if self.trainable is not None:
            raise ValueError("'lora' and 'trainable' both say what learns: leave one of them out")

    def _check_target(self, target_length: int) -> None:
        if self.model.from_ is None:
            raise ValueError("'target_length' is for fine-tuning; from scratch the window is 'train_length'")
        if not parse_methods(self.methods):
            raise ValueError("'target_length' has no effect without a method; set 'methods', say to yarn")
        if target_length < self.train_length:
            raise ValueError(f"'target_length' {target_length} is shorter than 'train_length' {self.train_length}")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run.

        Raises:
            ConfigError: they follow from `epochs`, and `for_epochs` has not said how many those are.
        """
        if self.steps is not None:
            return self.steps
        if self.tokens is None:
            raise ConfigError("how many steps 'epochs' are is known with the conversations alone: set 'steps' here")
        return self.tokens // self.batch_tokens

    def for_epochs(self, rows_per_epoch: int) -> RunConfig:
        """The same run with its steps counted, for data of so many rows."""
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * rows_per_epoch / self.rows_per_step))
        return self.model_copy(update={"steps": steps})

    @property
    def rows_per_step(self) -> int:
        """Windows in one optimizer step."""
        return self.batch_tokens // self.train_length

    @property
    def micro_batch_rows(self) -> int:
        """Windows in one forward pass."""
        return (self.micro_batch_tokens or self.batch_tokens) // self.train_length

    @property
    def accumulation(self) -> int:
        """Forward passes in one optimizer step."""
        return self.batch_tokens // (self.micro_batch_tokens or self.batch_tokens)

    @property
    def model_name(self) -> str:
        """What the records call the model."""
        return self.model.from_ or f"{self.model.family}-{self.model.size}"


_PARALLEL = tuple(f"parallel.{name}" for name in ParallelSettings.model_fields)
FREE_TO_CHANGE = ("device", "threads", "loader_workers", "save_every", "report_to", "data.cache", *_PARALLEL)
"""Settings that do not decide the result: a run goes on although they were changed."""


def changed_keys(old: dict[str, Any], new: dict[str, Any], inside: str = "") -> list[str]:
    """Dotted names of the settings that decide the result and differ between two `to_json()` forms."""
    changed = []
    for key in dict.fromkeys([*old, *new]):
        name = f"{inside}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += changed_keys(before, after, f"{name}.")
        elif before != after and name not in FREE_TO_CHANGE:
            changed.append(name)
    return changed


def _canonical(text: str) -> str:
    methods = parse_methods(text)
    fill_slots(methods)  # two methods on one slot shall be found before any text is read
    return format_methods(methods)


def _as_value_error(function: Any, value: str) -> Any:
    """`function(value)`, with the project's errors in the form that pydantic collects."""
    try:
        return function(value)
    except LongspanError as error:
        raise ValueError(str(error)) from error
