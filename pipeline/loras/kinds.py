"""The kinds of change that a LoRA file can hold for a module, by the tensors that it has there."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum


class AdapterKind(StrEnum):
    """A way to write a change of a weight; the values are the names that users know."""

    LORA = "LoRA"  # two factors; of a convolution also LoCon
    CP = "CP-LoCon"  # with a third factor in the middle
    LOHA = "LoHa"
    LOKR = "LoKr"
    GLORA = "GLoRA"
    IA3 = "IA3"
    OFT = "OFT"  # also BOFT, whose blocks have one dimension more
    DIFF = "difference"  # the whole difference, of weight and bias
    NORM = "norm difference"
    BIAS = "bias difference"


# What a kind needs, in alternatives, and what it may have beside that.
_NEEDS: tuple[tuple[AdapterKind, frozenset[str], frozenset[str]], ...] = (
    (AdapterKind.CP, frozenset({"down", "up", "mid"}), frozenset({"alpha", "dora_scale", "magnitude", "diff_b"})),
    (AdapterKind.LORA, frozenset({"down", "up"}), frozenset({"alpha", "dora_scale", "magnitude", "up_bias", "diff_b"})),
    (
        AdapterKind.LOHA,
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        frozenset({"hada_t1", "hada_t2", "alpha", "dora_scale", "diff_b"}),
    ),
    *(
        (AdapterKind.LOKR, first | second, frozenset({"alpha", "dora_scale", "diff_b", *tucker}))
        for first in (frozenset({"lokr_w1"}), frozenset({"lokr_w1_a", "lokr_w1_b"}))
        for second, tucker in (
            (frozenset({"lokr_w2"}), ()),
            (frozenset({"lokr_w2_a", "lokr_w2_b"}), ("lokr_t2",)),
        )
    ),
    (AdapterKind.GLORA, frozenset({"glora_a1", "glora_a2", "glora_b1", "glora_b2"}), frozenset({"alpha", "diff_b"})),
    (AdapterKind.IA3, frozenset({"weight", "on_input"}), frozenset()),
    (AdapterKind.OFT, frozenset({"oft_blocks"}), frozenset({"rescale", "alpha"})),
    (AdapterKind.DIFF, frozenset({"diff"}), frozenset({"diff_b", "alpha"})),
    (AdapterKind.NORM, frozenset({"w_norm"}), frozenset({"b_norm"})),
    (AdapterKind.BIAS, frozenset({"diff_b"}), frozenset()),
)


def kind_of(sides: Set[str]) -> AdapterKind | None:
    """The kind that tensors of these names make for one module; None if they are no known kind, or not all of it."""
    return next((kind for kind, needs, may in _NEEDS if needs <= sides <= needs | may), None)
