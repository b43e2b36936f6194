"""The exploratory notebooks run from top to bottom on the bundled sample, without a warning and without a network, and
show what is stored. One that compares with other packages, or reads reference data, is skipped where these are not here."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from house import DATA_VARIABLE, ROOT, HouseError, Notebook, excuse, missing_data, missing_peers, stale_outputs

NOTEBOOKS = sorted((ROOT / "nbs" / "explore").glob("*.ipynb"))


def test_there_is_one_to_start_from() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook_runs_and_stored_outputs_are_fresh(path: Path) -> None:
    if reason := excuse(Notebook.read(path)):
        pytest.skip(reason)
    assert stale_outputs(path) == []


# ---------------------------------------------------------------- shown red
def notebook(root: Path, text: str, folder: str = "explore") -> Notebook:
    """A notebook in a house whose peers are quantstats_nowhere and empyrical_nowhere-reloaded."""
    peers = "extra_peers = quantstats_nowhere>=1 empyrical_nowhere-reloaded[all]>=0.5 numpy>=2"
    (root / "settings.ini").write_text(f"[DEFAULT]\n{peers}\n")
    path = root / "nbs" / folder / "toy.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"id": "a", "cell_type": "code", "source": text, "metadata": {}, "outputs": [], "execution_count": None}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}}))
    return Notebook.read(path)


def test_missing_peers_are_named_with_the_remedy(tmp_path: Path) -> None:
    text = "import numpy\nfrom empyrical_nowhere.stats import x\nimport quantstats_nowhere.stats as stats"
    reason = missing_peers(notebook(tmp_path, text), tmp_path)
    assert reason == "empyrical_nowhere, quantstats_nowhere not installed; to run it: pip install -e '.[peers]'"


@pytest.mark.parametrize(
    "text",
    [
        "import stranger_nowhere",
        "import quantstats_nowhere\nimport stranger_nowhere",
        "import empyrical_now",  # the beginning of a peer's name is not the peer
        "import portfolio_research.nowhere",
        "import importlib\nimportlib.import_module('quantstats_nowhere')",
        "raise ModuleNotFoundError('quantstats_nowhere')",
    ],
)
def test_nothing_else_excuses_a_notebook(text: str, tmp_path: Path) -> None:
    made = notebook(tmp_path, text)
    assert missing_peers(made, tmp_path) is None
    with pytest.raises(HouseError, match="ModuleNotFoundError"):
        stale_outputs(made.path, tmp_path)


def test_a_notebook_whose_peers_are_here_must_run(tmp_path: Path) -> None:
    made = notebook(tmp_path, "import numpy\nnumpy.nowhere")
    assert missing_peers(made, tmp_path) is None
    with pytest.raises(HouseError, match="AttributeError"):
        stale_outputs(made.path, tmp_path)


def test_only_exploratory_notebooks_are_excused(tmp_path: Path) -> None:
    assert missing_peers(notebook(tmp_path, "import quantstats_nowhere", "reports"), tmp_path) is None


def test_missing_data_are_named_and_data_beside_the_project_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    text = f"import os\nlen(os.listdir(os.environ['{DATA_VARIABLE}']))"
    assert missing_data(notebook(root, "1"), root) is None
    assert missing_data(notebook(root, text, "reports"), root) is None
    made = notebook(root, text)
    assert excuse(made, root) == f"no reference data; to run it: set {DATA_VARIABLE} to the folder that holds them"
    monkeypatch.delenv(DATA_VARIABLE)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert excuse(made, root) is None and Path(os.environ[DATA_VARIABLE]) == tmp_path / "shared" / "data"
    monkeypatch.delenv(DATA_VARIABLE)
