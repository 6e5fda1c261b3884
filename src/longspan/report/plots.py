"""Every chart of a report as a file of its own: SVG with its colours written out, PNG by resvg (extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from longspan.errors import ConfigError
from longspan.files import replacing, write_text
from longspan.report.charts import Frame, chart_style, plot, room_for
from longspan.report.figures import Figure, inside_figures, length_figures
from longspan.report.results import Results
from longspan.report.sections import shown_lines

FORMATS = ("svg", "png")
_SCALE = 2
"""Pixels of a PNG for each unit of the chart."""


def write_plots(results: Results, folder: Path, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Write the charts of the lines that a report opens with to `folder`; their paths.

    Raises:
        ConfigError: a format that is neither svg nor png, or PNG without the extra `plots`.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"unknown plot format '{name}': choose from {', '.join(FORMATS)}")
    if "png" in formats:
        _require_resvg()
    shown = shown_lines(results)
    figures = [
        *length_figures(results, shown),
        *inside_figures(results, shown),
        *length_figures(results, shown, costs=True),
    ]
    written = []
    for figure in figures:
        picture = standalone(figure)
        for name in formats:
            path = Path(folder) / f"{figure.name}.{name}"
            if name == "svg":
                write_text(path, picture)
            else:
                write_png(picture, path)
            written.append(path)
    return written


def standalone(figure: Figure) -> str:
    """The chart as an SVG document in light colours, with its title and the names of its lines."""
    curves = [curve for curve in figure.curves if curve.shown]
    names = [curve.short or curve.label for curve in curves] if len(figure.curves) > 1 else []
    room = room_for(names) if names else 14
    frame = Frame(width=400 + room, height=340, right=room, top=58)
    drawn = plot(figure.name, curves, figure.x, figure.y, frame, marks=figure.marks, direct_labels=bool(names))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" width="{frame.width}" '
        f'height="{frame.height}" role="img"><title>{escape(figure.title)}</title><style>{chart_style("light")}</style>'
        '<rect width="100%" height="100%" style="fill:#ffffff"/>'
        f'<text class="title" x="12" y="24">{escape(figure.title)}</text>'
        f"{drawn}</svg>\n"
    )


def write_png(picture: str, path: Path) -> None:
    """Write the SVG document `picture` as PNG, twice as large.

    Raises:
        ConfigError: resvg is not installed.
    """
    _require_resvg()
    import resvg_py

    content = bytes(resvg_py.svg_to_bytes(svg_string=picture, zoom=_SCALE, sans_serif_family="DejaVu Sans"))
    with replacing(path) as part:
        part.write_bytes(content)


def _require_resvg() -> None:
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "PNG needs resvg, which is not installed: pip install 'longspan[plots]', or ask for svg"
        ) from error
