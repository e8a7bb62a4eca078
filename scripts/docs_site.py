"""MkDocs hook that adds pages from files outside ``docs``.

README, changelog and CONTRIBUTING become pages, and the example DAGs become one page.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_EXAMPLES = "examples.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=_moved((ROOT / source).read_text())))
    files.append(File.generated(config, _EXAMPLES, content=_examples()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Link to the quoted examples instead of their files."""
    return re.sub(r"\]\((?:\.\./)?example_dags/(\w+)\.py\)", rf"]({_EXAMPLES}#\1)", markdown)


def on_page_content(html: str, **_: object) -> str:
    """Replace roles in docstrings with the names that they refer to."""
    return re.sub(r":(?:py:)?\w+:<code>[~.]*(?:[\w.]+\.)?(\w+)</code>", r"<code>\1</code>", html)


def _moved(text: str) -> str:
    """Adapt the links of a top-level file to its place in ``docs``."""
    names = {source: page for page, source in PAGES.items()} | {"example_dags": _EXAMPLES}
    for name, page in names.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text.replace("](docs/", "](").replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")


def _examples() -> str:
    parts = [
        "# Examples\n",
        "All examples run against the emulator: `make demo`, or `make demo-ui` for Airflow's UI.\n",
    ]
    for path in sorted((ROOT / "example_dags").glob("*.py")):
        text = path.read_text()
        words = ast.get_docstring(ast.parse(text)) or ""
        parts += [f"## {path.stem}\n", f"{words}\n", f"```python\n{text}```\n"]
    return "\n".join(parts)
