"""What every test may use: tiny random models of each family, real data where there is some, no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, by processes that tests start, too

import copy
import gc
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# read when triton is imported, which transformers does: without a GPU its kernels are interpreted
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from transformers import PreTrainedModel

VOCAB_SIZE = 128
TRAIN_LENGTH = 64

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TRAIN_LENGTH,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
_NESTED = {"sliding_attention": {**_PLAIN, "rope_theta": 1000.0}, "full_attention": _PLAIN}
_CONFIGS: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "head_dim": 8, "sliding_window": None},
    "mixtral": {**_GROUPED, **_EXPERTS, "head_dim": 8},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "qwen3_moe": {**_GROUPED, **_EXPERTS, "head_dim": 8, "moe_intermediate_size": 32},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 24, "pad_token_id": 0},
    "gemma3_text": {
        **_GROUPED,
        "head_dim": 8,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": _NESTED,
        "pad_token_id": 0,
    },
    "phi3": {**_GROUPED, "original_max_position_embeddings": TRAIN_LENGTH, "pad_token_id": 0},
    "gpt_neox": {**_COMMON, "rotary_pct": 0.5},
    "stablelm": {**_GROUPED, "partial_rotary_factor": 0.5, "qk_layernorm": True},
    "olmo2": {**_GROUPED, "pad_token_id": 0},
    "granite": {**_GROUPED, "attention_multiplier": 0.25, "logits_scaling": 4.0},
    "cohere": {**_GROUPED, "use_qk_norm": True, "pad_token_id": 0, "rope_parameters": _PLAIN},
    "gptj": {
        "vocab_size": VOCAB_SIZE,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": TRAIN_LENGTH,
        "rotary_dim": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
FAMILIES = tuple(_CONFIGS)
"""Model types, one for each supported family."""


def make_model(family: str, *, seed: int = 0, spread: float = 0.2, **settings: object) -> PreTrainedModel:
    """A random float32 model of `family`, 2 layers wide 32, on the CPU; `settings` go to its config.

    Weights are drawn wider than usual, so that attention is far from uniform and a wrong position shows.
    """
    from longspan.surgery.families import FAMILIES as ROWS

    row = ROWS[family]
    config = row.config_class(**copy.deepcopy({**_CONFIGS[family], **settings}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = row.model_class(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=spread)
    return model.float().eval()


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder layers; GPT-J has an older name for them."""
    decoder = model.base_model
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def pytest_collection_finish() -> None:
    """Take what has been imported and collected out of the garbage collector's sight.

    It lives as long as the process, and every training run collects all garbage twice: 0.3 seconds each time otherwise.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors gain nothing from threads, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """What a test writes need not outlive a power cut, and a disk takes milliseconds to promise that it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every supported family in turn."""
    return request.param


@pytest.fixture(scope="session")
def _models() -> dict[str, PreTrainedModel]:
    return {}


@pytest.fixture
def tiny_model(_models: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """tiny_model("qwen3") is a fresh copy of the random model of that family; the test may change it."""

    def make(name: str) -> PreTrainedModel:
        if name not in _models:
            _models[name] = make_model(name)
        return copy.deepcopy(_models[name])

    return make


def data_dir(name: str) -> Path:
    """The folder `name` of real data; the test is skipped where LONGSPAN_DATA does not lead to it."""
    root = os.environ.get("LONGSPAN_DATA")
    if root is None:
        pytest.skip("LONGSPAN_DATA is not set: real data are tested where they are")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of a few thousand tokens: made-up sentences, the same ones every time.

    The passkey prompt stands in it too, so that a tokenizer learned from it spells that prompt with few tokens.
    """
    from longspan.data.passkey import KEY_SENTENCE, QUESTION, TASK

    rng = random.Random(0)
    prompt = "\n".join([TASK, KEY_SENTENCE.format(key="Key"), QUESTION])
    words = ["the", "sea", "was", "calm", "old", "ships", "went", "by", "7", "21", "while", "she", "read", "letters"]
    sentences = [" ".join(rng.choices(words, k=rng.randint(5, 15))).capitalize() + "." for _ in range(600)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    paragraphs = [" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6)]
    path.write_text("\n\n".join([*paragraphs, *[prompt] * 20]) + "\n")
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """A saved random Llama of window 64 with a tokenizer of 512 pieces. Read only: `copytree` it to change it."""
    from longspan.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = train_tokenizer([book.read_text()], 512, folder)
    make_model("llama", vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    return folder


@pytest.fixture(name="data_dir")
def _data_dir() -> Callable[[str], Path]:
    return data_dir


@pytest.fixture
def checkpoints_dir() -> Path:
    """Real tiny checkpoints: stories260K and aidreams260K."""
    return data_dir("checkpoints")


@pytest.fixture
def stories(checkpoints_dir: Path) -> Path:
    """The folder of stories260K: a trained Llama of 260 thousand parameters with its vocabulary."""
    folder = checkpoints_dir / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder
