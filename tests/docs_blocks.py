"""Code blocks of README and docs."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"(?:^ *<!-- ([^\n]*) -->\n\n?)?^( *)```(\w*)[^\n]*\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
_QUOTE = re.compile(r"^# quote: (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    :param page: the page's path in the repository.
    :param number: the block's number on the page.
    :param note: the comment before it.
    :param code: its content, with quoted files.
    :param quotes: the quoted files.
    """

    page: str
    number: int
    language: str
    note: str
    code: str
    quotes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}, block {self.number}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    return [
        Block(
            page=str(page.relative_to(REPO)),
            number=number,
            language=language,
            note=note,
            code=_QUOTE.sub(lambda match: (REPO / match[1]).read_text().rstrip("\n"), textwrap.dedent(code)),
            quotes=tuple(_QUOTE.findall(code)),
        )
        for number, (note, _, language, code) in enumerate(_BLOCK.findall(page.read_text()), 1)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
