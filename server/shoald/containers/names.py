"""Names for containers that were given none: an adjective and a sea creature."""

from __future__ import annotations

import secrets
from collections.abc import Container

# fmt: off
_ADJECTIVES = (
    "able", "amber", "ample", "agile", "bold", "brave", "brisk", "bright", "calm", "candid", "clear", "clever",
    "coral", "crisp", "daring", "deep", "eager", "early", "fair", "fast", "fine", "fleet", "fond", "frank",
    "free", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "honest", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "lucky", "merry", "mild", "neat", "nimble", "noble", "open", "patient", "plain",
    "placid", "proud", "quick", "quiet", "rapid", "ready", "royal", "serene", "sharp", "shiny", "silent",
    "silver", "sleek", "smart", "smooth", "snug", "solid", "spry", "steady", "still", "stout", "sturdy", "subtle",
    "sunny", "swift", "tidy", "tidal", "tranquil", "trim", "true", "vast", "vivid", "warm", "wary", "wise",
    "witty", "young", "zesty",
)
# fmt: on
# fmt: off
_CREATURES = (
    "anchovy", "angler", "barb", "bass", "bream", "brill", "carp", "catfish", "char", "chub", "clam", "cod",
    "conch", "coral", "crab", "cusk", "dab", "dace", "dolphin", "dory", "eel", "flounder", "gar", "goby",
    "gourami", "grayling", "grouper", "gurnard", "guppy", "haddock", "hagfish", "hake", "halibut", "herring",
    "ide", "kelp", "krill", "lamprey", "ling", "lobster", "loach", "lumpfish", "mackerel", "manta", "marlin",
    "minnow", "mullet", "mussel", "narwhal", "nautilus", "octopus", "orca", "otter", "oyster", "perch", "pike",
    "pilchard", "plaice", "pollock", "pomfret", "prawn", "puffer", "ray", "roach", "rudd", "salmon", "sardine",
    "scallop", "seal", "shark", "shrimp", "skate", "smelt", "snapper", "sole", "sprat", "squid", "starfish",
    "sturgeon", "tang", "tarpon", "tench", "tetra", "trout", "tuna", "turbot", "urchin", "wahoo", "whale",
    "whiting", "wrasse", "zander",
)
# fmt: on


def random_name(taken: Container[str]) -> str:
    """A free name such as "swift_tuna"; with a number when the pairs run out."""
    for attempt in range(1000):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_CREATURES)}"
        if attempt >= 10:
            name += str(secrets.randbelow(10 ** (1 + attempt // 50)))
        if name not in taken:
            return name
    return f"shoal_{secrets.token_hex(8)}"
