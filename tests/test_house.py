"""Generated files are in step with their notebooks; every such gate is shown red on a small house of its own."""
from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from house import (
    PACKAGE,
    ROOT,
    HouseError,
    Notebook,
    apply,
    copy_house,
    edit,
    executed,
    numbered,
    readme,
    regenerate,
    source,
    stale_outputs,
    structure_problems,
    sync,
    sync_problems,
)

RUN_ELSEWHERE = [*(n.path for n in numbered(ROOT)), *(ROOT / "nbs" / "explore").glob("*")]  # test_lessons, test_explore
OTHERS = [path for path in executed(ROOT) if path not in RUN_ELSEWHERE]


def test_generated_files_are_in_step() -> None:
    assert sync_problems(ROOT) == []


def test_notebooks_have_one_module_each_and_their_metadata() -> None:
    assert structure_problems(ROOT) == []


@pytest.mark.parametrize("path", OTHERS, ids=[str(p.relative_to(ROOT / "nbs")) for p in OTHERS])
def test_stored_outputs_are_fresh(path: Path) -> None:
    assert stale_outputs(path) == []


# ---------------------------------------------------------------- a small house
TOY = """# %% [markdown]
# # Toy
# > Doubles numbers.

# %%
#| default_exp toy

# %%
#| export
def double(
    x: float,  # any number
) -> float:  # twice as much
    "Twice a number."
    return 2 * x

# %%
double(21)
"""
REPORT = """# %% [markdown]
# # Report

# %% tags=["parameters"]
x = 1
"""
INDEX = """# %% [markdown]
# # Toy house
# > See [the toy](12_toy.ipynb), [the licence](../LICENSE), [elsewhere](https://example.org).
#
# ![a picture](images/x.png)

# %%
#| hide
import math

# %%
math.floor(2.5)
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A house made only with `apply`, as a contributor would."""
    root = tmp_path_factory.mktemp("house")
    (root / "settings.ini").write_bytes((ROOT / "settings.ini").read_bytes())
    for name, text in {"12_toy": TOY, "reports/toy": REPORT, "index": INDEX}.items():
        path = root / ".edit" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (root / PACKAGE).mkdir(exist_ok=True)
        (root / "nbs").mkdir(exist_ok=True)
        apply(name, root)
    regenerate(root)
    return root


