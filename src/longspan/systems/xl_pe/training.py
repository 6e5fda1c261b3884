"""One arm of a study: a translator trained on the Hugging Face Trainer, saved beside what it needs to translate."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from longspan.data.tokenizer import load_tokenizer
from longspan.errors import CheckpointError, ConfigError, DataError, TrainingError
from longspan.files import alone_in, replacing_folder, write_json
from longspan.models import torch_device
from longspan.systems.xl_pe.config import ArmSettings, StudySettings
from longspan.systems.xl_pe.corpus import PadRows, Pair, Row, SubwordEncoder, fits, read_split
from longspan.systems.xl_pe.model import XlPeConfig, XlPeModel
from longspan.systems.xl_pe.positions import control_orders
from longspan.systems.xl_pe.preparing import StudyFolder, read_orders

ARM_FILE, LOSS_FILE = "arm.json", "losses.json"
_log = logging.getLogger(__name__)


def train_arm(folder: StudyFolder, arm: str, seed: int, *, progress: bool = True) -> Path:
    """Train one arm and return its folder; an arm that is there already is not trained again.

    A run that was stopped starts over: states are not kept in between.

    Raises:
        ConfigError: the study has no such arm or seed, or is not prepared; or the arm was trained otherwise.
        TrainingError: the loss is no number.
    """
    settings = folder.settings()
    if arm not in settings.arms:
        raise ConfigError(f"the study has no arm '{arm}': its arms are {', '.join(settings.arms)}")
    if seed not in settings.seeds:
        raise ConfigError(f"the study has no seed {seed}: its seeds are {', '.join(map(str, settings.seeds))}")
    out = folder.run(arm, seed)
    if is_trained(folder, settings, arm, seed):
        return out
    with alone_in(out.parent / f".{out.name}.work"):
        tokenizer = load_tokenizer(folder.tokenizer)
        rows = {split: split_rows(folder, settings, split, arm, seed, tokenizer) for split in ("train", "dev")}
        model = make_model(settings, settings.arms[arm], tokenizer, seed)
        with replacing_folder(out) as part:
            losses = _fit(model, rows, settings, out.name, seed, part, progress)
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            if settings.arms[arm].needs_reorderer():
                shutil.copy(folder.reorderer, part)
            write_json(part / LOSS_FILE, losses)
            write_json(part / ARM_FILE, settings.arms[arm].to_json())
    return out


def is_trained(folder: StudyFolder, settings: StudySettings, arm: str, seed: int) -> bool:
    """Whether the folder of a run is filled.

    Raises:
        ConfigError: it was filled by an arm of this name with other settings.
    """
    run = folder.run(arm, seed)
    if not (run / ARM_FILE).exists():
        return False
    if read_arm(run) != settings.arms[arm]:
        raise ConfigError(f"{run} was trained with other settings of '{arm}': give the arm another name, or remove it")
    return True


def read_arm(run: Path) -> ArmSettings:
    """The settings that the run in a folder was trained with.

    Raises:
        CheckpointError: the folder holds no trained arm.
    """
    if not (run / ARM_FILE).is_file():
        raise CheckpointError(f"{run} holds no trained arm (no {ARM_FILE}): run `longspan xlpe train` first")
    return ArmSettings.from_yaml(run / ARM_FILE)


def make_model(settings: StudySettings, arm: ArmSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> XlPeModel:
    """A new translator; what all arms have in common begins alike in all of them."""
    size = settings.translator
    config = XlPeConfig(
        vocab_size=len(tokenizer),
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.feed_forward,
        decoder_ffn_dim=size.feed_forward,
        dropout=size.dropout,
        max_position_embeddings=size.longest,
        scale_embedding=True,
        activation_function="relu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        xl_fusion=arm.fusion,
        xl_heads=arm.heads,
        xl_where=arm.where,
        xl_encoding=arm.encoding,
    )
    torch.manual_seed(seed)
    model = XlPeModel(config)
    plain = XlPeConfig(**{**config.to_dict(), "xl_fusion": "none", "xl_heads": 0})
    torch.manual_seed(seed)
    model.load_state_dict(XlPeModel(plain).state_dict(), strict=False)  # a fusion draws numbers of its own
    return model


def split_rows(
    folder: StudyFolder, settings: StudySettings, split: str, arm: str, seed: int, tokenizer: PreTrainedTokenizerBase
) -> list[Row]:
    """Rows of a split with the ranks that the arm reads; training pairs that are too long are left out.

    Raises:
        DataError: another pair is too long, or none is left.
    """
    pairs = read_split(getattr(settings, split))
    cutter = SubwordEncoder(tokenizer)
    orders = arm_orders(folder, settings.arms[arm], split, pairs, seed)
    rows = [cutter.pair(pair, order) for pair, order in zip(pairs, orders, strict=True)]
    longest = settings.translator.longest
    kept = [row for row in rows if fits(row, longest)]
    if len(kept) < len(rows):
        if split != "train":
            raise DataError(f"{len(rows) - len(kept)} {split} pairs are longer than {longest} sub-words: raise longest")
        _log.warning("%d of %d training pairs are longer than %d sub-words", len(rows) - len(kept), len(rows), longest)
    if not kept:
        raise DataError(f"no {split} pair fits {longest} sub-words: raise translator.longest")
    return kept


def arm_orders(folder: StudyFolder, arm: ArmSettings, split: str, pairs: Sequence[Pair], seed: int) -> list[list[int]]:
    """The order of each source sentence that an arm takes its ranks from."""
    sentences = [source for source, _ in pairs]
    kind = "oracle" if arm.ranks == "oracle" else "parser"
    return control_orders(read_orders(folder.orders(split, kind), sentences), arm.ranks, seed)


class _Rows(Dataset[Row]):
    """Rows as the Trainer takes them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]


class _Bar(TrainerCallback):
    """Steps done, and the loss, on stderr."""

    def __init__(self, name: str, *, shown: bool) -> None:
        self._bar = tqdm(desc=name, unit="step", disable=not shown, mininterval=0.2 if sys.stderr.isatty() else 30)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.reset(total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()


def _fit(
    model: XlPeModel,
    rows: dict[str, list[Row]],
    settings: StudySettings,
    name: str,
    seed: int,
    out: Path,
    progress: bool,
) -> dict[str, float]:
    """Train `model` in place; the losses at the end, nats a sub-word, label-smoothed in training and on dev."""
    training, device = settings.training, torch_device(settings.device)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_sentences,
        per_device_eval_batch_size=training.batch_sentences,
        learning_rate=training.learning_rate,
        lr_scheduler_type="inverse_sqrt",
        warmup_steps=training.warmup,
        adam_beta2=0.98,
        label_smoothing_factor=training.label_smoothing,
        train_sampling_strategy="group_by_length",
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="no",
        logging_steps=training.log_every,
        report_to="none",
        disable_tqdm=True,  # the Trainer's own bar writes to stdout, where results stand
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a second GPU would double the batch
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=_Rows(rows["train"]),
        eval_dataset=_Rows(rows["dev"]),
        data_collator=PadRows(model.config.pad_token_id),
        callbacks=[_Bar(name, shown=progress)],
    )
    trainer.remove_callback(PrinterCallback)
    loss = trainer.train().training_loss
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss}: lower training.learning_rate or lengthen training.warmup")
    return {"train": loss, "dev": trainer.evaluate()["eval_loss"]}
