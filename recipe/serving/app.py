"""A saved model in the browser: make app.

    python -m recipe.serving.app --model_name_or_path outputs/freeze
    python -m recipe.serving.app --model_name_or_path outputs/freeze --space FOLDER

It listens on this machine alone unless --server_name says otherwise, and asks nothing of any other. With --space it
writes a Hugging Face Space that shows the same page.
"""

import contextlib
import errno
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.arguments import RecipeArguments
from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse
from recipe.errors import RunError, UserError
from recipe.process.exiting import exit_on_error
from recipe.process.progress import say, told_while_it_lasts
from recipe.process.signals import stop_requests
from recipe.reporting.model_card import Scored
from recipe.serving.asking import ask_validation, load_asked
from recipe.serving.space import write_space

FIRST_PORT, PORTS = 7860, 100  # as Gradio looks for a free one


def serve(arguments: RecipeArguments, server_name: str, server_port: int | None) -> None:
    """Answer on a page until a signal ends it; what is uploaded lies in a folder that ends with it.

    Raises:
        UserError: the extra `app` is not installed, the model is not right, or the address cannot be listened on.
        Stopped: it has been ended.
    """
    with stop_requests(), _gradio_folder() as folder, _listen(server_name, server_port) as listener:
        try:
            import uvicorn
            from fastapi import FastAPI

            from recipe.serving.page import FONTS, Tried, build_page
        except ImportError as error:
            raise UserError("app needs Gradio: pip install -c constraints.txt -e '.[app]', or make app") from error
        import gradio as gr

        asked = load_asked(arguments)
        try:
            with told_while_it_lasts("answering the validation split"):
                validation: Scored | None = ask_validation(asked)
        except (UserError, RunError) as error:
            validation = None
            say(arguments.training, f"note: no examples and no mistakes are shown: {error}")
        page = build_page(Tried(asked, validation, folder)).queue(max_size=64)
        theme = gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
        own: dict[str, Any] = {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False}
        own |= {"enable_monitoring": False, "pwa": False, "show_error": False, "max_file_size": "100mb"}
        app = gr.mount_gradio_app(FastAPI(openapi_url=None), page, path="/", theme=theme, **own)
        say(arguments.training, f"page            http://{_address(listener)}  (Ctrl-C ends it)")
        config = uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            asked.ended.set()


@contextlib.contextmanager
def _gradio_folder() -> Iterator[Path]:
    """A folder for all that Gradio keeps, which reads its settings when it is imported."""
    with tempfile.TemporaryDirectory(prefix="freeze-recipe-app-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        yield Path(folder)


def _listen(name: str, port: int | None) -> socket.socket:
    """A socket that listens there; on the first port that is free where none is named.

    Raises:
        UserError: nothing can listen there.
    """
    tried = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    for each in tried:
        try:
            return socket.create_server((name, each), family=family)
        except (OSError, OverflowError) as error:
            if each == tried[-1] or getattr(error, "errno", None) != errno.EADDRINUSE:
                reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
                raise UserError(
                    f"--server_name {name} --server_port {each}: {reason}; an address of this machine and a free port "
                    "are expected (0.0.0.0 lets other machines in)"
                ) from error
    raise AssertionError


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def build_parser() -> OneLineParser:
    """The parser of the page's own flags."""
    parser = OneLineParser(
        prog="python -m recipe.serving.app",
        description="A saved model in the browser. Other flags are those of run_freeze.py --do_predict.",
    )
    parser.add_argument("--server_name", default="127.0.0.1", help="the address to listen on; 0.0.0.0: all of them")
    parser.add_argument("--space", help="write a folder that is a Hugging Face Space, and serve nothing")
    parser.add_argument("--no_examples", action="store_true", help="with --space: no sentences of the validation split")
    parser.add_argument("--server_port", type=int, help=f"the port. Default: the first free one from {FIRST_PORT} on")
    return parser


def main() -> None:
    """The page from the command line."""
    ours, words = build_parser().parse_known_args(sys.argv[1:])
    if ours.no_examples and ours.space is None:
        raise UserError("--no_examples: it goes with --space FOLDER")
    arguments = parse(["--do_predict", *words])
    if ours.space is None:
        serve(arguments, ours.server_name, ours.server_port)
    else:
        write_space(arguments, ours.space, sentences=not ours.no_examples)


if __name__ == "__main__":
    exit_on_error(main)
