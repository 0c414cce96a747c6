"""A Matplotlib figure that notebooks can show with a text for those who can't see it.

JupyterLab shows a plain figure only once pyplot is loaded, and drops an `alt` given beside
a PNG; so this figure brings its own picture, also as an HTML image with that `alt`.
"""

from __future__ import annotations

import html
from base64 import b64encode
from io import BytesIO

from matplotlib.figure import Figure

PIXELS_PER_INCH = 144  # half as many again as on screen: sharp when projected


class CourseFigure(Figure):
    """A figure with `alt_text`; make it with `coursekit.plots.style.new_figure`."""

    alt_text: str = ""

    def png(self) -> bytes:
        """The picture as PNG bytes."""
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=PIXELS_PER_INCH)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        encoded = b64encode(self.png()).decode("ascii")
        width = round(self.get_figwidth() * self.dpi)
        return {
            "image/png": encoded,
            "text/html": (
                f'<img src="data:image/png;base64,{encoded}" width="{width}" '
                f'style="max-width: 100%; height: auto" alt="{html.escape(self.alt_text)}">'
            ),
            "text/plain": self.alt_text or repr(self),
        }
