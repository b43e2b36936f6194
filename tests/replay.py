"""Run a notebook against its generated module, as a kernel would run it, but in a process that is quickly made.

A kernel of its own costs every notebook three seconds of starting and importing. Here a process that has the libraries
imported, and nothing else done, is forked for each notebook.
"""
from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, chdir
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from symtable import symtable
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import Any, NamedTuple, NoReturn
from unittest.mock import patch

import pandas
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import activate_matplotlib
from IPython.utils.capture import capture_output
from matplotlib_inline.backend_inline import configure_inline_support
from traitlets.config import Config

LIBRARIES = ["IPython.core.interactiveshell", "matplotlib.pyplot", "pandas", "scipy.stats", "sklearn.base"]
INLINE = "module://matplotlib_inline.backend_inline"
LONGEST = 300  # seconds for one cell, then it fails
Outputs = dict[str, list[dict[str, Any]]]  # as a notebook stores them, by cell id


class Code(NamedTuple):
    """A code cell."""

    id: str
    source: str
    exported: bool


class Failed(Exception):
    """A cell failed; the message holds its id and the traceback."""


def replay(cells: list[Code], module: str | None, root: Path, *, strict: bool = False) -> Outputs:
    """Run cells in a process and an empty folder of their own.

    A cell that defines names to export gets those of the module instead. So a lesson that passes, passes for users of
    the module, and still sees no name before the notebook has come to it. Strict: no other machine, no warning, no file.
    """
    unmeasured = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}  # lessons are not what coverage is about
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, unmeasured), ProcessPoolExecutor(1, context) as apart:
        try:
            return apart.submit(here, cells, module, root, strict, dict(os.environ)).result()
        except BrokenProcessPool:
            raise Failed("Its process died.") from None


def here(cells: list[Code], module: str | None, root: Path, strict: bool, environment: dict[str, str]) -> Outputs:
    """Run cells in this process, which was forked from one that knows the environment of an earlier hour."""
    os.environ.update(environment)
    sys.path.insert(0, str(root))
    with TemporaryDirectory() as folder, chdir(folder), ExitStack() as rules:
        if strict:
            rules.enter_context(warnings.catch_warnings(action="error"))
            rules.enter_context(patch.object(socket.socket, "connect", within(socket.socket.connect)))
        outputs = asyncio.run(run_cells(cells, vars(import_module(module)) if module else {}))
        if strict and (written := os.listdir(folder)):
            raise Failed(f"It writes {written}.")
    return outputs


def within(connect: Any) -> Any:
    """A connect that reaches this machine only: a notebook may start a cluster here, and runs offline."""

    def only_here(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise Failed("A notebook runs offline.")
        return connect(self, address)

    return only_here


async def run_cells(cells: list[Code], module: dict[str, Any]) -> Outputs:
    """Run cells one after the other in one event loop, with figures inline."""
    signal.signal(signal.SIGALRM, too_long)
    unremembered = Config(HistoryManager={"enabled": False})
    shell = InteractiveShell.instance(
        config=unremembered, colors="nocolor", displayhook_class=Results, display_pub_class=CapturingDisplayPublisher
    )
    activate_matplotlib(INLINE)
    configure_inline_support(shell, INLINE)
    pandas.set_option("display.max_columns", 20)  # what pandas takes in a kernel, which it must see when imported
    outputs: Outputs = {}
    for cell in cells:
        if cell.exported:
            shell.user_ns |= {name: module[name] for name in bound(cell) if name in module}
            outputs[cell.id] = []
        else:
            outputs[cell.id] = await run_cell(shell, cell)
    return outputs


async def run_cell(shell: InteractiveShell, cell: Code) -> list[dict[str, Any]]:
    """Run one cell; what it shows."""
    shell.display_pub.outputs = shell.displayhook.outputs = shown = []
    signal.alarm(LONGEST)
    with capture_output(display=False) as printed:
        done = await shell.run_cell_async(
            cell.source, transformed_cell=shell.transform_cell(cell.source), store_history=True
        )
        shell.events.trigger("post_execute")  # figures not shown yet are shown now
    signal.alarm(0)
    if error := done.error_before_exec or done.error_in_exec:
        raise Failed(f"cell {cell.id}:\n{''.join(format_exception(error))}")
    streams = [{"name": name, "text": getattr(printed, name)} for name in ("stdout", "stderr")]
    return [stream for stream in streams if stream["text"]] + [{"data": item["data"]} for item in shown]


class Results(DisplayHook):
    """Keeps what a cell's last line shows."""

    outputs: list[dict[str, Any]]

    def write_output_prompt(self) -> None:
        """No prompt."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: object = None) -> None:
        self.outputs.append({"data": format_dict})


def bound(cell: Code) -> list[str]:
    """The names that a cell defines, assigns or imports."""
    symbols = symtable(cell.source, cell.id, "exec").get_symbols()
    return [symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()]


def too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"A cell may run for {LONGEST} seconds.")
