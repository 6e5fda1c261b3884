"""The slots of the equation: what a method may fill. A method is one frozen dataclass with pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from longspan.regions import RegionRule
from longspan.rotation import Layout, Magnitudes, Rotate
from longspan.settings import check_settings
from longspan.window import Window


class Method:
    """One idea: a frozen dataclass that fills slots of the equation. The module's docstring is its card."""

    __slots__ = ()

    scales_window: ClassVar[bool] = False
    """Whether it acts through `Window.factor`, so that factor 1 changes nothing."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.check()

    def check(self) -> None:
        """Refuse settings outside their range or at odds with each other; types are checked before.

        Raises:
            MethodError: in one line, what should hold.
        """

    @classmethod
    def slots(cls) -> tuple[str, ...]:
        """Names of the slots this method fills."""
        return tuple(name for name, slot in SLOTS.items() if issubclass(cls, slot))

    @classmethod
    def only_trains(cls) -> bool:
        """Whether a trained model no longer needs it."""
        return cls.slots() == ("position",)


class Frequency(Method):
    """Slot omega: how fast each pair turns."""

    __slots__ = ()

    follows_length: ClassVar[bool] = False
    """Whether omega depends on `Window.length`: then keys are cached un-rotated and turned afresh each time."""

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        """Radians a token of each pair."""
        raise NotImplementedError

    def changes_with_length(self) -> bool:
        """Whether these settings make omega follow the current length."""
        return self.follows_length

    def plain_until(self) -> int:
        """The first position that turns by `frequency`; those below it turn as plain RoPE turns them.

        Above 0, scores depend on absolute positions.
        """
        return 0

    def in_training(self, window: Window, step: int) -> Float64[Tensor, " F"]:
        """Radians a token of each pair in a training step, counted from 0 over the whole run."""
        return self.frequency(window)


class Scale(Method):
    """Slot tau: a factor on all logits of a query."""

    __slots__ = ()

    def scale(self, window: Window, positions: Tensor) -> Tensor:
        """tau of queries at `positions` (any shape, integers), same shape, float64."""
        raise NotImplementedError


class Bias(Method):
    """Slot b: a number added to a logit."""

    __slots__ = ()

    def bias(self, heads: int, distance: Tensor) -> Tensor:
        """b for query-minus-key `distance` (`B T S` or `T S`) as `... H T S`, float32."""
        raise NotImplementedError


Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Dense attention of q `B H T D`, k and v: causal without a mask, as the mask `B 1 T S` says with one."""


class Selection(Method):
    """Slot S(i): the keys that a query sees, by their place in storage, causality included; all, but for subclasses."""

    __slots__ = ()

    def seen(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], lengths: Sequence[int] | None = None
    ) -> Bool[Tensor, "B H T S"]:
        """The definition: what each query sees. q and k are rotated; the queries are the last T of the S tokens.

        Args:
            lengths: tokens of each row that are no padding on the right.
        """
        raise NotImplementedError


class PartSelection(Selection):
    """What each query sees follows from its place: parts of the sequence attend by themselves."""

    __slots__ = ()

    def attend(
        self,
        attention: Attention,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B G T D"],
        v: Float[Tensor, "B G T V"],
        mask: Tensor | None,
    ) -> Float[Tensor, "B H T V"]:
        """The same, fast: by dense attention of parts. A mask limits what is seen further."""
        raise NotImplementedError


class RegionSelection(Selection):
    """What each query sees follows from what stands there: groups choose regions of the past. Kernels do the work."""

    __slots__ = ()

    def rule(self) -> RegionRule:
        """How sequences are cut and regions chosen."""
        raise NotImplementedError


