"""Every lesson of a numbered notebook holds against the generated module, not only inside the notebook, and shows what
is stored: one run proves both, for `test_generated_files_are_in_step` proves that the module is the exported cells."""
from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from house import PACKAGE, ROOT, numbered, stale_outputs
from replay import Code, Failed, Outputs, replay

NUMBERED = [notebook.path for notebook in numbered(ROOT)]


@pytest.mark.parametrize("path", NUMBERED, ids=[path.stem for path in NUMBERED])
def test_lessons_hold_against_the_module_and_stored_outputs_are_fresh(path: Path) -> None:
    assert stale_outputs(path) == []


def test_the_package_under_test_is_this_checkout() -> None:
    package = importlib.import_module(PACKAGE)
    assert package.__file__ is not None and Path(package.__file__).parent == ROOT / PACKAGE


# ---------------------------------------------------------------- shown red
DOUBLE = "#| export\ndef double(x):\n    return 2 * x"
SCALED = "#| export\ndef double(x):\n    return factor * x"


def run(folder: Path, *cells: str, module: str = "", strict: bool = False) -> Outputs:
    """Run cells against a module with this text."""
    (folder / "toy_module.py").write_text(module)
    codes = [Code(str(i), text, text.startswith("#| export")) for i, text in enumerate(cells)]
    return replay(codes, "toy_module", folder, strict=strict)


def test_a_lesson_that_only_passes_in_the_notebook_is_found(tmp_path: Path) -> None:
    cells = "factor = 2", SCALED, "assert double(2) == 4"
    inside = [Code(str(i), text, exported=False) for i, text in enumerate(cells)]
    replay(inside, None, tmp_path)  # inside the notebook all is well
    with pytest.raises(Failed, match=r"(?s)cell 2.*NameError.*factor"):
        run(tmp_path, *cells, module=SCALED)


def test_a_sabotaged_module_is_found(tmp_path: Path) -> None:
    cells = DOUBLE, "assert double(2) == 4"
    run(tmp_path, *cells, module=DOUBLE)
    with pytest.raises(Failed, match=r"(?s)cell 1.*AssertionError"):
        run(tmp_path, *cells, module=DOUBLE.replace("2 *", "3 *"))


def test_a_lesson_that_runs_ahead_of_its_export_is_found(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"(?s)cell 0.*NameError.*double"):
        run(tmp_path, "assert double(2) == 4", DOUBLE, module=DOUBLE)


def test_a_name_that_the_module_lacks_is_found(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"(?s)cell 1.*NameError.*double"):
        run(tmp_path, DOUBLE, "assert double(2) == 4", module="")


def test_every_way_to_bind_a_name_is_known(tmp_path: Path) -> None:
    module = """#| export
import os.path
from math import pi as p
a, (b, *c) = 1, (2, 3)
d: int = 4
if True:
    e = 5
for f in [6]:
    pass
class G:
    pass
async def h():
    i = 7
"""
    run(tmp_path, module, "os.path, p, a, b, c, d, e, f, G, h", module=module)
    with pytest.raises(Failed, match=r"NameError.*'i'"):
        run(tmp_path, module, "i", module=module)


def test_lessons_may_await_and_keep_tasks_across_cells(tmp_path: Path) -> None:
    later = "import asyncio\nlater = asyncio.create_task(asyncio.sleep(0, 'done'))"
    run(tmp_path, later, "assert await later == 'done'")
    with pytest.raises(Failed, match="AssertionError"):
        run(tmp_path, "import asyncio\nassert await asyncio.sleep(0, False)")


def test_a_loop_inside_the_loop_fails_as_in_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="running event loop"):
        run(tmp_path, "import asyncio\nasyncio.run(asyncio.sleep(0))")


def test_what_a_cell_shows_is_what_a_kernel_stores(tmp_path: Path) -> None:
    figure = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()"
    cells = "1 + 1", "_ + 1;", f"{figure}\nplt.show()", figure, f"{figure}\nplt.close()\nfigure", "print(1)\n2", "None"
    shown = [[sorted(o.get("data", {o.get("name"): ""})) for o in outputs] for outputs in run(tmp_path, *cells).values()]
    picture = ["image/png", "text/plain"]
    assert shown == [[["text/plain"]], [], [picture], [picture], [picture], [["stdout"], ["text/plain"]], []]


def test_a_warning_is_shown_once_and_each_notebook_begins_anew(tmp_path: Path) -> None:
    cells = "import warnings, numpy, pandas", "warnings.warn('careful')", "numpy.set_printoptions(precision=2)", "2 / 3"
    for _ in range(2):
        said = run(tmp_path, *cells, "numpy.array([1 / 3])", "numpy.random.seed(1)", module="first = True")
        assert "careful" in said["1"][0]["text"] and said["4"][0]["data"]["text/plain"] == "array([0.33])"
        assert run(tmp_path, *cells[:2], "numpy.array([1 / 3])")["2"][0]["data"]["text/plain"] == "array([0.33333333])"


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import warnings\nwarnings.warn('careful')", "UserWarning: careful"),
        ("import socket\nsocket.create_connection(('192.0.2.1', 9))", "offline"),
        ("open('left.txt', 'w').close()", r"writes \['left.txt'\]"),
    ],
    ids=["warning", "network", "file"],
)
def test_what_an_exploratory_notebook_must_not_do_is_found(cell: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=says):
        run(tmp_path, cell, strict=True)


def test_an_exploratory_notebook_may_talk_to_this_machine(tmp_path: Path) -> None:
    server = "import socket\nserver = socket.create_server(('127.0.0.1', 0))"
    run(tmp_path, server, "socket.create_connection(server.getsockname()).close()\nserver.close()", strict=True)


def test_a_process_that_dies_is_found(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="died"):
        run(tmp_path, "import os\nos._exit(0)")
