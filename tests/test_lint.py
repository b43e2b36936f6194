"""The gates of style, types and coverage, shown red on a toy package by the commands that `make` runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT

GOOD = '"""A toy."""\n\n\ndef double(value: float) -> float:\n    """Twice the value."""\n    return 2 * value\n'


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A package of one module, with the house's own Makefile and settings."""
    for name in ("Makefile", "settings.ini", ".ruff.toml", ".coveragerc"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("portfolio_research", "portfolio_research/store"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "portfolio_research" / "store" / "toy.py").write_text(GOOD)
    return tmp_path


def lint(toy: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "lint", f"VENV={sys.prefix}", "--old-file", f"{sys.prefix}/.dev"]
    return subprocess.run(command, cwd=toy, capture_output=True, text=True, timeout=120)


def test_a_clean_package_is_green(toy: Path) -> None:
    assert lint(toy).returncode == 0, lint(toy)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("\n\ndef half(value):\n    return value / 2\n", "no-untyped-def"),
        ('\n\ndef name() -> str:\n    """A name."""\n    return double(1.0)\n', "return-value"),
        ("\n\nimport os\n", "F401"),
        (f"\n\nLONG = '{'x' * 140}'\n", "E501"),
    ],
)
def test_what_lint_must_not_let_through(toy: Path, added: str, told: str) -> None:
    (toy / "portfolio_research" / "store" / "toy.py").write_text(GOOD + added)
    done = lint(toy)
    assert done.returncode != 0 and told in done.stdout + done.stderr


@pytest.mark.parametrize(("calls", "green"), [("double(1)", True), ("", False)])
def test_untested_code_is_found(toy: Path, calls: str, green: bool) -> None:
    script = toy / "use.py"
    script.write_text(f"from portfolio_research.store.toy import *\n{calls}\n")
    for step in (["run", "use.py"], ["combine", "--quiet"], ["report"]):
        done = subprocess.run(
            [sys.executable, "-m", "coverage", *step], cwd=toy, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode == 0) == green, done
    assert green or "less than fail-under" in done.stdout + done.stderr
