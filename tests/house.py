"""The workshop: a notebook as text and back, generated files in step with their notebooks, and what is out of step.

    python tests/house.py edit NB             nbs/NB.ipynb -> .edit/NB.py, as text
    python tests/house.py apply NB            .edit/NB.py -> nbs/NB.ipynb, its module, its outputs
    python tests/house.py sync [--check]      write every generated file anew, or only say which ones are out of step
    python tests/house.py readme              README.md from nbs/index.ipynb (sync does it too)
    python tests/house.py execute [NB] [--check]   run notebooks and store their outputs, or only compare them

NB is a name such as 12_metrics or explore/01_first_portfolio. The gates in tests/ call the same functions.
"""
from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from itertools import accumulate, islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "portfolio_research"
HAND_WRITTEN = {"__init__", "__main__", "_modidx"}  # flat files that no notebook exports
Cell = dict[str, Any]


class HouseError(Exception):
    """Something is not as the house rules want it; the message says what and how to mend it."""


# ---------------------------------------------------------------- reading notebooks
def source(cell: Cell) -> str:
    """A cell's text, whichever of the two forms the file uses."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def directive(cell: Cell, name: str) -> str | None:
    """The argument of `#| name ...` in a code cell ("" if it has none), None without that directive."""
    found = re.search(rf"^#\|\s*{name}\b(.*)$", source(cell), re.M) if cell["cell_type"] == "code" else None
    return found and found[1].strip()


@dataclass(frozen=True)
class Notebook:
    """What the gates want to know of one notebook."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Notebook:
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    @property
    def cells(self) -> list[Cell]:
        return self.content["cells"]

    @property
    def code(self) -> list[Cell]:
        return [c for c in self.cells if c["cell_type"] == "code"]

    @property
    def exports(self) -> list[Cell]:
        return [c for c in self.code if directive(c, "exports?") is not None]

    @property
    def lessons(self) -> list[Cell]:
        apart = ("exports?", "default_exp")
        return [c for c in self.code if source(c).strip() and all(directive(c, d) is None for d in apart)]

    @property
    def module(self) -> str | None:
        return next((name for c in self.code if (name := directive(c, "default_exp"))), None)


def notebooks(root: Path, pattern: str = "**/*.ipynb") -> list[Notebook]:
    """Every notebook under nbs/, or those that match."""
    found = sorted(p for p in (root / "nbs").glob(pattern) if ".ipynb_checkpoints" not in p.parts)
    return [Notebook.read(p) for p in found]


def numbered(root: Path) -> list[Notebook]:
    """The notebooks that are the source of a module."""
    return notebooks(root, "[0-9][0-9]*_*.ipynb")


def generated(root: Path) -> list[Path]:
    """The modules that must come from a notebook: all that lie flat in the package."""
    return sorted(p for p in (root / PACKAGE).glob("*.py") if p.stem not in HAND_WRITTEN)


