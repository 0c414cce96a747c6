"""Text for those who can't see the page: there for screen readers, and for nobody else."""

from __future__ import annotations

from html import escape

_OFF_THE_PAGE = (
    "position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; "
    "clip-path: inset(50%); white-space: nowrap"
)


def for_ears(text: str) -> str:
    """`text` as HTML that takes no place on the page and is read out."""
    return f'<p style="{_OFF_THE_PAGE}">{escape(text)}</p>'
