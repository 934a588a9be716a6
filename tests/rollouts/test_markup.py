"""What an agent sees of a text with XML in it: what the sotopia library's reader shows, and nothing withheld."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sotopia_rl_data.rollouts.markup import fault, shown

# What the library's reader (lxml 6.1.3, libxml2 2.14.6) shows the first agent.
AS_THE_LIBRARY = [
    ("plain", "plain"),
    ("a & b", "a & b"),
    ("a &amp; b", "a & b"),
    ("a &lt;b&gt; c", "a <b> c"),
    ("a &#65; b", "a A b"),
    ("a &foo; b", "a &foo; b"),
    ("\r\nx\ry & z", "\nx\ny & z"),
    ("a <p viewer='agent_1'>x</p> y", "a  y"),
    ('a <p viewer="agent_0">x</p> y', "a x y"),
    ("a <p viewer='agent_10'>x</p>", "a "),
    ("a <p viewer='agent_0, agent_1'>x</p> y", "a  y"),
    ("a <p viewer='agent_1'>x<p>y</p></p> z", "a  z"),
    ("a <p viewer='agent_1'>x", "a "),
    ("a <p viewer='agent_1'", "a "),
    ("a <strategy_hint viewer='agent_0'>x</strategy_hint>", "a x"),
    ("<extra_info>all of it</extra_info>", "all of it"),
    ("a <extra_info>v<b>h</b></extra_info> z", "a v z"),
    ("a <p><clarification_hint>x</clarification_hint></p>", "a x"),
    ("a <root>x</root> y", "a x y"),
    ("a <p id='1'>x</p>", "a x"),
    ("a <p/>b", "a b"),
    ("a <P>x</P> b", "a  b"),
    ("a <b>x</b> y", "a  y"),
    ("a <!-- c --> b", "a  b"),
    ("a <?pi x?> b", "a  b"),
    ("a <![CDATA[x<y]]> b", "a x<y b"),
    # from here on not well-formed
    ("I <3 this & that < 40 dollars > 20", "I 3 this  that  40 dollars > 20"),
    ("a &amp; b < c", "a &amp; b  c"),
    ("a < b &amp; c", "a  b amp; c"),
    ("he said <i>no</i> & left", "he said  & left"),
    ("a <b>x</c> y", "a  y"),
    ("a </b> c", "a "),
    ("a <b> c", "a "),
    ("</root>a", ""),
    ("x<", "x"),
    ("x</", "x"),
    ("a <- b", "a - b"),
    ("a<1>b</1>c", "a1>b"),
    ("a <!-- b <p>c</p> d", "a "),
    ("a <?pi b <p>c</p>", "a "),
    ("a <![CDATA[ b <p>c</p> d", "a "),
    ("a <!- b", "a !- b"),
    ("a <p y>x</p> z", "a x z"),
    ("a <p viewer='agent_1' q>x</p> y", "a  y"),
    ("hey <i nothing 3", "hey 3"),
    ("hey <i did nothing", "hey nothing"),
    ("hey <i y='1' z w", "hey w"),
    ("hey <name@x.com> you", "hey @x.com> you"),
    ("🙂 <b>", "🙂 "),
]

# Where the library's reader shows something else: (text, what it shows the first agent, what is shown here).
NOT_AS_THE_LIBRARY = [
    # it shows these to somebody whom they are not for
    ("<p viewer='agent_1'>x</p>", "x", ""),
    ("a <p viewer=agent_1>x</p> y", "a agent_1>x", "a  y"),
    ("a <p viewer='agent_1' viewer='agent_0'>x</p> y", "a x y", "a  y"),
    ("a <p viewer>x</p> y", "a x y", "a  y"),
    ("a <p Viewer='agent_1'>x</p> y", "a x y", "a  y"),
    ("a <p viewer='agent_1'>x </b> y</p> z", "a  y", "a  z"),
    # it loses what stands before these, with the versions of libxml2 that were tried
    ("a ]]> b", "]> b", "a ]]> b"),
    ("a \x01 b & c", "a  b  c", "a  b & c"),
    ("a <p viewer='agent_1> x</p> y", "a ", "a  y"),
]


@pytest.mark.parametrize(("text", "seen"), AS_THE_LIBRARY)
def test_a_text_is_shown_as_the_library_shows_it(text, seen):
    assert shown(text, 0) == seen


@pytest.mark.parametrize(("text", "library", "seen"), NOT_AS_THE_LIBRARY)
def test_what_differs_is_known(text, library, seen):
    assert shown(text, 0) == seen != library


FRAGMENTS = (
    "a| |<|>|&|&amp;|<b>|</b>|<p>|<p/>|<extra_info>|</extra_info>|<i|</|'|</root>|<name@x>|\x01|]]>"
    "|<p viewer='agent_0'>|<p viewer=\"agent_1\">|<p viewer=agent_0>"
)
PIECES = st.lists(st.sampled_from(FRAGMENTS.split("|")), max_size=6).map("".join)


@pytest.mark.slow
@given(before=PIECES, inside=PIECES, after=PIECES, tag=st.sampled_from(["p", "extra_info", "b"]))
@example(before="<p viewer='agent_0'>", inside="</b>", after="", tag="p")
def test_a_span_for_somebody_else_stays_hidden_whatever_stands_around_it(before, inside, after, tag):
    closing = f"</{tag}>"
    inside = inside.replace(closing, "")
    text = f"{before}<{tag} viewer='agent_1'>{inside}SECRET{closing}{after}"
    assert "SECRET" not in shown(text, 0)
    assert "SECRET" not in shown(text, 2)


@pytest.mark.slow
@pytest.mark.parametrize("again", ["<!--", "<?a ", "<p>", "<![CDATA[", "</p>", '<p a="', "<p viewer", "&", "<"])
def test_a_model_that_repeats_itself_for_ever_is_read_in_a_moment(again):
    started = time.process_time()
    shown(again * 20_000, 0)
    assert time.process_time() - started < 2


@given(st.text(), st.integers(0, 3))
def test_any_text_is_shown_somehow_and_plain_text_as_it_is(text, place):
    seen = shown(text, place)
    if not set(text) & {"<", "&", "\r"} and text.isprintable():
        assert seen == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5 &lt; 6 &amp; <p viewer='agent_1'>x</p><extra_info>y</extra_info>", None),
        ("R & B", None),
        ("5 &lt; 6 & more", 'a plain "&" beside entities'),
        ("<p viewer='environment'>x</p>", None),
        ("5 < 6", "not well-formed"),
        ("a <b>c</b>", "the element <b>"),
        ("a <p viewer='agent_2'>c</p>", "is for the viewer 'agent_2'; there are agent_0, agent_1, environment"),
    ],
)
def test_what_is_wrong_with_a_written_text_is_told(text, said):
    found = fault(text, 2)
    assert found is None if said is None else said in (found or "")
