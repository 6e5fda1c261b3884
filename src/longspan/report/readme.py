"""Generated tables inside pages that people write, between two markers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from longspan.errors import DataError
from longspan.files import write_text


def update_readme(page: Path, tables: Mapping[str, str], *, check: bool = False) -> bool:
    """Put each of `tables` between `<!-- table:NAME -->` and `<!-- /table:NAME -->` in `page`.

    Args:
        page: a Markdown file.
        tables: content by NAME.
        check: write nothing, only say whether the page would change.

    Returns:
        Whether the page differed from what the tables make of it.

    Raises:
        DataError: the page is missing, or has no such pair of markers.
    """
    page = Path(page)
    if not page.is_file():
        raise DataError(f"{page} does not exist: name the page that holds the table markers")
    old = page.read_text(encoding="utf-8")
    new = old
    for name, content in tables.items():
        start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
        pattern = re.compile(re.escape(start) + r"\n.*?" + re.escape(end), flags=re.DOTALL)
        if pattern.search(new) is None:
            raise DataError(f"{page} has no place for the table '{name}': add the lines {start} and {end}")
        block = f"{start}\n{content.strip()}\n{end}"
        new = pattern.sub(lambda _, block=block: block, new)  # type: ignore[misc]
    if new != old and not check:
        write_text(page, new)
    return new != old
