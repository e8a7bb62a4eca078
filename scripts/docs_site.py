"""MkDocs hook that adds the changelog and the contributor guide, quotes files, and adapts links and docstrings.

In a code block, the comment ``# quote: PATH`` is replaced with that file of the repository.
The address of the repository is the ``Source`` URL in ``pyproject.toml``.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"reference/changelog.md": "CHANGELOG.md", "design/contributing.md": "CONTRIBUTING.md"}
"""Pages that are files outside ``docs``."""


def address(name: str) -> str | None:
    """Return the URL of this name in ``pyproject.toml``, or None if there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    url: str | None = project.get("urls", {}).get(name)
    return url


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the addresses of the site and the repository."""
    config.repo_url, config.site_url = address("Source"), address("Documentation")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files outside ``docs``."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Insert quoted files, and adapt relative links: to pages of the site, or to files in the repository."""
    markdown = re.sub(r"^# quote: (\S+)\n", lambda match: (ROOT / match[1]).read_text(), markdown, flags=re.MULTILINE)
    uri = page.file.src_uri
    return linked(markdown, source=PAGES.get(uri, f"docs/{uri}"), page=uri)


def on_page_content(html: str, **_: Any) -> str:
    """Replace roles in docstrings with the names that they refer to."""
    return re.sub(r":(?:py:)?\w+:<code>[~.]*(?:[\w.]+\.)?(\w+)</code>", r"<code>\1</code>", html)


def linked(markdown: str, *, source: str, page: str) -> str:
    """Return a page with links that work on the site.

    :param source: path of the page's file in the repository.
    :param page: its path on the site.
    """
    pages = {file: uri for uri, file in PAGES.items()}

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or ":" in target:
            return match[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        uri = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if uri is None:
            return f"]({address('Source') or '.'}/blob/main/{path})"
        return f"]({os.path.relpath(uri, os.path.dirname(page))}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\(([^()\s]+)\)", link, markdown)
