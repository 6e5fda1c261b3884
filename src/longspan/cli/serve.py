"""`longspan serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

from typing import Annotated

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    *,
    common: Common,
) -> None:
    """Serve a model to OpenAI clients, on transformers' own server; needs `pip install longspan[serve]`."""
    from longspan.errors import ConfigError

    common.prepare()
    try:
        from longspan.serve import listen, serve, serving
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'longspan[serve]'") from error
    listening = listen(host, port)
    app = serving(model, device=common.device or "auto", dtype=common.dtype, trust_remote_code=common.trust_remote_code)
    common.say(f"{model} at http://{host}:{listening.getsockname()[1]}/v1, as model '{model}'; Ctrl-C ends it")
    try:
        serve(app, listening)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the server has ended") from None
