"""The server on loopback, asked by the `openai` client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import longspan as ls
from conftest import make_model
from longspan.data.tokenizer import train_tokenizer
from longspan.errors import ConfigError
from longspan.models import load_tokenizer
from longspan.serve import listen, serving

ORIGINAL, TARGET = 64, 256
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """A tiny model under CoCA and YaRN, with a tokenizer that can chat."""
    folder = tmp_path_factory.mktemp("served")
    train_tokenizer([book.read_text(encoding="utf-8")], 300, folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = make_model("llama", vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=None)
    ls.extend(model, "coca+yarn", target_length=TARGET)
    model.save_pretrained(folder / "model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[openai.OpenAI]:
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(serving(str(folder), device="cpu"), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


def prompt_of(tokenizer: PreTrainedTokenizerBase, book: Path, tokens: int) -> str:
    """A text of just about so many tokens."""
    text = book.read_text(encoding="utf-8")
    return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[: tokens - 2])


def greedy(folder: Path, prompt: str, tokens: int) -> str:
    model: PreTrainedModel = ls.load(folder)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_completion_is_what_the_model_generates_also_beyond_the_original_window(
    client: openai.OpenAI, folder: Path, tokenizer: PreTrainedTokenizerBase, book: Path
) -> None:
    for tokens in (20, 2 * ORIGINAL):
        prompt = prompt_of(tokenizer, book, tokens)
        answer = client.completions.create(model=str(folder), prompt=prompt, max_tokens=8, temperature=0)
        assert answer.choices[0].text == greedy(folder, prompt, 8)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(tokenizer(prompt).input_ids)


def test_chat_and_streaming_give_the_same_text(client: openai.OpenAI, folder: Path) -> None:
    messages = [{"role": "user", "content": "the grass is green"}]
    options = {"model": str(folder), "messages": messages, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    assert whole == greedy(folder, "the grass is green\n", 8)
    parts = [part.choices[0].delta.content or "" for part in client.chat.completions.create(**options, stream=True)]
    assert len(parts) > 2
    assert "".join(parts) == whole


def test_an_answer_ends_with_the_window(
    client: openai.OpenAI, folder: Path, tokenizer: PreTrainedTokenizerBase, book: Path
) -> None:
    prompt = prompt_of(tokenizer, book, TARGET - 10)
    answer = client.completions.create(model=str(folder), prompt=prompt, max_tokens=100, temperature=0)
    assert answer.usage is not None
    assert answer.usage.total_tokens == TARGET


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fills_the_window_is_refused_in_one_line(
    client: openai.OpenAI, folder: Path, tokenizer: PreTrainedTokenizerBase, book: Path, stream: bool
) -> None:
    prompt = prompt_of(tokenizer, book, TARGET + 20)
    with pytest.raises(openai.BadRequestError, match=rf"the model's window {TARGET}: shorten the prompt"):
        client.completions.create(model=str(folder), prompt=prompt, max_tokens=8, stream=stream)


def test_the_model_is_listed_and_no_other_is_served(client: openai.OpenAI, folder: Path) -> None:
    assert [model.id for model in client.models.list()] == [str(folder)]
    with pytest.raises(openai.BadRequestError, match="pinned"):
        client.completions.create(model="another", prompt="a", max_tokens=1)


def test_nothing_else_is_served(folder: Path) -> None:
    with TestClient(serving(str(folder), device="cpu")) as client:
        for path in ("/reset", "/load_model", "/v1/systemone", "/v1/audio/transcriptions"):
            assert client.post(path, json={}).status_code == 404
        assert client.get("/health").json() == {"status": "ok"}


def test_chatting_without_a_template_is_refused(folder: Path, tmp_path: Path) -> None:
    load_tokenizer(folder.parent / "tokenizer").save_pretrained(tmp_path)
    ls.load(folder).save_pretrained(tmp_path)
    messages = [{"role": "user", "content": "hello"}]
    with TestClient(serving(str(tmp_path), device="cpu")) as client:
        answer = client.post("/v1/chat/completions", json={"model": str(tmp_path), "messages": messages})
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


def test_a_port_in_use_is_one_line() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(ConfigError, match="choose another --port"):
        listen("127.0.0.1", first.getsockname()[1])
