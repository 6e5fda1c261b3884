"""An extended model behind transformers' own OpenAI-compatible server; what is added is that its window has an end.

The server is transformers' (`transformers serve`), with one model in it that longspan loads. A prompt that fills the
window is refused, and an answer ends at the window's end, where the library would go on into positions that the model
was never extended to.
"""

from __future__ import annotations

import inspect
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from transformers import GenerationConfig, PreTrainedModel
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import BaseGenerateManager, GenerateManager, GenerationState

from longspan.errors import ConfigError
from longspan.models import load_model, load_tokenizer
from longspan.surgery import target_length

SERVED = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/models", "/health")
"""The library's server also loads and drops models on request, and hears speech: not here."""
BAD_REQUEST = 400


def serving(folder: str, *, device: str = "auto", dtype: str | None = None, trust_remote_code: bool = False) -> FastAPI:
    """The server's application, the model loaded: what `SERVED` lists

    Args:
        folder: a model as every command takes it; clients name it like that, or leave the name out.

    Raises:
        CheckpointError: the model or its tokenizer cannot be loaded.
    """
    manager = _OneModel(folder, device, dtype, trust_remote_code)
    state = _BoundedState()
    handlers = {
        "chat_handler": _Chat(manager, state),
        "completion_handler": CompletionHandler(manager, state),
        "response_handler": ResponseHandler(manager, state),
    }
    # versions differ in what else they serve, such as transcriptions
    others = [name for name in inspect.signature(build_server).parameters if name.endswith("_handler")]
    unused = {name: None for name in others if name not in handlers}
    app = build_server(manager, **handlers, **unused, generation_state=state)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in SERVED]
    app.add_exception_handler(HTTPException, _as_openai_says_it)
    return app


async def _as_openai_says_it(request: Request, error: Exception) -> JSONResponse:
    """A refusal in the form that OpenAI's clients show to their users."""
    assert isinstance(error, HTTPException)
    told = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": told}, status_code=error.status_code)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port` (0: a free one).

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot listen at {host}:{port}: {reason}; choose another --port or --host") from error


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests until the process is told to end; Ctrl-C lets answers in progress finish first."""
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


class _OneModel(ModelManager):
    """Serves the model in one folder, loaded as every other command loads it."""

    def __init__(self, folder: str, device: str, dtype: str | None, trust_remote_code: bool) -> None:
        self.tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self.model = load_model(folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        super().__init__(force_model=folder)

    def _load_processor(self, *args: Any, **kwargs: Any) -> Any:
        return self.tokenizer

    def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        return self.model

    def get_gen_models(self) -> list[dict[str, Any]]:
        """What `/v1/models` lists."""
        return [{"id": self.force_model, "object": "model", "owned_by": "longspan", "created": 0}]


class _Chat(ChatCompletionHandler):
    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """As the library answers, with a line for a tokenizer that cannot make a prompt of messages."""
        if not self.model_manager.tokenizer.chat_template:
            detail = "this model's tokenizer has no chat template: give it one, or use /v1/completions"
            raise HTTPException(BAD_REQUEST, detail)
        return await super().handle_request(body, request_id)


class _BoundedManager(GenerateManager):
    """Generates within the model's window."""

    def generate_streaming(
        self, model: PreTrainedModel, processor: Any, inputs: dict[str, Any], gen_config: GenerationConfig, **more: Any
    ) -> Any:
        keep_within(model, inputs, gen_config)
        return super().generate_streaming(model, processor, inputs, gen_config, **more)

    async def generate_non_streaming(
        self, model: PreTrainedModel, processor: Any, inputs: dict[str, Any], gen_config: GenerationConfig, **more: Any
    ) -> Any:
        keep_within(model, inputs, gen_config)
        return await super().generate_non_streaming(model, processor, inputs, gen_config, **more)


class _BoundedState(GenerationState):
    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        """The one that generates for `model_id`."""
        return self._generate_managers.setdefault(model_id, _BoundedManager())


def keep_within(model: PreTrainedModel, inputs: dict[str, Any], config: GenerationConfig) -> None:
    """Have the answer to `inputs` end where the model's window does.

    Raises:
        HTTPException: the prompt alone fills the window.
    """
    window, prompt = target_length(model), inputs["input_ids"].shape[-1]
    if prompt >= window:
        raise HTTPException(
            BAD_REQUEST,
            f"the prompt has {prompt} tokens and the model's window {window}: shorten the prompt by at least"
            f" {prompt - window + 1}, or extend the model further",
        )
    config.max_new_tokens = min(config.max_new_tokens or window, window - prompt)
