"""Live widgets: each turns a knob of a running model and shows what follows.

Importing this package loads neither ipywidgets nor Matplotlib; a widget loads them when it is
first named. Each widget's module also offers the same picture as a plain function.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "ChunkTimeline": ".chunk_timeline",
    "ChunkTuner": ".chunk_tuner",
    "TimelineExplorer": ".timeline_explorer",
    "TradeoffExplorer": ".tradeoff_explorer",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