class Feature(Method):
    """Slots phi and psi: what is rotated instead of q and k themselves.

    Both maps act on the R rotated elements and return either pairs (`... 2F`) or only the first member of each pair
    (`... F`, the second being 0): `rotate` takes both, and the short form needs half the work and half the cache.
    """

    __slots__ = ()

    def rotary_dim(self, rotary_dim: int) -> int:
        """Elements that rotate after the map (2F), given the model's R."""
        return rotary_dim

    def parameters(self, key_heads: int, rotary_dim: int) -> dict[str, Tensor]:
        """Learned tensors of one layer at their initial values, by name."""
        return {}

    def phi(self, q: Float[Tensor, "*B T R"], layout: Layout) -> Float[Tensor, "*B T W"]:
        """Feature of the query before rotation."""
        raise NotImplementedError

    def psi(
        self, k: Float[Tensor, "*B S R"], layout: Layout, parameters: Mapping[str, Tensor]
    ) -> Float[Tensor, "*B S W"]:
        """Feature of the key before rotation; this is what a cache of un-rotated keys holds."""
        raise NotImplementedError

    def query(self, q: Float[Tensor, "*B T R"], rotate: Rotate, layout: Layout) -> Float[Tensor, "*B T W"]:
        """Feature of the query after rotation."""
        return rotate(self.phi(q, layout))

    def turns_last(self) -> bool:
        """Whether the query's feature is made before rotation, by phi alone."""
        return True

    def halves_keys(self) -> bool:
        """Whether a model's key projection makes one number for each pair, which both members get."""
        return False

    def magnitudes(self) -> Magnitudes | None:
        """phi and psi by name, where they are maps that one pass over q and k makes together with the rotation."""
        return None


Where = Callable[[Tensor], Tensor]
"""Positions -> positions, whole or not, of the same shape."""


class Band(NamedTuple):
    """The keys from one position to another, seen from each query, and where both stand in this band."""

    first: Where
    """Of a query's position: the lowest position of a key in the band."""
    last: Where
    """Of a query's position: the highest one; below `first`: the band is empty for that query."""
    query: Where
    """Where a query stands for the keys of this band."""
    key: Where
    """Where a key stands in this band."""


class Bands(Method):
    """Slots p and S where they depend on how far apart query and key are: positions that differ by band of keys."""

    __slots__ = ()

    def bands(self, window: Window) -> tuple[Band, ...]:
        """Bands that do not overlap; a key in none of them is not seen. Keys behind a query are never seen."""
        raise NotImplementedError

    def kept(self, window: Window) -> tuple[int, int] | None:
        """First tokens and nearest ones (the query's own among them) beside which no query sees any; None: no bound."""
        del window
        return None


class Draw(NamedTuple):
    """What stands in one training window, and where."""

    tokens: Int64[np.ndarray, " n"]
    """Places in the document, or in the window itself where its tokens are given."""
    positions: Int64[np.ndarray, " n"]
    """p of each token: what the rotary module turns by, and nobody else."""
    unlearned: Int64[np.ndarray, " m"]
    """Places in the window whose token is not learned."""


class Position(Method):
    """Slot p: where the tokens of a training window stand. Training only: a model is used at positions 0 .. N-1.

    Attention stays causal by place in the window, whatever the positions are.
    """

    __slots__ = ()

    needs_turns: ClassVar[bool] = False
    """Whether it acts between the turns of a conversation, so that other text has nothing for it."""

    def draw(
        self,
        length: int,
        window: Window,
        rng: np.random.Generator,
        *,
        document: int | None = None,
        turns: Int64[np.ndarray, " n"] | None = None,
    ) -> Draw:
        """A window of `length` tokens: the same `rng`, the same window.

        Args:
            document: tokens to choose from, at least `length`; None if the tokens of the window are given.
            turns: number of the block of each token, in a conversation: 0 the first instruction, 1 its response, ...

        Raises:
            LengthError: the window does not fit the target.
        """
        raise NotImplementedError

    def reach(self, length: int, window: Window) -> int | None:
        """Tokens of one document that a window of `length` is chosen from; None: a whole document.

        Not above `length`, the window is a plain stretch of text.
        """
        return length

    def ends_at(self, length: int, window: Window, document: int) -> int:
        """How far positions go in the windows of `length` tokens of a document of so many; what the target is for."""
        del length, document
        return window.target_length

    def shared(self) -> bool:
        """Whether all windows of an optimizer step are given the same draw."""
        return False

    def for_run(self, train_length: int, steps: int) -> Position:
        """The same method with what it takes from the training run written into its settings."""
        return self


def plain_draw(length: int, positions: Int64[np.ndarray, " n"] | None = None) -> Draw:
    """A window whose tokens follow each other, at `positions` (0, 1, 2, ...)."""
    place = np.arange(length)
    return Draw(place, place if positions is None else positions, place[:0])


SLOTS: dict[str, type[Method]] = {
    "feature": Feature,
    "frequency": Frequency,
    "scale": Scale,
    "bias": Bias,
    "position": Position,
    "selection": Selection,
    "bands": Bands,
}
