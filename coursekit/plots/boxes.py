"""Many boxes as one path: a thousand patches take Matplotlib a second to draw, one path nothing.

All boxes of a path share their colours and hatch. A path holds boxes only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path


def path_of(left, right, bottom, top) -> Path:
    """The path of boxes given by their sides, each (num_boxes,)."""
    from matplotlib.path import Path

    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    points = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(points.reshape(-1, 2), np.tile(codes, len(points)))


def boxes_of(patch: PathPatch) -> list[tuple[float, float, float, float]]:
    """What a patch with such a path shows: (left, right, bottom, top) of each box."""
    corners = patch.get_path().vertices.reshape(-1, 5, 2)
    return [(box[0][0], box[1][0], box[0][1], box[2][1]) for box in corners.tolist()]
