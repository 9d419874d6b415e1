"""Records and quoting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.errors import CloudError

LINE = st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=("Cs",)))


@given(st.lists(LINE))
def test_words_undoes_quote(items):
    assert ndb.words(" ".join(map(ndb.quote, items))) == items


@given(st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), LINE))
def test_parse_undoes_record(pairs):
    assert ndb.parse(ndb.record(pairs)) == pairs


@given(st.text())
def test_any_text_parses_or_is_refused(text):
    if text.count("'") % 2 == 0:
        ndb.words(text)
    else:
        with pytest.raises(CloudError):
            ndb.words(text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exec sh -c 'date; sleep 600'", ["exec", "sh", "-c", "date; sleep 600"]),
        ("why='it''s late'", ["why=it's late"]),
        ("''", [""]),
        ("''''", ["'"]),
        ("a''b", ["ab"]),
        ("a'b''c'd 'x''y'", ["ab'cd", "x'y"]),
        ("'a b'c\u2003d\te", ["a bc\u2003d", "e"]),
        ("  \t ", []),
    ],
)
def test_words(line, words):
    assert ndb.words(line) == words


def test_an_open_quote_is_refused_with_the_fix():
    with pytest.raises(CloudError, match="no closing quote") as caught:
        ndb.words("exec 'sleep 5")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a\0b", "NUL"), (b"\xff\xfe", "UTF-8 at byte 0"), (b"x" * (ndb.MAX_LINE + 1), "at most")],
)
def test_bad_lines_are_refused(data, said):
    with pytest.raises(CloudError, match=said):
        ndb.text_line(data)


def test_numbers_are_plain():
    record = ndb.record({"a": 0.1 + 0.2, "b": 3.0, "c": None, "d": 1e-9, "e": 4000000000})
    assert record == "a=0.3 b=3 c= d=0 e=4000000000"


def test_a_record_is_one_line():
    assert "\n" not in ndb.record({"why": "one\ntwo"})
