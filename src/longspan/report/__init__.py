"""Report: tables, charts, the README picture and one HTML page, all of them functions of records alone."""

from longspan.report.page import write_report
from longspan.report.picture import write_picture
from longspan.report.readme import update_readme
from longspan.report.table import markdown_table

__all__ = ["markdown_table", "update_readme", "write_picture", "write_report"]
