"""A notebook's outputs as one HTML page: no code, no script, nothing loaded from anywhere."""

import html
from pathlib import Path

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>{body}
<footer>Paper trading. Made from the portfolio's ledger; every figure is as of the day named above.</footer>
</body></html>
"""
STYLE = Path(__file__).with_name("page.css")


def to_html(notebook: Path, title: str) -> str:
    """The page of an executed notebook: prose and outputs in order, with our own style and no external reference."""
    import nbformat
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        anchor_link_text="",
    )
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for number, cell in enumerate(content.cells):
        cell["id"] = (
            f"cell-{number}"  # papermill gives its cell a random one, and the same report should be the same bytes
        )
    body, _ = exporter.from_notebook_node(content)
    return PAGE.format(title=html.escape(title), style=STYLE.read_text(encoding="utf-8"), body=body)
