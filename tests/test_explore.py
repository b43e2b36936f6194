"""The exploratory notebooks run from top to bottom on the bundled sample, without a warning and without a network."""

import socket
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from house import ROOT, Notebook
from test_lessons import run_cells

NOTEBOOKS = sorted((ROOT / "nbs" / "explore").glob("*.ipynb"))


def test_there_is_one_to_start_from() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("an exploratory notebook runs offline")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    notebook = Notebook.read(path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_cells(notebook, notebook.code, namespace)
    plt.close("all")
    assert not list(tmp_path.iterdir()), "it writes nothing"
