"""sdist, wheel, empty environment, import: what a stranger installs is complete, and says everything once."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from house import PACKAGE, ROOT

from portfolio_research.config import ConfigError
from portfolio_research.store.paths import notebook_path

NOT_SHIPPED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.egg-info")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings() -> dict[str, str]:
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def source_tree(to: Path) -> Path:
    """What a clone holds, as far as packaging reads it."""
    for folder in (PACKAGE, "nbs"):
        shutil.copytree(ROOT / folder, to / folder, ignore=NOT_SHIPPED)
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def make_sdist(tree: Path) -> Path:
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "dist", cwd=tree)
    (made,) = (tree / "dist").glob("*.tar.gz")
    return made


def needed(tree: Path) -> set[str]:
    """Every file that the package is made of."""
    return {str(p.relative_to(tree)) for p in (tree / PACKAGE).rglob("*") if p.is_file()}


def missing_from_sdist(sdist: Path, tree: Path) -> set[str]:
    """What building a package from the archive would lack."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    notebooks = {str(p.relative_to(tree)) for p in (tree / "nbs").rglob("*.ipynb")}
    return (needed(tree) | notebooks | {"settings.ini", "setup.py", "README.md", "LICENSE"}) - held


def missing_from_wheel(wheel: Path, tree: Path) -> set[str]:
    """What an installed package would lack."""
    apps = [p for kind in ("dashboards", "reports") for p in (tree / "nbs" / kind).glob("*.ipynb")]
    notebooks = {f"{PACKAGE}/notebooks/{p.parent.name}/{p.name}" for p in apps}
    return (needed(tree) | notebooks) - set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return make_sdist(tree)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone, with the setuptools of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel; what the package requires is lent by the environment of the tests."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=ROOT)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=ROOT)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def test_the_sdist_can_build_the_package(sdist: Path, tree: Path) -> None:
    assert missing_from_sdist(sdist, tree) == set()


def test_the_wheel_is_complete(wheel: Path, tree: Path) -> None:
    assert missing_from_wheel(wheel, tree) == set()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {PACKAGE}
    kinds = {Path(name).suffix for name in names if name.startswith(f"{PACKAGE}/")}
    assert not kinds & {".db", ".log", ".env", ".pem", ".key", ".pyc"}


def test_the_wheel_requires_what_settings_ini_says(wheel: Path) -> None:
    (metadata,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    said = settings()
    assert f"\nVersion: {said['version']}\n" in text and f"\nRequires-Python: >={said['min_python']}\n" in text
    runtime = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==).*$", text, re.M)
    assert runtime == [re.split(r"[<>=\[]", r)[0] for r in said["requirements"].split()]
    extras = {key.removeprefix("extra_") for key in said if key.startswith("extra_")} | {"dev"}
    assert set(re.findall(r"^Provides-Extra: (\S+)$", text, re.M)) == extras


def test_the_installed_package_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = f"""
import json
import {PACKAGE} as package
from importlib.metadata import version
from {PACKAGE}.store.paths import notebook_path
apps = [str(notebook_path("dashboards", "portfolio")), str(notebook_path("reports", "rebalancing"))]
assets = len(package.sample_prices().columns)
print(json.dumps([package.__file__, package.__version__, version("{PACKAGE}"), apps, assets]))
"""
    file, said, known, apps, assets = json.loads(run(installed / "bin" / "python", "-c", code, cwd=tmp_path))
    home = Path(file).parent
    assert home.is_relative_to(installed)
    assert said == known == settings()["version"]
    assert all(Path(app).is_relative_to(home / "notebooks") for app in apps)
    assert assets == 20


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "portfolio" in run(installed / "bin" / "portfolio-research", "--help", cwd=tmp_path)


def test_a_checkout_uses_its_own_notebooks() -> None:
    assert notebook_path("dashboards", "portfolio") == ROOT / "nbs" / "dashboards" / "portfolio.ipynb"
    with pytest.raises(ConfigError, match="no notebook dashboards/nonsense"):
        notebook_path("dashboards", "nonsense")


def test_the_version_is_said_once() -> None:
    version = settings()["version"]
    tracked = run("git", "ls-files", cwd=ROOT).split()
    texts = {n: (ROOT / n).read_text() for n in tracked if Path(n).suffix in (".py", ".ini") or n == "Makefile"}
    says = {name for name, text in texts.items() if re.search(rf'(version *= *|"){re.escape(version)}\b', text)}
    assert says == {"settings.ini", f"{PACKAGE}/__init__.py"}  # nbdev writes the second from the first
    rivals = r"(pyproject\.toml|setup\.cfg|requirements.*\.txt|MANIFEST\.in)"
    assert not [name for name in tracked if re.fullmatch(rivals, Path(name).name)]


# ---------------------------------------------------------------- shown red
def test_an_incomplete_sdist_is_found(tmp_path: Path) -> None:
    tree = source_tree(tmp_path)
    setup = (tree / "setup.py").read_text()
    (tree / "setup.py").write_text(setup.replace('"sdist": Sources', ""))
    assert missing_from_sdist(make_sdist(tree), tree) >= {"settings.ini", "nbs/index.ipynb"}


def test_an_incomplete_wheel_is_found(wheel: Path, tree: Path, tmp_path: Path) -> None:
    poor = tmp_path / wheel.name
    lost = {f"{PACKAGE}/store/paths.py", f"{PACKAGE}/notebooks/dashboards/portfolio.ipynb"}
    with zipfile.ZipFile(wheel) as full, zipfile.ZipFile(poor, "w") as less:
        for name in set(full.namelist()) - lost:
            less.writestr(name, full.read(name))
    assert missing_from_wheel(poor, tree) == lost
