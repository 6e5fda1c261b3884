"""What each method has been shown to do, by its sources: the factor it reached, and the training that took.

One row a method. A factor is the largest at which the source shows perplexity within 1.3 x of its value inside the
window (and, where it measured retrieval, at least half of the passkeys); published models are mostly 7B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Training = Literal["none", "tune", "search", "scratch", "vendor"]
"""Nothing; fine-tuning at the target length; a search for its settings, then as it is; from scratch or a long
conversion; what only the maker of a model did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One method's row."""

    training: Training
    """The least that it takes to be of use."""
    untrained: float = 1
    """Largest factor shown without training."""
    trained: float = 1
    """Largest factor shown after the training that it asks for."""
    tokens: str = "none"
    """Tokens of that training."""
    source: str
    """Where these numbers stand."""


PUBLISHED: Mapping[str, Published] = {
    "alibi": Published(
        training="scratch",
        trained=2,
        tokens="from scratch",
        source="arXiv:2309.08646 tables 1 and 2, 350M: perplexity 1.14 x and passkey .65 at 2 x",
    ),
    "base_change": Published(
        training="tune", trained=8, tokens="80B", source="arXiv:2309.16039: Llama-2-7B from 4k to 32k"
    ),
    "coca": Published(
        training="scratch",
        trained=1,
        tokens="22B",
        source="arXiv:2309.08646 (slack form): alone perplexity 2.9 x at 2 x; with dynamic_ntk LLaMA-7B 1.16 x and "
        "passkey .85 at 4 x, with pi tuned at 16 x perplexity .95 x and passkey .99",
    ),
    "crd_ntk": Published(
        training="tune",
        tokens="82M",
        source="arXiv:2410.04211, its abstract alone: tuned on 5000 windows of 16k, read 1M; no table was at hand",
    ),
    "dense": Published(training="none", source="arXiv:2410.04211, 2309.12307: lengthens nothing, undoes a selection"),
    "dual_chunk": Published(
        training="none",
        untrained=20,
        source="the README of HKUNLP/ChunkLlama, Llama-3-8B (8k): PG-19 perplexity 1.22 x at 160k",
    ),
    "dynamic_ntk": Published(
        training="none",
        untrained=2,
        source="arXiv:2309.08646 tables 1 and 2, LLaMA-7B: perplexity 1.29 x and passkey .81 at 2 x, .26 at 4 x",
    ),
    "llama3": Published(
        training="vendor", tokens="by the vendor", source="the Llama 3.1 release (factor 8); no paper measures it alone"
    ),
    "lm_infinite": Published(
        training="none", source="arXiv:2308.16137; reads on without end, but what lies in the middle is not seen"
    ),
    "log_n": Published(
        training="none", source="kexue.fm/archives/8823; sharpens logits beside a method that changes frequencies"
    ),
    "long_rope": Published(
        training="search",
        untrained=4,
        trained=512,
        tokens="6.7B",
        source="arXiv:2402.13753, Llama-2-7B, factors searched: PG-19 at 16k 1.21 x that at 8k; 2048k after 400 steps "
        "of 32 x 128k and 600 of 32 x 256k, Books3 1.08 x that at 8k",
    ),
    "ntk": Published(
        training="none",
        untrained=4,
        trained=4,
        tokens="1B",
        source="arXiv:2309.10400, LLaMA-7B set to 8 x: perplexity 1.22 x at 4 x untrained, and a wall at 8 x, tuned or "
        "not: set it to twice the factor needed",
    ),
    "pi": Published(
        training="tune",
        untrained=1,
        trained=16,
        tokens="0.5B to 4.2B",
        source="arXiv:2306.15595: LLaMA-7B from 2k to 32k in 1000 steps; untrained 9 x the perplexity "
        "(arXiv:2309.10400)",
    ),
    "pope": Published(
        training="scratch",
        tokens="from scratch",
        source="arXiv:2509.10534, read second-hand: tested to 10 x; no number of its reach is known here",
    ),
    "pose": Published(
        training="tune",
        trained=8,
        tokens="131M",
        source="arXiv:2309.10400: LLaMA-7B from 2k to 16k beside pi, 1000 steps of 64 x 2k tokens",
    ),
    "random_positions": Published(
        training="tune",
        tokens="131M",
        source="arXiv:2309.10400, the baseline RandPos of LLaMA-7B: perplexity 11.6 to 15.2 at 16k",
    ),
    "re_rope": Published(
        training="none",
        untrained=4,
        source="kexue.fm/archives/9708, Llama-2-13B: loss of the last 4k tokens 1.50 at 4k, 1.40 at 16k, with log_n",
    ),
    "rope": Published(training="none", source="arXiv:2104.09864; perplexity bursts right behind the window"),
    "s2": Published(
        training="tune",
        tokens="as the method beside it",
        source="arXiv:2309.12307: makes training at the target length cheaper; full attention afterwards",
    ),
    "select_merge": Published(
        training="tune",
        tokens="82M",
        source="arXiv:2410.04211, its abstract alone: with crd_ntk tuned on 5000 windows of 16k, read 1M; no table was "
        "at hand",
    ),
    "self_extend": Published(
        training="none",
        source="arXiv:2401.01325; no number of its reach is known here",
    ),
    "skip_align": Published(
        training="tune",
        tokens="instructions",
        source="arXiv:2405.03939, read second-hand; no number of its reach is known here",
    ),
    "streaming": Published(
        training="none",
        source="arXiv:2309.17453; reads on without end, but what lies in the middle is not seen",
    ),
    "yarn": Published(
        training="none",
        untrained=8,
        trained=32,
        tokens="1.7B to 2.5B",
        source="arXiv:2309.10400, LLaMA-7B: perplexity 1.23 x at 8 x untrained; arXiv:2309.00071, Llama-2-7B: 128k "
        "after 400 and 200 steps of 64 x 64k, passkey .99",
    ),
}
