"""How every figure looks: one style, colours that colour-blind readers tell apart.

matplotlib is imported when one is drawn; neither pyplot's state nor its back end is used.
"""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), without its yellow, which is too pale for lines on white
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
PALETTE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
MARKERS = "osD^vPX<>h"
PALE, GREY, INK = "#C9CED6", "#6B7280", "#1F2933"

STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # words stay words: the page sets their font
    "svg.hashsalt": "compressor",  # equal figures, equal files
}


@contextmanager
def drawing(width: float, height: float) -> Iterator["Figure"]:
    """A figure in our style, inches wide and high; save it before the block ends."""
    loggers = [logging.getLogger(name) for name in ("matplotlib", "matplotlib.font_manager")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # the first import on a machine announces its font cache
            logger.setLevel(logging.ERROR)
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}):
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(figure)
            yield figure
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def svg(figure: "Figure") -> str:
    """The figure as an <svg> element for a page: no prolog, no metadata, words as text."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    return text.strip()


def scale(largest: float) -> tuple[float, str]:
    """Divisor and unit that bring `largest` between 1 and 1000: 4_089_284_608 -> (1e9, "G")."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= factor:
            return factor, unit
    return 1.0, ""


def no_tick_above_one(axes: "Axes") -> None:
    """Accuracy ends at 1: room above it for labels and bars gets no number."""
    bottom, top = axes.get_ylim()
    if top > 1:
        ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= 1 + 1e-9]
        axes.set_yticks(ticks)
        axes.set_ylim(bottom, top)
