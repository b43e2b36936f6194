"""How a notebook reads, as far as a machine can judge; each rule is shown red on a toy notebook."""
from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from house import ROOT, Cell, Notebook, directive, notebooks, source

Function = ast.FunctionDef | ast.AsyncFunctionDef
UNSTABLE = {
    "an id of an object": r"\b0x[0-9a-fA-F]{6,}",
    "a path of one machine": r"(?<![\w.:/])/(?:home|root|tmp|usr|Users|private|var|opt)/\w|site-packages",
    "a time of the clock": r"\d\d:\d\d:\d\d\.\d{3,}",
}


def parse(cell: Cell) -> ast.Module:
    """The syntax tree of a code cell; top-level await is Python here."""
    return compile(source(cell), "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # type: ignore


def lines(cell: Cell) -> list[str]:
    """The lines of a cell without its directives and empty ones."""
    return [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]


def is_figure(cell: Cell) -> bool:
    return any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))


def public(cells: list[Cell]) -> Iterator[tuple[str, ast.stmt, Cell]]:
    """Name, definition and cell of everything that export cells offer."""
    for cell in cells:
        for node in parse(cell).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names = [node.name]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [t.id for t in targets if isinstance(t, ast.Name)]
            else:
                continue
            yield from ((name, node, cell) for name in names if not name.startswith("_"))


# ---------------------------------------------------------------- the rules: each yields what is wrong
def promise(notebook: Notebook) -> Iterator[str]:
    first = notebook.cells[0]
    if first["cell_type"] != "markdown" or not re.match(r"# \S.*\n+> \S", source(first)):
        yield "the first cell must be `# Title` and a `> one-line promise`"


def plain_python(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        try:
            parse(cell)
        except SyntaxError as error:
            yield f"cell {cell['id']}: not plain Python ({error.msg}); magics do not run against the module"


def only_imports(cell: Cell) -> bool:
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in parse(cell).body)


def size(notebook: Notebook) -> Iterator[str]:
    exported = {c["id"]: len(lines(c)) for c in notebook.exports}
    if sum(exported.values()) > 400:
        yield f"{sum(exported.values())} exported lines, at most 400"
    if len(notebook.cells) > 80:
        yield f"{len(notebook.cells)} cells, at most 80"
    ideas = [len(lines(c)) for c in notebook.exports if not only_imports(c)]
    if ideas and median(ideas) > 16:  # about 12, and a parameter takes a line
        yield f"the median export cell has {median(ideas)} lines, at most 16"
    yield from (f"cell {cell}: {n} exported lines, at most 40" for cell, n in exported.items() if n > 40)


def prose(notebook: Notebook) -> Iterator[str]:
    share = sum(c["cell_type"] == "markdown" for c in notebook.cells) / len(notebook.cells)
    if share < 0.30:
        yield f"{share:.0%} of the cells are prose, at least 30 %"


def lessons_for_all(notebook: Notebook) -> Iterator[str]:
    used: set[str] = set()
    for cell in notebook.lessons:
        for node in ast.walk(parse(cell)):
            used |= {getattr(node, "id", ""), getattr(node, "attr", "")}
    yield from (f"{name} is used in no lesson" for name, _, _ in public(notebook.exports) if name not in used)


def docstrings(notebook: Notebook) -> Iterator[str]:
    for name, node, _ in public(notebook.exports):
        if isinstance(node, (*Function.__args__, ast.ClassDef)) and not (ast.get_docstring(node) or "").strip():
            yield f"{name} has no docstring"


def docments(notebook: Notebook) -> Iterator[str]:
    for name, node, cell in public(notebook.exports):
        if not isinstance(node, Function) or any(ast.unparse(d).endswith("overload") for d in node.decorator_list):
            continue
        text = source(cell).splitlines()
        a = node.args
        every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        if len({arg.lineno for arg in every}) < len(every):
            yield f"{name}: one parameter per line"
            continue
        ends = [getattr(d, "end_lineno", 0) for d in (*a.defaults, *filter(None, a.kw_defaults))]
        for arg in every:
            last = max([arg.end_lineno or 0, *(end for end in ends if arg.lineno == end)])
            if not re.search(r"#\s*\S", text[last - 1]):
                yield f"{name}: parameter {arg.arg} has no comment that says what it means"
        returns = node.returns
        nothing = isinstance(returns, ast.Constant) and returns.value is None
        if returns is None or not (nothing or re.search(r"#\s*\S", text[(returns.end_lineno or 1) - 1])):
            yield f"{name}: the return has no annotation with a comment that says what it is"


