"""Whether a fast kernel may be used: it proves itself on a small input at first use, or a plain one runs instead.

A kernel that is wrong on this machine (another compiler, driver or chip than those it was written on) must never give a
wrong result, and a kernel that cannot run must say so: once, with the reason and with what runs in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

logger = logging.getLogger(__name__)

_verdicts: dict[tuple[str, Hashable], bool] = {}


def trusted(kernel: str, situation: Hashable, check: Callable[[], str | None], *, instead: str) -> bool:
    """Whether `kernel` may run in this situation; `check` is called at the first question and its verdict kept.

    Args:
        kernel: its name, for people.
        situation: what the verdict depends on: device type, dtype, head size and the like.
        check: compares the kernel with the plain path on a small input; gives None, or the reason against it. Whatever
            it raises counts as a reason, since compilers raise errors of any kind.
        instead: what runs otherwise, for people.
    """
    verdict = _verdicts.get((kernel, situation))
    if verdict is None:
        try:
            reason = check()
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        verdict = _verdicts[kernel, situation] = reason is None
        if reason is not None:
            logger.warning("%s is not used (%s); %s runs instead", kernel, reason, instead)
    return verdict
