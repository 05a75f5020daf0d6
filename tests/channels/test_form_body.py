"""The form splitter reads what the standard library reads."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.form_body import MAX_FIELDS, split_form

BODIES = st.lists(st.sampled_from(["a", "b", "=", "&", "+", "%20", "%C3%A9", "%", "%zz", "é", "", ";"])).map("".join)


@given(BODIES)
def test_it_reads_what_the_standard_library_reads(text: str) -> None:
    pairs, whole = split_form(text.encode())
    assert list(pairs) == parse_qsl(text, keep_blank_values=True, errors="strict")
    try:
        parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except ValueError:
        assert not whole
    else:
        assert whole


@pytest.mark.parametrize("body", [b"\xff=1", b"a=%ff", b"&".join([b"a=1"] * (MAX_FIELDS + 1))])
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_form(body)
