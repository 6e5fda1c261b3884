"""Words that tasks are made of, and made-up prose: enough of it for any length, and known to no model by heart."""

from __future__ import annotations

import numpy as np

_ADJECTIVES = """
    amber ancient bitter blue bold brave bright brisk broad bronze calm careful clear clever cold crimson
    curious damp dark deep dim distant dry dusty eager early earnest empty faint famous fierce flat fresh gentle
    giant golden grand grave gray green grim happy hard heavy hidden hollow honest humble icy idle iron ivory
    keen kind large late lazy lean light little lively lonely long loud low lucky mellow mild modest muddy
    narrow neat noble northern odd old pale patient plain polite proud purple quick quiet rapid rare red rich
    ripe rough round royal rusty sad sharp short shy silent silver simple sleepy slow small smooth sober soft
    solemn southern steady steep stern strange strong sturdy sudden sunny sweet swift tall tame tender thick
    thin tidy timid tiny vast warm wary weary western white wide wild wise wooden yellow young
"""
_NOUNS = """
    acorn anchor anvil apple apron arrow badger bakery banner barley barn barrel basin basket beacon beaver bell
    bench blanket boat bonnet bottle branch brick bridge broom bucket butter button cabin candle canoe canvas
    carpet carrot castle cedar cellar chapel cherry chimney cinder cliff clock cloud clover coach comet copper
    coral cottage cradle crane cricket crystal curtain dagger daisy desert dolphin drawer drum eagle ember
    engine falcon feather fence ferry fiddle field flame flute forest fountain fox garden gate ginger glacier
    glove goblet grain granite grove hammer harbor harp hawk hazel hedge helmet heron hill hornet island ivy
    jacket jar jewel kettle kitchen kite ladder lagoon lantern lemon library lily linen lizard locket magnet
    maple marble market meadow mill mirror mitten monkey moon moss mountain needle nest oak ocean olive onion
    orchard otter oven owl paddle palace panther parrot pebble pepper piano pigeon pillow pine planet plaza plum
    pocket pond poppy pumpkin quarry quilt rabbit raft raven ribbon river robin rocket rope rose saddle sail
    salmon sandal school shell shield shovel signal sparrow spider spoon squirrel stable star statue stone
    stream sugar table tailor teapot temple thistle thunder tiger timber tower train trumpet tunnel turtle
    valley velvet vessel village violin wagon walnut weasel wheel willow window wolf zebra
"""
ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
_PEOPLE = (
    "the baker",
    "the captain",
    "the carpenter",
    "the clerk",
    "the doctor",
    "the farmer",
    "the fisherman",
    "the gardener",
    "the guard",
    "the miller",
    "the nurse",
    "the painter",
    "the printer",
    "the sailor",
    "the shepherd",
    "the smith",
    "the teacher",
    "the weaver",
)
_VERBS = (
    "carried",
    "cleaned",
    "drew",
    "found",
    "kept",
    "left",
    "looked at",
    "mended",
    "noticed",
    "passed",
    "praised",
    "remembered",
    "sold",
    "spoke of",
    "walked past",
    "wrote about",
)
_TIMES = ("at dawn", "at noon", "in autumn", "in spring", "in the evening", "long ago", "one winter", "that summer")
_LINKS = ("and", "but", "so", "while")


def compound(number: int) -> str:
    """Word number `number` of 28,566: an adjective and a noun with a hyphen."""
    return f"{ADJECTIVES[number // len(NOUNS) % len(ADJECTIVES)]}-{NOUNS[number % len(NOUNS)]}"


COMPOUNDS = len(ADJECTIVES) * len(NOUNS)
"""How many different words `compound` makes."""


def compounds(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different compounds at random.

    Raises:
        ValueError: there are not so many.
    """
    return [compound(int(number)) for number in rng.choice(COMPOUNDS, size=count, replace=False)]


def sentence(rng: np.random.Generator) -> str:
    """A made-up sentence of ten to twenty words; it holds no number and no hyphen."""
    first = _clause(rng)
    if rng.random() < 0.5:
        first = f"{first}, {_pick(rng, _LINKS)} {_clause(rng)}"
    if rng.random() < 0.4:
        first = f"{_pick(rng, _TIMES)} {first}"
    return f"{first[0].upper()}{first[1:]}."


def paragraph(rng: np.random.Generator) -> str:
    """Five to nine sentences."""
    return " ".join(sentence(rng) for _ in range(int(rng.integers(5, 10))))


def _clause(rng: np.random.Generator) -> str:
    thing = f"the {_pick(rng, ADJECTIVES)} {_pick(rng, NOUNS)}"
    return f"{_pick(rng, _PEOPLE)} {_pick(rng, _VERBS)} {thing} near the {_pick(rng, NOUNS)}"


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
