"""Packaging: name, version and requirements are read from settings.ini, nothing is said twice."""
from configparser import ConfigParser
from pathlib import Path
from shutil import copy

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {key.removeprefix("extra_"): value.split() for key, value in cfg.items() if key.startswith("extra_")}
notebooks = [p.relative_to(here) for p in (here / "nbs").glob("**/*.ipynb") if ".ipynb_checkpoints" not in p.parts]


class Build(build_py):
    def run(self):  # an installed package finds the dashboard's and the reports' notebooks inside itself
        super().run()
        for path in notebooks:
            if path.parts[1] in ("dashboards", "reports") and not self.editable_mode:
                self.mkpath(target := f"{self.build_lib}/{cfg['lib_name']}/notebooks/{path.parts[1]}")
                copy(here / path, target)


class Sources(sdist):
    def make_distribution(self):  # setup.py cannot run without settings.ini, nor the house without its notebooks
        self.filelist.extend({"settings.ini", "LICENSE", "README.md", *map(str, notebooks)} - {*self.filelist.files})
        super().make_distribution()


setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0",
    long_description=(here / "README.md").read_text("utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=[cfg["lib_name"] + "*"]), cmdclass={"build_py": Build, "sdist": Sources},
    package_data={"": ["py.typed", "*.css", "static/**", "template/**", "sample/**"]}, zip_safe=False,
    install_requires=cfg["requirements"].split(), extras_require={**extras, "dev": cfg["dev_requirements"].split()},
    python_requires=">=" + cfg["min_python"], entry_points={"console_scripts": cfg["console_scripts"].split()},
)
