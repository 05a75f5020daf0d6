"""What a browser reports of a call's sound: checked, kept per leg, summed up."""

from __future__ import annotations

from typing import Any

import pytest

from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from routing import sound_quality

GOOD: dict[str, Any] = {
    "seconds": 61, "warnings": {}, "lost": 0, "samples": 60, "mos": 4.2, "rtt_ms": 40.5, "jitter_ms": 2,
    "loss_percent": 0.1, "worst": {"mos": 4.0},
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"mos": "4"}, {"mos": float("nan")}, {"rtt_ms": -1}, {"lost": True}, {"warnings": []}, {"seconds": 10**9},
        {"warnings": {f"w{number}": 1 for number in range(21)}},
    ],
)  # fmt: skip
def test_what_no_browser_could_have_measured_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        sound_quality.check({**GOOD, **wrong})


def test_names_of_a_stranger_are_not_kept() -> None:
    kept = sound_quality.check({**GOOD, "warnings": {"high-rtt": 2, "<script>": 1, "low-mos": 0, "x": "many"}})
    assert kept["warnings"] == {"high-rtt": 2}
    assert "worst" not in kept


def test_a_call_is_as_poor_as_its_poorest_leg() -> None:
    call = Interaction(
        id="i", conversation_id="c", channel="voice", direction="inbound", account_id="a", state="ended", first_arrival_at=None,  # type: ignore[arg-type]
        created_at=None,  # type: ignore[arg-type]
    )  # fmt: skip
    assert sound_quality.of(call) is None
    call.data = {"quality": {"CA1": sound_quality.check(GOOD)}}
    fine = sound_quality.of(call)
    assert fine is not None
    assert (fine.mos, fine.poor) == (4.2, False)
    call.data["quality"]["CA2"] = sound_quality.check({**GOOD, "mos": 2.9, "lost": 1, "warnings": {"high-rtt": 3}})
    poor = sound_quality.of(call)
    assert poor is not None
    assert (poor.mos, poor.lost, poor.warnings, poor.poor) == (2.9, 1, {"high-rtt": 3}, True)
