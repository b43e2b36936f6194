"""Where the notebooks lie that Voila and papermill run."""
from __future__ import annotations

from pathlib import Path

from portfolio_research.config import ConfigError

PACKAGE = Path(__file__).parents[1]


def notebook_path(kind: str, name: str) -> Path:
    """The notebook `name` of a kind, "dashboards" or "reports": the checkout's, else the installed package's."""
    places = [folder / kind / f"{name}.ipynb" for folder in (PACKAGE.parent / "nbs", PACKAGE / "notebooks")]
    for path in places:
        if path.is_file():
            return path
    raise ConfigError(f"There is no notebook {kind}/{name}, neither {places[0]} nor {places[1]}: reinstall.")
