"""One arm of a study: a translator is made, trained, and saved beside what it needs to translate."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from longspan.data.tokenizer import load_tokenizer
from longspan.errors import CheckpointError, ConfigError, DataError
from longspan.files import alone_in, replacing_folder, write_json
from longspan.models import torch_device
from longspan.systems.xl_pe.config import ArmSettings, StudySettings
from longspan.systems.xl_pe.corpus import Pair, Row, SubwordEncoder, fits, read_split
from longspan.systems.xl_pe.model import XlPeConfig, XlPeModel
from longspan.systems.xl_pe.positions import control_orders
from longspan.systems.xl_pe.preparing import StudyFolder, read_orders
from longspan.systems.xl_pe.trainer import TranslationTrainer
from longspan.train.exact import train_on
from longspan.train.states import remove_leftovers, saved_states

ARM_FILE, LOSS_FILE, STATES = "arm.json", "losses.json", "state"
_log = logging.getLogger(__name__)


def train_arm(folder: StudyFolder, arm: str, seed: int, *, device: str | None = None, progress: bool = True) -> Path:
    """Train one arm and return its folder; an arm that is there already is not trained again.

    An arm that was stopped goes on from its last saved state, to the same weights.

    Args:
        device: where to compute; None: where the study says.

    Raises:
        ConfigError: the study has no such arm or seed, or is not prepared; or the arm was trained or begun otherwise.
        TrainingError: the loss is no number.
        KeyboardInterrupt: after Ctrl-C; the state is saved first.
    """
    settings = folder.settings()
    if arm not in settings.arms:
        raise ConfigError(f"the study has no arm '{arm}': its arms are {', '.join(settings.arms)}")
    if seed not in settings.seeds:
        raise ConfigError(f"the study has no seed {seed}: its seeds are {', '.join(map(str, settings.seeds))}")
    out = folder.run(arm, seed)
    if is_trained(folder, settings, arm, seed):
        return out
    work = folder.work(arm, seed)
    with alone_in(work):
        if is_trained(folder, settings, arm, seed):  # another process may have done it meanwhile
            return out
        _begin(work, settings.arms[arm])
        tokenizer = load_tokenizer(folder.tokenizer)
        rows = {split: split_rows(folder, settings, split, arm, seed, tokenizer) for split in ("train", "dev")}
        model = make_model(settings, settings.arms[arm], tokenizer, seed)
        trainer = TranslationTrainer(
            model, rows, settings, seed, work / STATES, torch_device(device or settings.device)
        )
        train_on(trainer, out.name, progress=progress)
        losses = trainer.final_losses()
        with replacing_folder(out) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            if settings.arms[arm].needs_reorderer():
                shutil.copy(folder.reorderer, part)
            write_json(part / LOSS_FILE, losses)
            write_json(part / ARM_FILE, settings.arms[arm].to_json())
        shutil.rmtree(work / STATES, ignore_errors=True)
    return out


def _begin(work: Path, arm: ArmSettings) -> None:
    """Make sure that the states in `work` are those of this arm.

    Raises:
        ConfigError: they are not.
    """
    remove_leftovers(work / STATES)
    if saved_states(work / STATES) and read_arm(work) != arm:
        raise ConfigError(f"{work} was begun with other settings of this arm: give it another name, or remove {work}")
    write_json(work / ARM_FILE, arm.to_json())


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
