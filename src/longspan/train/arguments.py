"""What the Hugging Face Trainer is told of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from longspan.train.config import RunConfig
from longspan.train.parallel import batch_shape, split_precisely, trainer_settings

STATE_FOLDER = "state"
"""Where a run keeps its states."""


def learning_rate_share(step: int, config: RunConfig) -> float:
    """The learning rate of a step (counted from 0) as a share of the highest."""
    return config.optimizer.share(step, config.total_steps)


def training_arguments(config: RunConfig, out: Path, device: torch.device, processes: int) -> TrainingArguments:
    """The Trainer's arguments for a run: one device, data in order, no evaluation, no reports, no bar of its own."""
    rows, passes = batch_shape(config, processes)
    arguments = TrainingArguments(
        output_dir=str(out / STATE_FOLDER),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=passes,
        max_steps=config.total_steps,
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        adam_beta1=config.optimizer.betas[0],
        adam_beta2=config.optimizer.betas[1],
        max_grad_norm=config.optimizer.clip,
        optim="adamw_torch_fused",
        bf16=config.dtype == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=config.seed,
        train_sampling_strategy="sequential",
        dataloader_num_workers=config.loader_workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every,
        eval_strategy="no",
        report_to="none",  # trackers are callbacks of the run (`trackers`)
        run_name=config.name,
        disable_tqdm=True,
        **trainer_settings(config, processes),
    )
    split_precisely(arguments)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a second GPU would double the batch
    return arguments