# ---------------------------------------------------------------- tools
def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command; if it fails, raise with what it said."""
    unmeasured = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}  # tools are not what coverage is about
    everything = os.environ | unmeasured | environment
    done = subprocess.run(command, cwd=cwd, env=everything, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()
        raise HouseError(f"{' '.join(map(str, command[:3]))} ... failed in {cwd.name}:\n{said}")


def tool(name: str) -> Path:
    """A command of the environment that runs this file, whether or not it is activated."""
    return Path(sys.executable).parent / name


def jupytext(*arguments: str | Path) -> None:
    from jupytext.cli import jupytext as convert  # here, for it imports what takes long

    try:
        convert(["-q", *map(str, arguments)])
    except Exception as error:
        raise HouseError(f"jupytext {' '.join(map(str, arguments))}: {error}") from error


def clean(root: Path, notebook: Path | None = None) -> None:
    run(tool("nbdev_clean"), *(["--fname", notebook] if notebook else []), cwd=root)


def export(root: Path, notebook: Path | None = None) -> None:
    run(tool("nbdev_export"), *(["--path", notebook] if notebook else []), cwd=root)


def copy_house(root: Path, to: Path) -> Path:
    """A copy with all that generating needs, so that a check never touches the working tree."""
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.gz", "*.db*")
    for folder in ("nbs", PACKAGE):
        shutil.copytree(root / folder, to / folder, ignore=skip)
    for name in ("settings.ini", "README.md"):
        if (root / name).exists():
            shutil.copy(root / name, to / name)
    return to


# ---------------------------------------------------------------- README
def readme(root: Path) -> str:
    """README.md from the stored cells and outputs of nbs/index.ipynb; links become relative to the top."""

    def relink(match: re.Match[str]) -> str:
        start, target = match.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        return start + (target[3:] if target.startswith("../") else f"nbs/{target}")

    def shown(output: dict[str, Any]) -> str:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if any(kind.startswith("image/") for kind in data):
            raise HouseError("nbs/index.ipynb draws a figure: save it under nbs/images/ and link to it instead.")
        text = "".join(data.get("text/markdown") or data["text/plain"]).rstrip("\n")
        return text if "text/markdown" in data else f"```\n{text}\n```"

    parts = ["<!-- Rendered from nbs/index.ipynb by `make sync`; edit the notebook, not this file. -->"]
    for cell in Notebook.read(root / "nbs" / "index.ipynb").cells:
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r'(\]\(|src="|srcset="|href=")([^)"\s]+)', relink, source(cell)).strip())
        elif cell["cell_type"] == "code" and directive(cell, "hide") is None and source(cell).strip():
            code = "\n".join(line for line in source(cell).splitlines() if not line.startswith("#|"))
            parts += [f"```python\n{code.strip()}\n```", *map(shown, cell["outputs"])]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- sync
def regenerate(root: Path) -> None:
    """Write every generated file anew: modules, index, clean notebooks, README."""
    for module in generated(root):
        module.unlink()
    export(root)
    clean(root)
    (root / "README.md").write_text(readme(root), encoding="utf-8")


def files(root: Path) -> dict[str, bytes]:
    """What `regenerate` writes, by path."""
    paths = [*(root / PACKAGE).glob("*.py"), *(n.path for n in notebooks(root)), root / "README.md"]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths if p.exists()}


def structure_problems(root: Path) -> list[str]:
    """What exporting would hide: two notebooks for one module, a stem that is not the module's, lost metadata."""
    problems = []
    owners = Counter(n.module for n in notebooks(root) if n.module)
    problems += [f"{name}: {n} notebooks have this default_exp, the last wins" for name, n in owners.items() if n > 1]
    for notebook in notebooks(root):
        name = str(notebook.path.relative_to(root))
        stem = re.fullmatch(r"\d\d[a-z]?_(\w+)", notebook.path.stem)
        wanted = stem[1] if stem and notebook.path.parent == root / "nbs" else None
        if notebook.module != wanted:
            problems.append(f"{name}: default_exp is {notebook.module}, its place and name ask for {wanted}")
        if notebook.content["metadata"].get("kernelspec", {}).get("name") != "python3":
            problems.append(f"{name}: no kernelspec python3; papermill and voila cannot start it")
        tagged = sum("parameters" in c["metadata"].get("tags", []) for c in notebook.code)
        expected = int(notebook.path.parent.name == "reports")
        if tagged != expected:
            problems.append(f"{name}: {tagged} cells are tagged `parameters`, must be {expected}")
    return problems


def sync_problems(root: Path) -> list[str]:
    """Which committed files differ from what their notebooks give."""
    before = files(root)
    with TemporaryDirectory() as folder:
        copy = copy_house(root, Path(folder))
        regenerate(copy)
        after = files(copy)
    problems = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            problems.append(f"{name}: no notebook exports it; delete it, or write it in a notebook")
        elif before.get(name) != after[name]:
            kind = "not clean" if name.endswith(".ipynb") else "not what its notebook gives"
            problems.append(f"{name}: {kind}; run `make sync`")
    return problems


def sync(root: Path) -> None:
    """Write every generated file anew, keeping a copy of each module that an edit by hand may have changed."""
    before = files(root)
    regenerate(root)
    for name, new in files(root).items():
        if before.get(name) == new:
            continue
        kept = ""
        if name.endswith(".py") and name in before:
            old = root / ".edit" / "replaced" / name
            old.parent.mkdir(parents=True, exist_ok=True)
            old.write_bytes(before[name])
            kept = f" (what it was: {old.relative_to(root)})"
        print(f"{name}: written anew{kept}")
    for name in before.keys() - files(root).keys():
        print(f"{name}: deleted, no notebook exports it")


# ---------------------------------------------------------------- what only some machines have
DATA_VARIABLE = "PORTFOLIO_RESEARCH_TEST_DATA"


def excuse(notebook: Notebook, root: Path = ROOT) -> str | None:
    """Why an exploratory notebook cannot run here; None if it must run."""
    return missing_peers(notebook, root) or missing_data(notebook, root)


