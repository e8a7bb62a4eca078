"""Build hook: the README for PyPI, where relative links need the repository's address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Sets ``readme``, with links to the files of this version at the ``Source`` URL."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the field to the project's metadata."""
        text = (Path(self.root) / "README.md").read_text()
        if source := metadata.get("urls", {}).get("Source"):
            text = linked(text, f"{source}/blob/v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def linked(text: str, base_url: str) -> str:
    """Return Markdown whose relative links are absolute."""
    return re.sub(r"\]\((?![a-z]+:|#)([^()\s]+)\)", rf"]({base_url}/\1)", text)
