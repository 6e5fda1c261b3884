"""Finds LongRoPE's factors for a model: an evolution of vectors, judged by perplexity at the target length."""

from longspan.search.evolution import Individual, SearchSettings
from longspan.search.factors import Candidate, Space
from longspan.search.folder import SearchFolder
from longspan.search.run import FactorSearch, FoundFactors, pieces, search_factors

__all__ = [
    "Candidate",
    "FactorSearch",
    "FoundFactors",
    "Individual",
    "SearchFolder",
    "SearchSettings",
    "Space",
    "pieces",
    "search_factors",
]
