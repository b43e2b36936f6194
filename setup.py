"""Packaging: everything is read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], packages=find_packages(include=["portfolio_research*"]),
    install_requires=cfg["requirements"].split(), extras_require={"dev": cfg["dev_requirements"].split()},
    python_requires=">=" + cfg["min_python"], include_package_data=True, zip_safe=False,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