@pytest.fixture
def house(built: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return copy_house(built, tmp_path)


def change(root: Path, name: str, how: Callable[[dict[str, Any]], object]) -> None:
    """Change a notebook's JSON."""
    path = root / "nbs" / f"{name}.ipynb"
    content = Notebook.read(path).content
    how(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def test_a_small_house_is_green(house: Path) -> None:
    assert sync_problems(house) == structure_problems(house) == stale_outputs(house / "nbs/12_toy.ipynb", house) == []
    assert 'return 2 * x' in (house / PACKAGE / "toy.py").read_text()
    assert '__version__ = "' in (house / PACKAGE / "__init__.py").read_text()


def test_readme_is_what_the_index_shows(house: Path) -> None:
    text = (house / "README.md").read_text()
    assert "[the toy](nbs/12_toy.ipynb), [the licence](LICENSE), [elsewhere](https://example.org)" in text
    assert "![a picture](nbs/images/x.png)" in text
    assert text.endswith("```python\nmath.floor(2.5)\n```\n\n```\n2\n```\n")
    assert "import math" not in text


def test_a_figure_in_the_index_is_refused(house: Path) -> None:
    figure = {"output_type": "display_data", "data": {"image/png": "aGk="}, "metadata": {}}
    change(house, "index", lambda nb: nb["cells"][2].update(outputs=[figure]))
    with pytest.raises(HouseError, match="nbs/images"):
        readme(house)


def one_problem(problems: list[str], *says: str) -> None:
    assert len(problems) == 1
    assert all(word in problems[0] for word in says)


def test_a_stale_module_is_found(house: Path) -> None:
    module = house / PACKAGE / "toy.py"
    module.write_text(module.read_text().replace("2 * x", "3 * x"))
    one_problem(sync_problems(house), "toy.py", "not what its notebook gives", "make sync")


def test_a_missing_module_is_found(house: Path) -> None:
    (house / PACKAGE / "toy.py").unlink()
    one_problem(sync_problems(house), "toy.py")


def test_an_orphan_module_is_found(house: Path) -> None:
    (house / PACKAGE / "ghost.py").write_text("x = 1\n")
    one_problem(sync_problems(house), "ghost.py", "no notebook exports it")


def test_a_dirty_notebook_is_found(house: Path) -> None:
    change(house, "12_toy", lambda nb: nb["cells"][-1].update(execution_count=7))
    one_problem(sync_problems(house), "12_toy.ipynb", "not clean")


def test_a_stale_readme_is_found(house: Path) -> None:
    with (house / "README.md").open("a") as file:
        file.write("\nEdited here.\n")
    one_problem(sync_problems(house), "README.md")


def test_two_notebooks_for_one_module_are_found(house: Path) -> None:
    (house / "nbs" / "13_toy.ipynb").write_bytes((house / "nbs" / "12_toy.ipynb").read_bytes())
    one_problem(structure_problems(house), "toy", "2 notebooks")


def test_a_name_unlike_its_module_is_found(house: Path) -> None:
    (house / "nbs" / "12_toy.ipynb").rename(house / "nbs" / "12_joy.ipynb")
    one_problem(structure_problems(house), "12_joy.ipynb", "ask for joy")


def test_a_lost_parameters_tag_is_found(house: Path) -> None:
    change(house, "reports/toy", lambda nb: nb["cells"][1]["metadata"].pop("tags"))
    one_problem(structure_problems(house), "reports/toy.ipynb", "parameters")


def test_a_missing_kernelspec_is_found(house: Path) -> None:
    change(house, "reports/toy", lambda nb: nb["metadata"].pop("kernelspec"))
    one_problem(structure_problems(house), "reports/toy.ipynb", "kernelspec")


def test_a_stale_output_is_found(house: Path) -> None:
    result = {"output_type": "execute_result", "data": {"text/plain": ["41"]}, "metadata": {}, "execution_count": None}
    change(house, "12_toy", lambda nb: nb["cells"][-1].update(outputs=[result]))
    one_problem(stale_outputs(house / "nbs/12_toy.ipynb", house), "12_toy.ipynb", "41", "42", "make fresh")


def test_a_notebook_that_fails_says_where(house: Path) -> None:
    change(house, "12_toy", lambda nb: nb["cells"][-1].update(source="double(undefined)"))
    with pytest.raises(HouseError, match="undefined"):
        stale_outputs(house / "nbs/12_toy.ipynb", house)


# ---------------------------------------------------------------- edit, apply, sync
def test_a_round_trip_without_a_change_changes_nothing(house: Path) -> None:
    before = (house / "nbs/12_toy.ipynb").read_bytes()
    edit("12_toy", house)
    apply("nbs/12_toy.ipynb", house)
    assert (house / "nbs/12_toy.ipynb").read_bytes() == before
    assert sync_problems(house) == []


def test_a_change_reaches_module_and_output(house: Path) -> None:
    edit("12_toy", house)
    text = house / ".edit/12_toy.py"
    text.write_text(text.read_text().replace("2 * x", "2.0 * x"))
    apply("12_toy", house)
    assert "2.0 * x" in (house / PACKAGE / "toy.py").read_text()
    assert Notebook.read(house / "nbs/12_toy.ipynb").cells[-1]["outputs"][0]["data"]["text/plain"] == ["42.0"]
    assert sync_problems(house) == []
    edit("12_toy", house)  # applied text may be written again


def test_apply_does_not_overwrite_an_edit_by_hand(house: Path) -> None:
    edit("12_toy", house)
    module, notebook = house / PACKAGE / "toy.py", house / "nbs/12_toy.ipynb"
    module.write_text(edited := module.read_text().replace("2 * x", "x + x"))
    before = notebook.read_bytes()
    with pytest.raises(HouseError, match=r"toy\.py was edited by hand"):
        apply("12_toy", house)
    assert module.read_text() == edited and notebook.read_bytes() == before


def test_apply_does_not_overwrite_a_notebook_changed_meanwhile(house: Path) -> None:
    edit("12_toy", house)
    change(house, "12_toy", lambda nb: nb["cells"][-1].update(source="double(4)"))
    with pytest.raises(HouseError, match="was changed after its text was written"):
        apply("12_toy", house)
    assert source(Notebook.read(house / "nbs/12_toy.ipynb").cells[-1]) == "double(4)"


def test_edit_does_not_overwrite_text_not_applied(house: Path) -> None:
    edit("12_toy", house)
    text = house / ".edit/12_toy.py"
    text.write_text(changed := text.read_text() + "\n# %%\ndouble(3)\n")
    with pytest.raises(HouseError, match="not applied"):
        edit("12_toy", house)
    assert text.read_text() == changed


def test_unknown_names_are_explained(house: Path) -> None:
    with pytest.raises(HouseError, match=r"no nbs/99_none\.ipynb"):
        edit("99_none", house)
    with pytest.raises(HouseError, match="make edit NB=99_none"):
        apply("99_none", house)


def test_sync_mends_everything_and_keeps_what_it_replaces(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = house / PACKAGE / "toy.py"
    module.write_text(edited := module.read_text().replace("2 * x", "3 * x"))
    (house / PACKAGE / "ghost.py").write_text("x = 1\n")
    (house / "README.md").unlink()
    sync(house)
    assert sync_problems(house) == []
    assert (house / ".edit/replaced" / PACKAGE / "toy.py").read_text() == edited
    said = capsys.readouterr().out
    assert "toy.py: written anew (what it was: .edit/replaced" in said and "ghost.py: deleted" in said


# ---------------------------------------------------------------- the top of the house
def test_only_expected_files_lie_at_the_top() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {line for line in tracked.splitlines() if "/" not in line}
    hidden = {".gitignore", ".gitattributes", ".ruff.toml", ".coveragerc"}
    assert files == {"README.md", "settings.ini", "setup.py", "Makefile", "LICENSE"} | hidden
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 40


def test_git_shows_notebooks_as_text_and_hides_what_is_generated() -> None:
    def attributes(*paths: str) -> str:
        command = ["git", "check-attr", "diff", "linguist-generated", "--", *paths]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    modules = [f"{PACKAGE}/{name}.py" for name in ("hrp", "store/ledger", "__init__")]
    shown = attributes("nbs/12_metrics.ipynb", *modules)
    assert "nbs/12_metrics.ipynb: diff: ipynb" in shown
    assert f"{PACKAGE}/hrp.py: linguist-generated: set" in shown
    assert f"{PACKAGE}/store/ledger.py: linguist-generated: unspecified" in shown
    assert f"{PACKAGE}/__init__.py: linguist-generated: unset" in shown


def test_no_script_calls_what_needs_quarto() -> None:
    scripts = [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "tests" / "house.py"]
    for name in ("nbdev_readme", "nbdev_docs", "nbdev_prepare", "nbdev_preview"):
        assert [p.name for p in scripts if name in p.read_text()] == []
