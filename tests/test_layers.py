"""The numbers are the layers, folders sit on top, and research is pure; each rule is shown red on a toy tree."""
from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import HAND_WRITTEN, PACKAGE, ROOT, numbered

TOP = 105  # __init__, which offers names of all
FOLDERS = {"store": 100, "market": 101, "engine": 102, "dashboard": 103, "reports": 103, "__main__": 104}
SURFACES = {"ipywidgets", "anywidget", "voila", "papermill"}
IMPURE_MODULES = set(
    "aiosmtplib asyncio concurrent ftplib glob httpx io logging multiprocessing os pathlib pickle queue random requests"
    " secrets select shutil signal socket sqlalchemy sqlite3 ssl subprocess tempfile threading time urllib".split()
)
IMPURE_CALLS = set(
    "open print input now utcnow today read_csv read_parquet read_json read_pickle read_excel to_csv to_parquet"
    " to_pickle to_sql load save savez loadtxt savetxt seed".split()
)


def imports(tree: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever in it; `inside` is the package of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            whole = module == PACKAGE  # `from portfolio_research import hrp` imports the module hrp
            yield from ((node.lineno, f"{module}.{a.name}" if whole else module) for a in node.names)


def layers(root: Path) -> dict[str, int]:
    """How high each module or folder of the package stands."""
    numbers = {n.module: int(n.path.name[:2]) for n in numbered(root) if n.module}
    return numbers | FOLDERS


def import_problems(root: Path) -> list[str]:
    """Imports against the order, and libraries imported where they do not belong."""
    height, problems = layers(root), []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        inside = path.relative_to(root).parent.parts
        part = inside[1] if len(inside) > 1 else path.stem
        if part in ("_modidx", "__init__") and len(inside) == 1:
            continue
        own = height.get(part)
        where = path.relative_to(root)
        if own is None:
            problems.append(f"{where}: no notebook and no known folder, so it has no layer")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        drawn = [range(n.lineno, (n.end_lineno or 0) + 1) for n in ast.walk(tree)
                 if isinstance(n, ast.FunctionDef) and n.name == "plot"]  # fmt: skip
        for line, name in imports(tree, inside):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if target.endswith("plots") and any(line in body for body in drawn):
                continue  # a result that can draw itself asks for its picture when, and only when, it is asked for
            if top == PACKAGE and target not in (part, "__version__") and height.get(target, TOP) >= own:
                problems.append(f"{where}:{line}: {part} imports {name}, which does not lie below it")
            if top in ("nbdev", "fastcore", "execnb"):
                problems.append(f"{where}:{line}: {top} is for development only")
            if top == "matplotlib" and not part.endswith("plots"):
                problems.append(f"{where}:{line}: matplotlib belongs to modules of plots")
            if top in SURFACES and part not in ("dashboard", "reports"):
                problems.append(f"{where}:{line}: {top} belongs to dashboard and reports")
    return problems


def purity_problems(root: Path) -> list[str]:
    """What research, decisions (02-23) and alerts may not do: files, network, clock, logging, shared state."""
    problems = []
    for notebook in numbered(root):
        if not (2 <= int(notebook.path.name[:2]) <= 23 or notebook.module.startswith("alert") or notebook.module == "fleet"):
            continue
        path = root / PACKAGE / f"{notebook.module}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = imports(tree, (PACKAGE,))
        found = [(line, f"imports {name}") for line, name in named if name.split(".")[0] in IMPURE_MODULES]
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                found.append((node.lineno, f"keeps state in global {', '.join(node.names)}"))
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in IMPURE_CALLS:
                    found.append((node.lineno, f"calls {called}()"))
        problems += [f"{path.relative_to(root)}:{line}: {what}; 02 to 23 and alerts are pure" for line, what in found]
    return problems


def test_imports_follow_the_layers() -> None:
    assert import_problems(ROOT) == []


def test_research_and_decisions_are_pure() -> None:
    assert purity_problems(ROOT) == []


def test_flat_files_are_modules_of_notebooks() -> None:
    flat = {p.stem for p in (ROOT / PACKAGE).glob("*.py")} - HAND_WRITTEN
    assert flat == {n.module for n in numbered(ROOT)}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_the_package_loads_no_numbers() -> None:
    heavy = {"numpy", "pandas", "scipy", "sklearn", "matplotlib"}
    assert not loaded_by(f"import {PACKAGE}") & heavy
    assert loaded_by(f"from {PACKAGE} import HierarchicalRiskParity") >= {"numpy", "pandas"}  # the probe sees them


def test_public_names_are_there_and_agree() -> None:
    import portfolio_research

    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed_imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    typed = {alias.name: node.module for node in typed_imports for alias in node.names}
    assert typed == portfolio_research._HOME
    assert sorted(portfolio_research.__all__) == sorted(typed)
    for name in portfolio_research.__all__:
        assert getattr(portfolio_research, name).__name__ == name
        assert name in dir(portfolio_research)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = portfolio_research.nonsense


# ---------------------------------------------------------------- shown red
CLEAN = {
    "10_a": "import numpy", "12_b": "from .a import x", "40_plots": "import matplotlib.pyplot",
    "41_performance_plots": "import matplotlib\nfrom .plots import x",
}  # fmt: skip


def tree(root: Path, modules: dict[str, str], plain: dict[str, str] | None = None) -> Path:
    """A toy package: numbered notebooks with their modules, and plain files."""
    (root / "nbs").mkdir(parents=True)
    for stem, code in modules.items():
        name = stem[3:]
        cell = {"cell_type": "code", "source": f"#| default_exp {name}", "metadata": {}, "outputs": []}
        (root / "nbs" / f"{stem}.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}}))
        plain = {f"{name}.py": code, **(plain or {})}
    for name, code in (plain or {}).items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return root


def test_a_clean_toy_tree_is_green(tmp_path: Path) -> None:
    plain = {
        "store/paths.py": "from portfolio_research.a import x",
        "engine/bot.py": "from ..store.paths import x\nfrom . import risk",
        "reports/runner.py": "import papermill",
        "__main__.py": "from .reports.runner import x",
    }
    root = tree(tmp_path, CLEAN, plain)
    assert import_problems(root) == purity_problems(root) == []


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        ("a.py", "from .b import x", "does not lie below"),
        ("a.py", "def f():\n    from portfolio_research import b", "does not lie below"),
        ("b.py", "from portfolio_research.store.paths import x", "does not lie below"),
        ("plots.py", "import portfolio_research.engine.bot", "does not lie below"),
        ("store/paths.py", "from portfolio_research.market.feeds import x", "does not lie below"),
        ("market/feeds.py", "from ..engine import bot", "does not lie below"),
        ("dashboard/server.py", "from ..reports import runner", "does not lie below"),
        ("engine/bot.py", "from portfolio_research import HierarchicalRiskParity", "does not lie below"),
        ("engine/bot.py", "from portfolio_research.__main__ import main", "does not lie below"),
        ("b.py", "import matplotlib.pyplot as plt", "belongs to modules of plots"),
        ("plots.py", "from .performance_plots import x", "does not lie below"),
        ("engine/bot.py", "import ipywidgets", "belongs to dashboard"),
        ("b.py", "from fastcore.all import *", "development only"),
        ("orphan.py", "", "no layer"),
    ],
)
def test_a_wrong_import_is_found(file: str, code: str, says: str, tmp_path: Path) -> None:
    root = tree(tmp_path, CLEAN)
    path = root / PACKAGE / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    (problem,) = import_problems(root)
    assert file in problem and says in problem


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio",
        "from pathlib import Path",
        "import logging",
        "def f():\n    import time",
        "from datetime import datetime\ndef f():\n    return datetime.now()",
        "import pandas as pd\ndef f():\n    return pd.read_csv('x')",
        "def f():\n    open('x')",
        "def f():\n    print('x')",
        "def f():\n    global x\n    x = 1",
        "import numpy as np\ndef f():\n    np.random.seed(1)",
    ],
)
def test_impure_research_is_found(code: str, tmp_path: Path) -> None:
    root = tree(tmp_path, CLEAN | {"12_b": code})
    (problem,) = purity_problems(root)
    assert "b.py" in problem and "pure" in problem
    assert purity_problems(tree(tmp_path / "above", {"30_b": code})) == []
