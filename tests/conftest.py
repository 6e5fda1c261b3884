"""What every test may use: tiny random models of each family, real data where there is some, no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")
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
_CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig, _GROUPED),
    "mistral": (MistralForCausalLM, MistralConfig, {**_GROUPED, "head_dim": 8, "sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**_GROUPED, "head_dim": 8}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {**_COMMON, "rotary_pct": 0.5}),
}


def make_model(family: str, *, seed: int = 0, spread: float = 0.2, **settings: object) -> PreTrainedModel:
    """A random float32 model of `family`, 2 layers wide 32, on the CPU; `settings` go to its config.

    Weights are drawn wider than usual, so that attention is far from uniform and a wrong position shows.
    """
    model_class, config_class, common = _CLASSES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**{**common, **settings}))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=spread)
    return model.float().eval()


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors gain nothing from threads, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


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