def missing_data(notebook: Notebook, root: Path = ROOT) -> str | None:
    """The reference data that it reads are not here; what is found beside the project is told to it."""
    if notebook.path.parent.name != "explore" or not any(DATA_VARIABLE in source(cell) for cell in notebook.code):
        return None
    folder = Path(os.environ.get(DATA_VARIABLE, root.parent / "shared" / "data"))
    if not folder.is_dir():
        return f"no reference data; to run it: set {DATA_VARIABLE} to the folder that holds them"
    os.environ[DATA_VARIABLE] = str(folder.resolve())
    return None


def missing_peers(notebook: Notebook, root: Path = ROOT) -> str | None:
    """Why an exploratory notebook cannot run here: peers it compares with are not installed; None if it must run."""
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    listed = re.findall(r"(?:^|\s)([\w.-]+)", config["DEFAULT"].get("extra_peers", ""))
    # what is installed as empyrical-reloaded is imported as empyrical
    peers = {name for peer in listed for name in accumulate(peer.lower().split("-"), "{}_{}".format)}
    absent = {name for name in imported(notebook) if find_spec(name) is None}
    if not absent or not absent <= peers or notebook.path.parent.name != "explore":
        return None
    return f"{', '.join(sorted(absent))} not installed; to run it: pip install -e '.[peers]'"


