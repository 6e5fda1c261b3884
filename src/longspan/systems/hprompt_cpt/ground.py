"""What all arms of a run share: folders, tokenizer, domains, windows, and the initial models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.data.tokenizer import tokenizer_hash
from longspan.data.tokens import prepare_tokens
from longspan.errors import ConfigError, DataError
from longspan.files import write_text
from longspan.models import fingerprint, torch_device
from longspan.systems.hprompt_cpt.backbone import load_backbone, make_tokenizer, new_model
from longspan.systems.hprompt_cpt.config import CptConfig
from longspan.systems.hprompt_cpt.domains import Domain, read_domain
from longspan.systems.hprompt_cpt.learner import Learner
from longspan.systems.hprompt_cpt.loop import Loop
from longspan.systems.hprompt_cpt.positions import check_fit
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.seeds import number
from longspan.systems.hprompt_cpt.windows import Masker, Stream, Windows
from longspan.train.config import changed_keys
from longspan.train.states import writing_folder

RUN_FILE, DATA, STATE = "run.yaml", "data", "state"
MODEL = "model"
"""Folder of the Hugging Face model inside that of a stage."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What is there before the first stage."""

    config: CptConfig
    out: Path
    tokenizer: PreTrainedTokenizerBase
    domains: dict[str, Domain]
    device: torch.device

    @classmethod
    def prepare(cls, config: CptConfig, out: Path) -> Ground:
        """Read tokenizer and domains; what takes long is kept in `out`.

        Raises:
            DataError, CheckpointError: text, rows, model or tokenizer cannot be used.
            ConfigError: no such device.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        tokenizer = make_tokenizer(config, out / DATA)
        domains = {
            name: read_domain(name, settings, tokenizer, config.length, out / DATA)
            for name, settings in config.domains.items()
        }
        return cls(config, out, tokenizer, domains, torch_device(config.device))

    def windows(self, name: str, seed: int) -> Windows:
        """Training windows of the domain called `name`."""
        masker = None if self.config.model.causal else Masker.of(self.tokenizer)
        return Windows(name, self.domains[name].tokens, self.config.length, seed, masker)

    def identity(self) -> dict[str, Any]:
        """What may not change while a run goes on, beside its settings."""
        found: dict[str, Any] = {"tokenizer": tokenizer_hash(self.tokenizer)[:12]}
        found["domains"] = {name: _digest(domain.tokens) for name, domain in self.domains.items()}
        if self.config.model.from_ is not None:
            found["model"] = fingerprint(self.config.model.from_)
        return found

    def initial_folder(self, seed: int) -> Path:
        """Where the model before the first stage is kept; a model that was given is the same for all seeds."""
        return self.out / (f"initial-{seed}" if self.config.model.from_ is None else "initial")

    def load_initial(self, seed: int) -> PreTrainedModel:
        """The model before the first stage, which `make_initial` has made."""
        return load_backbone(
            self.initial_folder(seed) / MODEL, causal=self.config.model.causal, tokenizer=self.tokenizer
        )

    def tasks(self) -> dict[str, str]:
        """What every domain is tuned and tested on: a digest each."""
        found = {}
        for name, domain in self.domains.items():
            parts = [] if domain.held_out is None else [domain.held_out]
            for samples in (domain.train, domain.test):
                if samples is not None:
                    parts += [samples.input_ids.numpy(), samples.mask.numpy(), samples.labels.numpy()]
            found[name] = _digest(*parts)
        return found

    def check_initial(self, seed: int) -> None:
        """Make sure that the model before the first stage is, or will be, that of these settings.

        Raises:
            ConfigError: it was made with others.
        """
        config, folder = self.config, self.initial_folder(seed)
        settings = config.to_json()
        if config.model.from_ is not None:
            check_settings(folder, {"model": settings["model"], **self.identity()})
        else:
            window = config.length + config.longest_prompt
            shared = {key: settings[key] for key in ("model", "base", "length")}
            check_settings(
                folder, {**shared, "window": window, "seed": seed, "tokenizer": self.identity()["tokenizer"]}
            )

    def make_initial(self, seed: int) -> None:
        """Make or read the model before the first stage, unless it is there, and check that all prompts fit."""
        config, folder = self.config, self.initial_folder(seed)
        self.check_initial(seed)
        if not (folder / MODEL).is_dir():
            if config.model.from_ is not None:
                model = load_backbone(config.model.from_, causal=config.model.causal)
            else:
                model = self._train_base(seed)
            self._check_prompts(model)
            with writing_folder(folder / MODEL) as part:
                model.save_pretrained(part)
                self.tokenizer.save_pretrained(part)
        else:
            self._check_prompts(self.load_initial(seed))

    def _check_prompts(self, model: PreTrainedModel) -> None:
        for name, arm in self.config.arms.items():
            prompts = arm.prompt.tokens if arm.prompt is not None else 0
            check_fit(model, self.config.length, prompts, arm.prompt.position if arm.prompt else "shift", name)

    def _train_base(self, seed: int) -> PreTrainedModel:
        config, base = self.config, self.config.base
        assert base is not None
        tokens = prepare_tokens(
            base.text, self.tokenizer, self.out / DATA / "base", field=base.field, progress=False
        ).tokens
        if len(tokens) < config.length:
            raise DataError(f"base.text: {base.text} has {len(tokens)} tokens, fewer than one window: give more text")
        model = new_model(config, self.tokenizer, seed).to(self.device)
        self._check_prompts(model)
        masker = None if config.model.causal else Masker.of(self.tokenizer)
        batches = Stream((Windows("base", tokens, config.length, seed, masker),), base.rows, seed)
        learner = Learner(PromptedModel(model), None, causal=config.model.causal)
        loop = Loop(learner, base, base.steps, self.initial_folder(seed) / STATE, number(seed, "base"))
        loop.run(lambda step: {"language": learner.language_loss(batches.batch(step).to(self.device))})
        return model


def check_settings(folder: Path, settings: dict[str, Any], remedy: str = "choose another --out, or remove it") -> None:
    """Note in `folder` what decides its content, or make sure that it is what was noted.

    Raises:
        ConfigError: it is not; names the keys, and says `remedy`.
    """
    path = folder / RUN_FILE
    if path.exists():
        try:
            changed = changed_keys(yaml.safe_load(path.read_text(encoding="utf-8")), settings)
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: remove {folder} and run again") from error
        if changed:
            raise ConfigError(f"{folder} was made with other settings ({', '.join(changed)}): {remedy}")
        return
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
