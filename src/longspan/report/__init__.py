"""Report: tables, charts, the README picture and one HTML page, all of them functions of records alone."""

from longspan.report.markdown import write_markdown
from longspan.report.page import write_page, write_report
from longspan.report.picture import write_picture
from longspan.report.plots import write_plots
from longspan.report.readme import update_readme
from longspan.report.sources import read_sources
from longspan.report.table import markdown_table

__all__ = [
    "markdown_table",
    "read_sources",
    "update_readme",
    "write_markdown",
    "write_page",
    "write_picture",
    "write_plots",
    "write_report",
]