def imported(notebook: Notebook) -> set[str]:
    """The top-level packages that a notebook's code imports."""
    nodes = [node for cell in notebook.code for node in ast.walk(ast.parse(source(cell)))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


# ---------------------------------------------------------------- outputs
def execute(notebook: Path, to: Path, root: Path = ROOT) -> None:
    """Run a notebook in a kernel of its own and write it with its outputs."""
    if reason := excuse(Notebook.read(notebook), root):
        raise HouseError(f"{notebook.relative_to(root)}: {reason}")
    command = tool("jupyter"), "execute", notebook, f"--output={to}", "--timeout=300"
    run(*command, cwd=root, PYTHONPATH=str(root), MPLBACKEND="")


def shown(outputs: list[dict[str, Any]]) -> list[str]:
    """The text of a cell's outputs; pictures count by their being there, not by their bytes."""
    items = [item for output in outputs for item in output.get("data", {}).items()]
    for name in ("stdout", "stderr"):  # a kernel sends what is printed in pieces
        printed = "".join("".join(o["text"]) for o in outputs if o.get("name") == name)
        items += [(f"text/{name}", printed)] if printed else []
    return sorted(f"{kind}: {''.join(text) if kind.startswith('text/') else ''}" for kind, text in items)


def stale_outputs(path: Path, root: Path = ROOT) -> list[str]:
    """The cells whose stored outputs are not what they show today, run against the generated module.

    Exploratory notebooks must also do without a network, warnings and files.
    """
    from replay import Code, Failed, replay  # here, for it imports what takes long

    notebook = Notebook.read(path)
    cells = [Code(c["id"], source(c), c in notebook.exports) for c in notebook.code]
    module = notebook.module and f"{PACKAGE}.{notebook.module}"
    try:
        today = replay(cells, module, root, strict=path.parent.name == "explore")
    except Failed as error:
        raise HouseError(f"{path.relative_to(root)} {error}") from None
    return [
        f"{path.relative_to(root)} cell {cell['id']}: stored {was!r}, today {now!r}; run `make fresh`"
        for cell in notebook.code
        for was, now in islice(differences(shown(cell["outputs"]), shown(today[cell["id"]])), 1)
    ]


def differences(stored: list[str], today: list[str]) -> Iterator[tuple[str | None, str | None]]:
    """The lines that differ, pairwise."""
    lines = ["\n".join(texts).splitlines() for texts in (stored, today)]
    return (pair for pair in zip_longest(*lines) if pair[0] != pair[1])


def executed(root: Path) -> list[Path]:
    """The notebooks whose outputs are stored: all but those that Voila or papermill runs."""
    return [n.path for n in notebooks(root) if n.path.parent.name not in ("dashboards", "reports")]


# ---------------------------------------------------------------- edit as text
def places(name: str, root: Path) -> tuple[Path, Path, Path]:
    """The notebook, its text, and the note of how both were when they last agreed."""
    name = name.removeprefix("nbs/").removesuffix(".ipynb")
    return root / "nbs" / f"{name}.ipynb", root / ".edit" / f"{name}.py", root / ".edit" / f"{name}.agreed"


def digests(notebook: Path, text: Path) -> list[str]:
    """What changes when someone edits the notebook (running it does not count), and when someone edits the text."""
    cells = [(c["cell_type"], source(c)) for c in Notebook.read(notebook).cells]
    return [sha256(json.dumps(cells).encode()).hexdigest(), sha256(text.read_bytes()).hexdigest()]


def edit(name: str, root: Path = ROOT) -> None:
    """Write a notebook as text, unless that would lose text not applied yet."""
    notebook, text, agreed = places(name, root)
    if not notebook.exists():
        raise HouseError(f"There is no {notebook.relative_to(root)}. For a new one write its text, then apply.")
    if text.exists() and not (agreed.exists() and agreed.read_text().split()[1] == digests(notebook, text)[1]):
        raise HouseError(f"{text.relative_to(root)} holds changes not applied. Apply them, or delete the file.")
    text.parent.mkdir(parents=True, exist_ok=True)
    jupytext("--to", "py:percent", notebook, "-o", text)
    agreed.write_text("\n".join(digests(notebook, text)))


def hand_edited(notebook: Path, root: Path) -> Path | None:
    """The module that exporting this notebook would overwrite, if it is not what the stored notebook gives."""
    name = re.sub(r"^\d\d[a-z]?_", "", notebook.stem)
    module = root / PACKAGE / f"{name}.py"
    if notebook.parent != root / "nbs" or not module.exists():
        return None
    with TemporaryDirectory() as folder:
        copy = copy_house(root, Path(folder))
        exported = copy / module.relative_to(root)
        exported.unlink()
        if (stored := copy / notebook.relative_to(root)).exists():
            export(copy, stored)
        same = exported.exists() and exported.read_bytes() == module.read_bytes()
    return None if same else module


def apply(name: str, root: Path = ROOT) -> None:
    """Write text back into its notebook, export the module and store fresh outputs."""
    notebook, text, agreed = places(name, root)
    if not text.exists():
        raise HouseError(f"There is no {text.relative_to(root)}. Begin with: make edit NB={name}")
    if agreed.exists() and notebook.exists() and agreed.read_text().split()[0] != digests(notebook, text)[0]:
        raise HouseError(
            f"{notebook.relative_to(root)} was changed after its text was written. Move {text.relative_to(root)} away,"
            f" run make edit NB={name}, and make your change there."
        )
    if module := hand_edited(notebook, root):
        raise HouseError(
            f"{module.relative_to(root)} was edited by hand and would be overwritten. Make that change in"
            f" {text.relative_to(root)}, then: git checkout {module.relative_to(root)}"
        )
    if notebook.exists():
        jupytext("--to", "ipynb", "--update", text, "-o", notebook)
    else:
        notebook.parent.mkdir(parents=True, exist_ok=True)
        new = "--set-kernel", "python3", "--update-metadata", '{"jupytext": null}'
        jupytext("--to", "ipynb", *new, text, "-o", notebook)
    clean(root, notebook)
    agreed.write_text("\n".join(digests(notebook, text)))
    export(root, notebook)
    if notebook in executed(root):
        execute(notebook, notebook, root)
        clean(root, notebook)


# ---------------------------------------------------------------- command line
def each(paths: list[Path], work: Callable[[Path], list[str] | None]) -> list[str]:
    """Do the work on two notebooks at a time; say what was found."""
    with ThreadPoolExecutor(2) as pool:
        return [line for found in pool.map(work, paths) for line in found or []]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["edit", "apply", "sync", "readme", "execute"])
    parser.add_argument("nb", nargs="?")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 and say what is out of step")
    options = parser.parse_args()
    if options.command in ("edit", "apply") and not options.nb:
        parser.error(f"{options.command} which notebook? For example: {options.command} 12_metrics")
    problems: list[str] = []
    if options.command == "edit":
        edit(options.nb)
        print(f"Change .edit/{options.nb}.py, then: make apply NB={options.nb}")
    elif options.command == "apply":
        apply(options.nb)
        print(f"nbs/{options.nb}.ipynb, its module and its outputs are in step. Then: make test")
    elif options.command == "readme":
        (ROOT / "README.md").write_text(readme(ROOT), encoding="utf-8")
    elif options.command == "sync":
        problems = structure_problems(ROOT)
        if options.check:
            problems += sync_problems(ROOT)
        else:
            sync(ROOT)
    else:
        chosen = [places(options.nb, ROOT)[0]] if options.nb else executed(ROOT)
        for path in chosen if not options.nb else []:
            if reason := excuse(Notebook.read(path)):
                print(f"{path.relative_to(ROOT)} is left out: {reason}")
                chosen = [other for other in chosen if other != path]
        problems = each(chosen, stale_outputs if options.check else lambda path: execute(path, path))
        if not options.check:
            clean(ROOT)
    if problems:
        raise HouseError("\n".join(problems))


if __name__ == "__main__":
    try:
        main()
    except HouseError as error:
        sys.exit(str(error))
