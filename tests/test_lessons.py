"""Every lesson of a numbered notebook holds against the generated module, not only inside the notebook."""
from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import linecache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from house import PACKAGE, ROOT, Notebook, numbered, source

NUMBERED = numbered(ROOT)
matplotlib.use("agg")


def run_cells(notebook: Notebook, cells: list[dict[str, Any]], namespace: dict[str, Any]) -> None:
    """Run cells one after the other in one event loop, as a kernel does; tracebacks show the cell."""

    async def run(cell: dict[str, Any]) -> None:
        name, text = f"{notebook.path.name} cell {cell['id']}", source(cell)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        done = eval(compile(text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
        if inspect.iscoroutine(done):
            await done

    with asyncio.Runner() as runner:
        for cell in cells:
            runner.run(run(cell))


def run_lessons(notebook: Notebook, module: dict[str, Any]) -> None:
    """Run all cells but the exported ones, with the names that the generated module has."""
    run_cells(notebook, notebook.lessons, dict(module))


@pytest.mark.no_cover  # lessons are examples; what they leave out is what tests are for
@pytest.mark.parametrize("notebook", NUMBERED, ids=[n.path.stem for n in NUMBERED])
def test_lessons_hold_against_the_module(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context():
        run_lessons(notebook, vars(importlib.import_module(f"{PACKAGE}.{notebook.module}")))
    plt.close("all")


def test_the_package_under_test_is_this_checkout() -> None:
    package = importlib.import_module(PACKAGE)
    assert package.__file__ is not None and Path(package.__file__).parent == ROOT / PACKAGE


# ---------------------------------------------------------------- shown red
def notebook_of(*cells: str) -> Notebook:
    made = [{"id": str(i), "cell_type": "code", "source": text, "metadata": {}} for i, text in enumerate(cells)]
    return Notebook(Path("12_toy.ipynb"), {"cells": made, "metadata": {}})


EXPORTED = "#| export\ndef double(x):\n    return factor * x"


def test_a_lesson_that_only_passes_in_the_notebook_is_found() -> None:
    notebook = notebook_of("factor = 2", EXPORTED, "assert double(2) == 4")
    run_cells(notebook, notebook.code, {})  # inside the notebook all is well
    module: dict[str, Any] = {}
    exec(EXPORTED, module)
    with pytest.raises(NameError, match="factor"):
        run_lessons(notebook, module)


def test_a_sabotaged_module_is_found() -> None:
    notebook = notebook_of("#| export\ndef double(x):\n    return 2 * x", "assert double(2) == 4")
    with pytest.raises(AssertionError):
        run_lessons(notebook, {"double": lambda x: x})


def test_lessons_may_await_and_keep_tasks_across_cells() -> None:
    notebook = notebook_of(
        "import asyncio\nlater = asyncio.create_task(asyncio.sleep(0, 'done'))", "assert await later == 'done'"
    )
    run_lessons(notebook, {})
    with pytest.raises(AssertionError):
        run_lessons(notebook_of("import asyncio\nassert await asyncio.sleep(0, False)"), {})
