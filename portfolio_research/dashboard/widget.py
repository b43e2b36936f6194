"""The dashboard as one widget, so that it is a notebook that Voila serves.

The kernel only brings the widget to the page. The page's own module draws everything, reads the REST interface and
listens to the event stream, so nothing stops when the kernel does. Keep imports here light: a kernel that does not load
arrays, frames or charts starts in a second and weighs 60 MB.
"""

from pathlib import Path

import anywidget
import traitlets


class Dashboard(anywidget.AnyWidget):
    """The live dashboard of the portfolio that its server was started for."""

    _esm = Path(__file__).parent / "static" / "widget.js"
    base_url = traitlets.Unicode("/").tag(sync=True)  # where the dashboard's server is mounted