def habits(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        for found in ("eval", "notest"):
            if directive(cell, found) is not None:
                yield f"cell {cell['id']}: `#| {found}` hides a lesson"
        for node in ast.walk(parse(cell)):
            if isinstance(node, Function) and any("patch" in ast.unparse(d) for d in node.decorator_list):
                yield f"cell {cell['id']}: @patch defeats type checkers"
            printed = node.args if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" else []
            if any(isinstance(a, ast.JoinedStr) or isinstance(getattr(a, "value", None), str) for a in printed):
                yield f"cell {cell['id']}: print of prose; say it in a markdown cell and show the value"


def figure(notebook: Notebook) -> Iterator[str]:
    number = int(notebook.path.name[:2])
    if 2 <= number <= 22 and not any(map(is_figure, notebook.code)):
        yield "a research notebook shows at least one figure, stored"


def stable_outputs(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error" or output.get("name") == "stderr":
                yield f"cell {cell['id']}: stores an error or a warning"
            kept = {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
            text = "".join("".join(v) for v in (*kept.values(), output.get("text", "")))
            yield from (f"cell {cell['id']}: stores {what}" for what, like in UNSTABLE.items() if re.search(like, text))


def is_executed(notebook: Notebook) -> Iterator[str]:
    if not any(c.get("outputs") for c in notebook.code):
        yield "no stored outputs: run it"


def thin(notebook: Notebook) -> Iterator[str]:
    if len(notebook.code) > 10:
        yield f"{len(notebook.code)} code cells, at most 10: the work belongs into a module"
    for cell in notebook.code:
        if any(isinstance(node, (ast.ClassDef, *Function.__args__)) for node in ast.walk(parse(cell))):
            yield f"cell {cell['id']}: defines a function or class; put it into a module"
        if cell.get("outputs"):
            yield f"cell {cell['id']}: stores outputs that nobody keeps fresh"


def exports_nothing(notebook: Notebook) -> Iterator[str]:
    yield from (f"cell {c['id']}: exports; only numbered notebooks do" for c in notebook.exports)


Rule = Callable[[Notebook], Iterator[str]]
NUMBERED: list[Rule] = [
    promise, plain_python, size, prose, lessons_for_all, docstrings, docments, habits,
    figure, stable_outputs, is_executed,
]  # fmt: skip
OTHERS: dict[str, list[Rule]] = {
    "explore": [promise, plain_python, prose, habits, stable_outputs, is_executed, exports_nothing],
    "dashboards": [plain_python, thin, exports_nothing],
    "reports": [plain_python, thin, exports_nothing],
    "nbs": [promise, plain_python, stable_outputs, exports_nothing],  # index.ipynb
}


def style_problems(notebook: Notebook) -> list[str]:
    """Everything in a notebook that breaks the rules of its kind."""
    rules = NUMBERED if notebook.path.name[:2].isdigit() and notebook.path.parent.name == "nbs" else None
    chosen = OTHERS[notebook.path.parent.name] if rules is None else rules
    broken = list(plain_python(notebook))  # the other rules read syntax trees
    return broken or [problem for rule in chosen for problem in rule(notebook)]


ALL = notebooks(ROOT)


@pytest.mark.parametrize("notebook", ALL, ids=[str(n.path.relative_to(ROOT / "nbs")) for n in ALL])
def test_notebook_reads_well(notebook: Notebook) -> None:
    assert style_problems(notebook) == []


# ---------------------------------------------------------------- shown red
GOOD = '''#| export
def double(
    x: float,  # any number
    *,
    times: int = 1,  # how often
) -> float:  # twice as much, each time
    "Twice a number."
    return x * 2**times'''
PNG = {"output_type": "display_data", "data": {"image/png": "aGk=", "text/plain": "<Figure size 8x2 with 1 Axes>"}}


def cell(text: str, kind: str = "code", *outputs: dict[str, Any]) -> Cell:
    made: Cell = {"id": sha256(text.encode()).hexdigest()[:8], "cell_type": kind, "source": text, "metadata": {}}
    return made | ({"outputs": list(outputs)} if kind == "code" else {})


def toy(*more: Cell, without: int | None = None, name: str = "nbs/12_toy.ipynb") -> Notebook:
    """A notebook that keeps every rule, plus some cells, minus one."""
    cells = [
        cell("# Toy\n> Doubles numbers.", "markdown"),
        cell("#| default_exp toy"),
        cell("Two is twice one.", "markdown"),
        cell(GOOD),
        cell("double(1)", "code", PNG),
        cell("Why it holds.", "markdown"),
    ]
    kept = [c for i, c in enumerate(cells) if i != without]
    return Notebook(Path(name), {"cells": [*kept, *more], "metadata": {}})


def test_a_good_notebook_is_green() -> None:
    assert style_problems(toy()) == []


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": [text]}


@pytest.mark.parametrize(
    ("notebook", "says"),
    [
        (toy(without=0), "one-line promise"),
        (toy(without=4), "double is used in no lesson"),
        (toy(cell("%timeit double(1)")), "not plain Python"),
        (toy(cell("#| export\n" + "x = 1\n" * 41), cell("x")), "at most 40"),
        (toy(*[cell("#| export\n" + f"x = {i}\n" * 39) for i in range(11)], cell("x")), "at most 400"),
        (toy(*[cell("#| export\n" + f"x = {i}\n" * 17) for i in range(2)], cell("x")), "median export cell"),
        (toy(*[cell("why", "markdown")] * 80), "at most 80"),
        (toy(*[cell("1")] * 9), "at least 30 %"),
        (toy(cell(GOOD.replace('    "Twice a number."\n', ""))), "no docstring"),
        (toy(cell('#| export\nclass Toy:\n    x = 1'), cell("Toy")), "Toy has no docstring"),
        (toy(cell(GOOD.replace("  # any number", ""))), "parameter x has no comment"),
        (toy(cell(GOOD.replace("  # how often", ""))), "parameter times has no comment"),
        (toy(cell(GOOD.replace("  # twice as much, each time", ""))), "the return has no"),
        (toy(cell(GOOD.replace(" -> float:", ":"))), "the return has no annotation"),
        (toy(cell("#| export\ndef f(x, y) -> int:  # sum\n    'Sum.'"), cell("f(1, 2)")), "one parameter per line"),
        (toy(cell("@patch\ndef f(self: int): return 1")), "@patch"),
        (toy(cell("#| eval: false\n1")), "hides a lesson"),
        (toy(cell("print('it is', 2)")), "print of prose"),
        (toy(cell("print(f'{2} it is')")), "print of prose"),
        (toy(cell("double(1)"), without=4), "at least one figure"),
        (toy(cell("double(2)", "code", stream("Careful", "stderr"))), "an error or a warning"),
        (toy(cell("double(2)", "code", {"output_type": "error"})), "an error or a warning"),
        (toy(cell("double(2)", "code", stream("<f at 0x7f35c0637d80>"))), "an id of an object"),
        (toy(cell("double(2)", "code", stream("wrote /home/me/x.csv"))), "a path of one machine"),
        (toy(cell("double(2)", "code", stream("2026-01-01 10:11:12.345678"))), "a time of the clock"),
        (toy(cell("double(2)"), without=4, name="nbs/30_toy.ipynb"), "no stored outputs"),
        (toy(name="nbs/explore/01_toy.ipynb"), "only numbered notebooks"),
        (toy(name="nbs/reports/toy.ipynb"), "only numbered notebooks"),
        (toy(name="nbs/reports/toy.ipynb"), "defines a function"),
        (toy(name="nbs/dashboards/toy.ipynb"), "nobody keeps fresh"),
        (toy(*[cell("1")] * 9, name="nbs/dashboards/toy.ipynb"), "belongs into a module"),
        (toy(without=0, name="nbs/index.ipynb"), "one-line promise"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(notebook: Notebook, says: str) -> None:
    assert any(says in problem for problem in style_problems(notebook))
