"""Study: methods x lengths x seeds on equal terms, and the demo."""

from longspan.study.config import StudyConfig
from longspan.study.run import compare

__all__ = ["StudyConfig", "compare"]
