"""The settings of an arm: one way to go through the domains. Baselines are arms with fewer terms."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from longspan.train.settings import Settings

Count = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(gt=0)]
Policy = Literal["shift", "zero", "negative", "last"]


class PromptSettings(Settings):
    """Soft prompts, made of the input."""

    kind: Literal["hypernetwork", "pool"] = "hypernetwork"
    """A mixture of all components, or the prompts of a pool whose keys are nearest to the input."""
    length: Count = 50
    """Soft tokens; of a pool: of each chosen prompt."""
    components: Count = 100
    """Components of the mixture, or prompts in the pool."""
    chosen: Count | None = None
    """Pool: prompts taken for an input (5)."""
    weights: Literal["softmax", "linear"] | None = None
    """Hypernetwork: components are weighted by a softmax, or by the linear map alone."""
    encoder: Literal["initial", "embeddings"] = "initial"
    """What reads the input: a frozen copy of the initial model, or its token embeddings alone."""
    position: Policy = "shift"
    """Where the soft tokens stand: before the text, which moves; all at 0; at -n .. -1; behind the text."""
    alone: bool = False
    """Only prompts learn in pre-training, and the model stays as it is."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        default = {"chosen": 5} if values.get("kind") == "pool" else {"weights": "softmax"}
        return {**values, **{key: value for key, value in default.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        unused = "weights" if self.kind == "pool" else "chosen"
        if getattr(self, unused) is not None:
            raise ValueError(f"'{unused}' has no effect on kind {self.kind}; leave it out")
        if self.chosen is not None and self.chosen > self.components:
            raise ValueError(f"'chosen' {self.chosen} is more than the {self.components} prompts of the pool")
        return self

    @property
    def tokens(self) -> int:
        """Soft tokens before each text."""
        return self.length * (self.chosen or 1)


class AgreementSettings(Settings):
    """What an earlier model predicts shall stay: distillation while the model goes on learning."""

    weight: Weight = 1.0
    teacher: Literal["previous", "initial"] = "previous"
    """The model before this stage, or before the first."""
    on: Literal["logits", "states"] = "logits"
    """KL of what is predicted, or the squared error of the last states."""
    prompt: Literal["random", "none"] = "random"
    """Both models read a random prompt before the text, or the text alone (learning without forgetting)."""


class DisagreementSettings(Settings):
    """States under the prompt of the input shall be unlike those under a random prompt."""

    weight: Weight = 0.1


class EwcSettings(Settings):
    """Elastic weight consolidation: weights that mattered before are held back."""

    weight: Weight = 5000.0
    windows: Count = 64
    """Windows of a stage from which its Fisher information is estimated."""


class ReplaySettings(Settings):
    """Experience replay: part of each batch comes from earlier domains."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    windows: Count = 256
    """Windows kept of earlier domains, all together."""


class AdapterSettings(Settings):
    """Low-rank adapters by peft: new ones in each stage, merged into the model at its end."""

    rank: Count = 8
    alpha: Weight = 16.0


class ArmSettings(Settings):
    """Which models are trained on what, and by which terms; without any: plain sequential training."""

    domains: Literal["sequence", "joint", "separate"] = "sequence"
    """One after the other; all at once, in as many steps as all stages have; or each from the initial model."""
    prompt: PromptSettings | None = None
    agreement: AgreementSettings | None = None
    disagreement: DisagreementSettings | None = None
    ewc: EwcSettings | None = None
    replay: ReplaySettings | None = None
    adapter: AdapterSettings | None = None
    steps: Count | None = None
    """Steps of a stage, where they differ from those of the other arms: to compare at equal compute."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        under_random = self.agreement is not None and self.agreement.prompt == "random"
        if self.prompt is None and (under_random or self.disagreement is not None):
            name = "agreement" if under_random else "disagreement"
            raise ValueError(f"'{name}' needs random prompts as long as the arm's own: set 'prompt'")
        self._check_what_learns()
        if self.domains != "sequence":
            for name in ("ewc", "replay"):
                if getattr(self, name) is not None:
                    raise ValueError(f"'{name}' has no effect without an earlier stage: leave 'domains' at sequence")
        return self

    def _check_what_learns(self) -> None:
        alone = self.prompt is not None and self.prompt.alone
        if self.adapter is not None and alone:
            raise ValueError("'prompt.alone' and 'adapter' both say what learns: leave one of them out")
        if self.ewc is not None and (alone or self.adapter is not None):
            raise ValueError("'ewc' holds back weights of the model, which do not learn here: leave it out")
        if self.agreement is not None and alone:
            raise ValueError("'agreement' has no effect on a model that stays as it is ('prompt.alone'); leave it out")
