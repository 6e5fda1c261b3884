"""`longspan methods`: what can be done to a window, or one method's card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.interrupts import interrupts
from longspan.cli.options import Common, with_common


@with_common
def run(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this method's card.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page of all cards, as docs/methods.md.")
    ] = None,
    *,
    common: Common,
) -> None:
    """List the methods, or print one method's card.

    A card has the formula, its source, where implementations differ, what it was checked against, and training.
    """
    from longspan import registry
    from longspan.files import write_text

    interrupts.ready()
    if markdown is not None:
        write_text(markdown, _page())
        common.say(f"wrote {markdown}")
        return
    if name is not None:
        method = registry.find_method(name)
        typer.echo(registry.card(name).strip())
        common.write({"name": name, "slots": list(method.slots()), "card": registry.card(name)})
        return
    rows = [
        {"name": name, "slots": list(method.slots()), "summary": registry.summary(name)}
        for name, method in registry.all_methods().items()
    ]
    width = max(len(str(row["name"])) for row in rows)
    slot_width = max(len(", ".join(row["slots"])) for row in rows)
    for row in rows:
        typer.echo(f"{row['name']:{width}}  {', '.join(row['slots']):{slot_width}}  {row['summary']}")
    common.write({"methods": rows})


def _page() -> str:
    from longspan.registry import all_methods, card

    parts = [
        "# Methods\n\n"
        "Written by `longspan methods --markdown docs/methods.md` from the cards in `src/longspan/methods`; "
        "edit those.\n"
    ]
    for name, method in all_methods().items():
        slots = ", ".join(method.slots()) or "none"
        parts.append(f"\n## {name}\n\nSlots: {slots}\n\n```text\n{card(name).strip()}\n```\n")
    return "".join(parts)
