"""The shapes of keys, tokens and passwords, and how they are kept out of everything that is written or shown.

A shape is a pattern, and a question to what the pattern found: `sk-based-on-plain-words` has the form of a key, but it
is made of words, and `password: required` names a password without telling it. So the prefix of a key, or a name
before a value ("WANDB_API_KEY=…"), only raises the suspicion; how random the text behind it is decides.

Providers and proxies repeat in their error texts the key that was sent to them. Every error passes through `redact`
before it is journaled or raised; `hub/leaks.py` searches releases before they are published. A secret that neither has
the shape of a key nor a name before it nor is in the environment cannot be recognised.
"""

from __future__ import annotations

import base64
import os
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from sotopia_rl_data.secret_values import (
    has_no_words,
    has_symbols,
    is_anything,
    is_basic,
    is_drawn_password,
    is_long_and_random,
    is_made_of_words,
    is_mixed,
    is_not_filled,
    is_password,
    is_password_in_url,
    is_surely_random,
    looks_random,
)

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8  # characters; shorter values (TOKENIZERS_TOKEN=1 …) would blank out ordinary words
_URL = re.compile(r"""https?://[^\s'"\\]*[^\s'"\\:]""")


class Found(NamedTuple):
    """A secret in a text: its `shape`, and the characters `start` to `end` that must not be read."""

    shape: str
    start: int
    end: int


class _Shape(NamedTuple):
    """A pattern, and `parts` of which every match holds one (in small letters if the pattern ignores case), so that a
    text without them is not searched. What the pattern's last group matched, or else the whole of it, must be such
    that it `holds`. After a `name`, the group alone is the secret; a group before it is that name, or the user's."""

    pattern: str
    holds: Callable[[str], bool]
    parts: str
    name: bool = False


_TAIL = r"[A-Za-z0-9_-]"
_VALUE = r"[A-Za-z0-9+/_.~=:%|!-]"
# Read by Python's re and by RE2, which Arrow has (no lookaround, no atomic groups).
_SHAPES = {
    "an API key (sk-…)": _Shape(rf"\bsk[-.]({_TAIL}{{20,}}(?:\.{_TAIL}+)*)", has_no_words, "sk- sk."),
    "a Hugging Face token": _Shape(r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}", is_not_filled, "hf_ api_org_"),
    "a Google API key": _Shape(rf"\bAIza{_TAIL}{{35}}", is_not_filled, "AIza"),
    "a Google OAuth secret": _Shape(
        rf"\b(?:ya29\.|GOCSPX-|1//0)({_TAIL}{{20,}}(?:\.{_TAIL}+)*)", has_no_words, "ya29. GOCSPX- 1//0"
    ),
    "an AWS access key": _Shape(r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b", is_not_filled, "AKIA ASIA ABIA ACCA"),
    "a GitHub token": _Shape(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        is_not_filled,
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
    ),
    "a GitLab token": _Shape(
        rf"\bgl(?:pat|[a-z]{{0,3}}t|oas|agent)-({_TAIL}{{20,}}(?:\.{_TAIL}+)*)", has_no_words, "gl"
    ),
    "a Slack token": _Shape(r"\bx(?:ox[a-z]|app)(?:\.xox[a-z])?-([A-Za-z0-9-]{10,})", has_no_words, "xox xapp-"),
    "a provider's key": _Shape(
        rf"\b(?:gsk_|xai-|pplx-|nvapi-|r8_|tgp_v1_|fw_|csk-|jina_|lsv2_[a-z]{{2}}_|pa-|dapi)({_TAIL}{{20,}})",
        has_no_words,
        "gsk_ xai- pplx- nvapi- r8_ tgp_v1_ fw_ csk- jina_ lsv2_ pa- dapi",
    ),
    "a Stripe key": _Shape(
        r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,})",
        is_not_filled,
        "k_live_ k_test_ whsec_",
    ),
    "an npm token": _Shape(r"\bnpm_[A-Za-z0-9]{30,}", is_not_filled, "npm_"),
    "a PyPI token": _Shape(rf"\bpypi-({_TAIL}{{16,}})", has_no_words, "pypi-"),
    "a SendGrid key": _Shape(rf"\bSG\.({_TAIL}{{16,}}\.{_TAIL}{{16,}})", has_no_words, "SG."),
    "a service's token": _Shape(
        r"\b(?:dckr_[a-z]{3}_|shp[a-z]{2}_|do[a-z]_v1_|hv[sbr]\.|tskey-[a-z]+-|ATATT3x|ATCTT3x|sq0[a-z]{3}-|NR[A-Z]{2}-|"
        r"PMAK-|AGE-SECRET-KEY-1|dp\.[a-z]{2,5}\.|EAA|FLW[A-Z]*SECK[-_]|gl(?:sa|c)_|pscale_[a-z]+_|sbp_|rubygems_|figd_|"
        r"ntn_|sntry[a-z]_|lin_[a-z]+_|ops_|key-|AKCp|fm[0-9][a-z]?_|FlyV1 |sq[apu]_|bk[a-z]{2}_|pul-|rpa_|esecret_|"
        r"xkeysib-|A3-|pat-[a-z]{2}[0-9]-|access_token\$[a-z]+\$|LTAI|dt0c01\.|EZ[AT]K|GR1348941|eyJrIjoi|p8e-|sha256~|"
        r"s-s4t2[a-z]{2}-|API-|atlasv1\.|sm_[aps]at_|HRKU-)([A-Za-z0-9_=+/$-]{20,})",
        is_mixed,
        "dckr_ shp _v1_ hvs. hvb. hvr. tskey- ATATT3x ATCTT3x sq0 NR PMAK- AGE- dp. EAA FLW glsa_ glc_ pscale_ sbp_ "
        "rubygems_ figd_ ntn_ sntry lin_ ops_ key- AKCp fm1 fm2 FlyV1 sqa_ sqp_ squ_ bk pul- rpa_ esecret_ xkeysib- "
        "pat- A3- access_token$ LTAI dt0c01. EZAK EZTK GR1348941 eyJrIjoi p8e- sha256~ s-s4t2 API- atlasv1. sm_ HRKU-",
    ),
    "a key of a hosted model": _Shape(
        r"\b(?:sk_[0-9a-f]{40,}|a[ks]-[A-Za-z0-9]{22}|GOOG1[A-Z0-9]{50,})\b",
        is_mixed,
        "sk_ ak- as- GOOG1",
    ),
    "a live key": _Shape(r"\b(?:[a-z]{2,12}_)?(?:live|prod)_([A-Za-z0-9]{32,})\b", is_mixed, "live_ prod_"),
    "a key with a UUID": _Shape(
        r"\b(?:sdk|mob|HRKU|access-[a-z]+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
        is_anything,
        "sdk- mob- HRKU- access-",
    ),
    "a cloud's key": _Shape(rf"\bAQVN({_TAIL}{{35,}})", is_mixed, "AQVN"),
    "a messaging key": _Shape(rf"\b{_TAIL}{{11}}:APA91b{_TAIL}{{100,}}", is_anything, "APA91b"),
    "a registry's token": _Shape(r"\bcio([A-Za-z0-9]{32})\b", is_surely_random, "cio"),
    "a Twilio key": _Shape(r"\bSK([0-9a-fA-F]{32})\b", is_mixed, "SK"),
    "a Mailchimp key": _Shape(r"\b[0-9a-f]{32}-us[0-9]{1,2}\b", is_anything, "-us"),
    "a Twitter token": _Shape(r"\bA{20,}[A-Za-z0-9%]{60,}", looks_random, "A" * 20),
    "an Airtable token": _Shape(r"\bpat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b", is_anything, "pat"),
    "a private key": _Shape(
        r"-----? ?BEGIN (?:[A-Za-z0-9]+ )*(?:PRIVATE KEY|Static key)(?: BLOCK| V[0-9])? ?-----?"
        r"(?:(?:\\[rn]|\s)*(?:[A-Z][A-Za-z-]+: [^\n\\]+|[A-Za-z0-9+/=]{4,}))*"
        r"|\bPrivate-Lines: [0-9]+(?:\s+[A-Za-z0-9+/=]{20,})+",
        is_anything,
        "PRIVATE Static Private-Lines",
    ),
    "a PGP block": _Shape(r"-----BEGIN PGP (?:MESSAGE|SECRET KEY BLOCK)-----", is_anything, "BEGIN PGP"),
    "a JSON web token": _Shape(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*", is_anything, "eyJ"),
    "a bearer token": _Shape(r"\b[Bb](?:earer|EARER)[ :]+([A-Za-z0-9._~+/=-]{16,})", has_no_words, "earer EARER"),
    "a password of HTTP Basic": _Shape(r"\b[Bb](?:asic|ASIC) +([A-Za-z0-9+/_-]{8,}={0,2})", is_basic, "asic ASIC"),
    "a web hook": _Shape(
        r"\b(?:hooks\.slack\.com/[a-z]+/[A-Z0-9][A-Za-z0-9/_-]{16,}"
        r"|(?:[a-z]+\.)?discord(?:app)?\.com/api/(?:v[0-9]+/)?webhooks/[0-9]+/[A-Za-z0-9_-]{20,}"
        r"|hooks\.zapier\.com/hooks/catch/[0-9]+/[A-Za-z0-9]{5,}"
        r"|[a-z0-9.-]+\.webhook\.office\.com/[A-Za-z0-9@/_-]{40,})",
        is_anything,
        "hook",
    ),
    "a bot's token": _Shape(
        rf"(?:(?:\bbot|\b)[0-9]{{8,10}}:[A-Za-z0-9]{_TAIL}{{33,34}}|\b[MNO][A-Za-z0-9_-]{{23,27}}\.{_TAIL}{{6}}\.{_TAIL}{{27,}})",
        looks_random,
        ": .",
    ),
    "a storage key": _Shape(
        r"\b(?:[Aa]ccount|[Ss]hared[Aa]ccess)[Kk]ey=([A-Za-z0-9+/]{30,}={0,2})",
        is_anything,
        "Key= key=",
    ),
    "a password in a URL": _Shape(
        r"\b[a-z][a-z0-9+.-]*://([^\s/:@\"'<>]*):([^\s/@\"'<>]+)@[A-Za-z0-9\[]", is_password_in_url, "://", name=True
    ),
    "a token before a host": _Shape(r"://([A-Za-z0-9_.~%-]{16,})@[A-Za-z0-9\[]", looks_random, "://", name=True),
    "a token in a URL": _Shape(
        r"(?i:[?&#][a-z_.-]*(?:token|key|sig|signature|secret|password|passwd|pwd|credential|auth|code|appid|"
        r"jwt|assertion)"
        r"=([a-z0-9%._~+/=-]{12,}))",
        looks_random,
        "=",
        name=True,
    ),
    "a session's cookie": _Shape(
        rf"(?i:cookie[\"']?: ?[^\n]{{0,200}}?(?:sess|sid|auth|jwt)[a-z_.-]*)=({_VALUE}{{16,}})",
        looks_random,
        "cookie",
        name=True,
    ),
    "a key on a command line": _Shape(
        r"((?i:[_-](?:api)?(?:key|token|secret|pat))|[a-z](?:Key|Token|Secret))[\"'`]?[ \t]{1,3}(?:-{1,2}[a-z]+[ =])?"
        rf"[\"'`]?({_VALUE}{{16,}})",
        looks_random,
        "key token secret pat",
        name=True,
    ),
    "a password on a command line": _Shape(
        r"(?:-(?i:[a-z_-]*pass(?:word|wd|phrase|in|out)?)|[A-Z0-9]_(?:PASS(?:WORD|WD)?|PWD))"
        rf"[\"'`]?[ \t]{{1,3}}(?:-{{1,2}}[a-z]+[ =])?(?:pass:)?[\"'`]?({_VALUE}{{8,}})",
        looks_random,
        "pass _pwd",
        name=True,
    ),
    "a key in a sentence": _Shape(  # with a digit, lest Arrow's filter stop at every word after "key"
        r"(?i:key|token|secret|password|passphrase|credential)s?[^\w\n:=/+.-](?:[^\w\n:=]*(?:is|was|are|to|of|body|value)"
        rf"[^\w\n:=])?[^\w\n:=]*({_TAIL}*[0-9]{_TAIL}*)",
        is_long_and_random,
        "key token secret pass",
        name=True,
    ),
    "a key beside a user's name": _Shape(
        rf"\"username\"\s*:\s*\"[^\"]+\",\s*\"key\"\s*:\s*\"({_VALUE}{{16,}})\"", looks_random, '"key"', name=True
    ),
    "a login on a command line": _Shape(
        r"\b(?:(?:sshpass|mysql[a-z]*|redis-cli|mongo[a-z]*|login|7za?|rar|sqlcmd|ldap[a-z]+)\b"
        r"[^\n|;]{0,80}? -[paPw] ?"
        r"|curl\b[^\n|;]{0,200}? (?:-u|--user)[ =][\"']?[\w.@-]+:)"
        r"(\"[^\s\"]{6,}|'[^\s']{6,}|[^\s\"']{6,})",
        is_password,
        "sshpass mysql redis-cli mongo login curl 7z rar sqlcmd ldap",
        name=True,
    ),
    "a quoted password": _Shape(
        rf"(?i:pass(?:word|wd|phrase))[ \t]{{1,3}}(\"{_VALUE}{{8,}}\"|'{_VALUE}{{8,}}')",
        is_drawn_password,
        "pass",
        name=True,
    ),
    "a secret that is piped": _Shape(
        r"\b(?:echo|printf)(?: -n)? +(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"'|]{6,}) *\|"
        r"[^\n|]{0,80}-(?:pass|token|key|secret|std)",
        is_password,
        "echo printf",
        name=True,
    ),
    "a password in SQL": _Shape(
        r"(?i:\b(?:identified by|password) +)('[^\s']{6,}')", is_password, "identified password", name=True
    ),
    "a login": _Shape(
        r"(?i:\blogin\s+[^\s]+\s+password\s+)(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"',;}&<>]{6,})",
        is_password,
        "login",
        name=True,
    ),
    "a key to log in": _Shape(r"\blogin +([A-Za-z0-9_-]{32,})", looks_random, "login", name=True),
    "a key that a client is made with": _Shape(
        r"(?i:client|login|auth|key|token|credentials?|sdk)\((?:[\"'][^\"'\s]*[\"'], ?)?(?:\w+=)?"
        rf"[\"']({_TAIL}{{24,}})[\"']",
        looks_random,
        "(\" (' =\" ='",
        name=True,
    ),
    "a login in a program": _Shape(
        r"(?i:login|auth|credentials?)(?:=|: ?)?[\[(] ?(?:\"[^\s\"]{1,60}\"|'[^\s']{1,60}'), ?"
        r"(\"[^\s\"]{6,}\"|'[^\s']{6,}')",
        is_drawn_password,
        "login auth credential",
        name=True,
    ),
    "a line of .pgpass": _Shape(
        r"(?m:^[a-zA-Z*][\w.*-]*:(?:[0-9]{2,5}|\*):[\w*-]+:[\w*-]+:(\S{6,})$)", is_password, ":", name=True
    ),
    "a token": _Shape(
        rf"\b[A-Za-z][A-Za-z0-9]{{1,9}}(?:[_.-][A-Za-z0-9]{{1,9}}){{0,3}}[_.-]({_TAIL}{{30,}})",
        is_surely_random,
        "_ . -",
    ),
}

_KEYS = "api access secret private auth account master signing encryption admin service deploy license licence storage "
_KEYS += "subscription consumer client shared function host application app project server webhook root personal"
_KEY_NAMES = (
    *(f"{word}{joint}key" for word in _KEYS.split() for joint in ("", "-", " ", ".")),
    *("_key", "keyvalue", "key_value", "key-data", "key_data", "token", "secret", "credential", "credentials", "_pat"),
    *("-pat", "auth", "_dsn", "sessionid", "session_id", "session-id", "_session", "authorization"),
)
_PASSWORD_NAMES = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "_pass",
    "-pass",
    "&pass",
    "?pass",
    "_pw",
    "-pw",
)
_LONGEST_NAME = 40  # characters looked at before a separator, with quotes and blanks
_ABOUT_A_KEY = {
    *("id", "ids", "name", "names", "url", "uri", "length", "size", "type", "path", "file", "hash", "count")
}
_ABOUT_A_KEY |= {"version", "arn", "limit", "index", "alias"}
_PAIR = re.compile(r"(?i)\b(?:key|name)[\"']?\s?[=:]\s?[\"']?([\w.-]+)[\"']?[,\s]+[\"']?value[\"'\s]*$")
_DEFAULT = re.compile(r"\"([\w.-]+)\"\s{0,9}\{[^{}\"]{0,60}\bdefault\s*$")  # variable "password" { default = …
_PUBLIC = re.compile(
    r"(?i)(?:public|verif[a-z]{1,8}|cache|partition|primary|foreign|sort|routing|idempotency|dedup)[_ -]?key$"
)
_AFTER_A_NAME = re.compile(
    r"""(?:["'`\\)\]}*\s]|&quot;|&#3[49];|%2[27]|\sis|\swas|\s?\([^()"']{1,20}\)|\[[0-9]\]|\.(?:value|default|equals)"""
    r"""|</[\w-]+>\s*<[\w-]+)+$"""
)
_TYPE = re.compile(r"""(?::\s?[&\w.<>\[\]|?]{2,24}|\sstring|\s\w{1,12}="\w{1,12})$""")  # let apiKey: string = …
_QUOTED = r"""(?=[A-Za-z@]{0,2}["'])"""
_SEPARATOR = re.compile(
    rf"""(?!\w)(?::=|\?=|={{1,3}}|[=-]>|<-|[:>→|]|[({{]\s?{_QUOTED}|\|\||\?\?|%3[AaDd]|\\+u003[ad]|,(?=\s{{0,20}}["'`])"""
    r"""|(?<=["'`]),|\s(?i:is|was|or|to)(?=\s["'`])|\s(?:is|was)(?=\s\S{8}))(?=.)""",
    re.DOTALL,
)
_BEFORE_A_VALUE = re.compile(
    r"""\*{0,2}[ \t]{0,20}\s{0,3}(?:[|>][-+]?\s{1,20}|!{1,2}\w{1,12}\s|&\w{1,12}\s)?"""  # the second: YAML's marks
    rf"""(?:(?:[A-Za-z_.:]{{1,30}}\(|[\[({{:]{{1,2}})\s?{_QUOTED})?"""
    r"""(?:[A-Za-z]{1,2}(?=["'`])|@)?(?:&quot;|&#3[49];|%22|\\+)?"""
)
_TELLING = re.compile(r"key|token|secret|credential|auth|_pat|-pat|dsn|session|pass|pwd|[_-]pw|value|default")
_WEAK = re.compile(r"^\s(?i:is|was|or|to)|[({]")  # what stands between a name and much else, too
_BARE_PASS = re.compile(r"(?:^|[\n{,;<\"'])\s{0,12}pass$")
_NAMED_KEY = re.compile(rf"[\"'`]?({_VALUE}{{16,}})")
_SYMBOLS = re.compile(r"(?P<quote>[\"'`])((?:(?!(?P=quote))\S){20,})(?P=quote)")
_HEADER = re.compile(rf"[\"'`]?(?:[A-Za-z]{{3,10}} +)?({_VALUE}{{16,}})")
_NAMED_PASSWORD = re.compile(r"\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"',;}&<>\\]{6,}")


def _relaxed(pattern: str) -> str:
    """A pattern that matches more: counts over 4 are what makes an automaton of many alternatives large and slow."""
    return re.sub(r"\{(\d+)(?:,\d*)?\}\??", lambda count: f"{{{min(int(count[1]), 4)},}}", pattern)


_NAMES = "|".join(map(re.escape, (*_KEY_NAMES, *_PASSWORD_NAMES, "-key", " key")))
SUSPICIOUS = "|".join(
    [
        rf"(?i:(?:{_NAMES})(?:_[a-z0-9]+|[0-9]+)?[^a-z0-9]*(?:[:=>,{{(|→\"'`]|&quot|&#3|</|%[0-9]|is\b|was\b|value|default))",
        r"(?i:\bpass(?:[\"'\\]*\s*[:=>]| [a-z]+=))",
    ]
    + [f"(?:{_relaxed(shape.pattern)})" for shape in _SHAPES.values()]
)
"""A pattern (for Python's re and for RE2, which Arrow has) that matches every text in which `found` finds something."""


def _small(text: str) -> str:
    """A text in small letters, as long as before: there are capitals (İ) whose small letter is two characters."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


def _named(text: str) -> Iterator[Found]:
    """The keys and passwords with a name and a separator before them. The separators are rarer than the names.

    The first `_LONGEST_TOKEN` characters of a value decide, so that a text made of names takes time in proportion to
    its length.
    """
    past = 0  # what came before was looked at, or is in the value found last
    for telling in _TELLING.finditer(_small(text)):
        for separator in _SEPARATOR.finditer(text, max(past, telling.end()), telling.end() + _LONGEST_NAME):
            if separator.start() < past:
                continue
            one = _value(text, *separator.span())
            past = one.end if one else separator.end()
            if one:
                yield one


def _value(text: str, start: int, end: int) -> Found | None:
    """What stands behind the separator text[start:end], if a name before it and the value itself say: a secret."""
    opening = _BEFORE_A_VALUE.match(text, end)
    end = opening.end() if opening else end
    name, weak = _name_before(text, start), _WEAK.search(text[start:end])
    if name.endswith(_PASSWORD_NAMES):
        shape, pattern, group = "a password", _NAMED_PASSWORD, 0
        holds = is_drawn_password if weak else is_password
    elif name.endswith((*_KEY_NAMES, "-key", " key")) and not _PUBLIC.search(name):
        shape, pattern, group = "a named key", _HEADER if name.endswith("authorization") else _NAMED_KEY, 1
        holds = looks_random if name.endswith(_KEY_NAMES) else is_surely_random
    else:
        return None
    if group == 1 and (quoted := _SYMBOLS.match(text, end, end + _LONGEST_TOKEN)) and has_symbols(quoted[2]):
        return Found(shape, *quoted.span(2))
    value = pattern.match(text, end, end + _LONGEST_TOKEN)
    if value and holds(value[group]) and (whole := pattern.match(text, end)):
        return Found(shape, *whole.span(group))
    return None


def _name_before(text: str, end: int) -> str:
    """The end of the name that stands before a separator, in small letters, without a number or a last part that does
    not say what the value is (`SECRET_KEY_BASE`, `API_TOKEN_2`, `name: API_TOKEN, value: …`)."""
    name = _AFTER_A_NAME.sub("", text[max(end - _LONGEST_NAME, 0) : end]).lower()
    if name.endswith("value") and (pair := _PAIR.search(text, max(end - 2 * _LONGEST_NAME, 0), end)):
        return pair[1].lower()
    if name.endswith("default") and (block := _DEFAULT.search(text, max(end - 4 * _LONGEST_NAME, 0), end)):
        return block[1].lower()
    if _BARE_PASS.search(name):
        return "password"
    name = name.rstrip("0123456789 _")
    stem, joint, last = name.rpartition("_")
    name = stem if joint and stem.endswith(_KEY_NAMES) and last not in _ABOUT_A_KEY else name
    if name.endswith((*_KEY_NAMES, *_PASSWORD_NAMES)):
        return name
    name = _TYPE.sub("", name)
    return "password" if _BARE_PASS.search(name) else name


_LOOSE = (  # errors repeat keys shortened or starred out
    re.compile(r"(?<=://)([^/\s@]+)@"),  # user:password in a URL
    re.compile(r"(?i)\b(?:bearer|basic)\s+([^\s\"',}]{6,})"),
    re.compile(r"\b((?:sk|pk|rk|hf|gsk|xai|ghp|ghs|pat|key)[-_][A-Za-z0-9*._-]{6,}|(?:AIza|AKIA)[A-Za-z0-9_-]{10,})"),
    re.compile(
        r"(?i)(?:api[-_ ]?key|authorization|access[-_ ]?token|secret|password)"
        r"[^:=\n]{0,16}[:=](?!//)\s*[\"']?([^\s\"',}]{4,})"
    ),
    re.compile(r"((?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]+)?\*{3,}[A-Za-z0-9_-]*)"),
)


# Encoded data may meet these conditions by chance.
_BY_CHANCE = (is_not_filled, has_no_words, is_mixed, is_surely_random)
_BLOB = re.compile(r"[A-Za-z0-9+/_=-]*")
_DIGEST = re.compile(r"(?i)(?:sha-?[0-9]{1,3}|md5|h1|integrity|checksum)[=:-]")
_LONGEST_TOKEN = 1000  # characters


def _encoded(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is a piece of encoded data, which is longer than any key, or of a file's digest."""
    run = _BLOB.match(text, end, end + _LONGEST_TOKEN)
    before = _BLOB.match(text[max(start - _LONGEST_TOKEN, 0) : start][::-1])
    first, last = start - len(before[0] if before else ""), run.end() if run else end
    return last - first > _LONGEST_TOKEN or bool(_DIGEST.search(text, max(first - 12, 0), first + 12))


def found(text: str) -> Iterator[Found]:
    """What in `text` has the shape of a key, a token or a password, each under the first shape that it has."""
    taken: list[tuple[int, int]] = []
    for one in _candidates(text):
        at = bisect(taken, (one.start, one.end))
        if not any(start < one.end and one.start < end for start, end in taken[max(at - 1, 0) : at + 1]):
            taken.insert(at, (one.start, one.end))
            yield one


def _candidates(text: str) -> Iterator[Found]:
    small = _small(text)
    for name, shape in _SHAPES.items():
        where = small if "(?i" in shape.pattern else text
        if not any(part in where for part in shape.parts.split(" ")):
            continue
        for match in re.finditer(shape.pattern, text):
            group = match.lastindex or 0
            start, end = match.span()
            if group == 2 and (match[1] == match[2] or _PUBLIC.search(text, max(match.end(1) - 20, 0), match.end(1))):
                continue
            if shape.holds(match.group(group)) and not (shape.holds in _BY_CHANCE and _encoded(text, start, end)):
                yield Found(name, *match.span(group if shape.name else 0))
    yield from _named(text)


def env_secrets() -> tuple[str, ...]:
    """What of the environment is secret, longest first: values of variables whose names say so, and the passwords and
    tokens in addresses (HF_ENDPOINT, HTTPS_PROXY, …)."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    values |= {secret for value in os.environ.values() if "://" in value for secret in _in_address(value)}
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True))


def without_credentials(url: str) -> str:
    """A URL without what may be secret in it: user, password, query and fragment."""
    scheme, host, path, _, _ = _split(url)
    return urlunsplit((scheme, host.rpartition("@")[2], path, "", ""))


def without_server(error: str, base_url: str) -> str:
    """The error of a server as data may carry it: without its URL and host, which may be private. Of a fleet, whose
    `base_url` is its name, every URL is left out."""
    if not base_url:
        return error
    server = _split(base_url)
    if not (server.scheme.startswith("http") and server.netloc):
        return without_urls(error, "its provider").replace(base_url, "its provider")
    host = rf"(?<![\w.-]){re.escape(server.netloc)}(?![\w-])"
    return re.sub(f"{re.escape(base_url)}|{host}", "its provider", error)


def without_urls(text: str, instead: str = "URL") -> str:
    """`text` with `instead` in place of every URL of a server, with the password that it may hold."""
    return _URL.sub(instead, text)


def _in_address(url: str) -> Iterator[str]:
    """The password, or a token in the place of the user, and the tokens of a URL, as they stand there and decoded. A
    short plain word, or the user's name again, is not a secret: it would be found in every dialogue that has it."""
    _, host, _, query, _ = _split(url)
    user, _, password = host.rpartition("@")[0].partition(":")
    of_query = [value for name, value in parse_qsl(query) if name.lower().endswith((*_KEY_NAMES, *_PASSWORD_NAMES))]
    if password:
        of_user = password if password != user and is_password(f'"{unquote(password)}"') else ""
    else:
        of_user = user if looks_random(user) else ""
    for secret in (of_user, *of_query):
        yield from {secret, unquote(secret)}


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def redact(text: str, *secrets: str, loosely: bool = True) -> str:
    """`text` with `[hidden]` in place of these secrets and those of the environment (as they are, broken by blanks, in
    percent or base64 encoding) and of everything in the shape of a key; with `loosely`, also of what may be a part of
    one. Names and words around them stay."""
    for secret in (*secrets, *env_secrets()):
        if len(secret) >= _SHORTEST:
            text = _spellings(secret).sub(HIDDEN, text)
    spans = [(one.start, one.end) for one in _candidates(text)]
    if loosely:
        matches = (match for shape in _LOOSE for match in shape.finditer(text))
        spans += [match.span(1) for match in matches if _part_of_a_key(match.group(1))]
    for start, end in reversed(_merged(spans)):
        text = text[:start] + HIDDEN + text[end:]
    return text


def _part_of_a_key(text: str) -> bool:
    """Whether a text may be a part of a key: not a plain word, nor a name made of them."""
    text = text.rstrip(".:;!?")
    named = is_made_of_words(text) and "." not in text  # parts of a token are joined by dots
    return "*" in text or not (named or HIDDEN in text or re.fullmatch(r"[A-Z]?[a-z]{,11}", text))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


@cache
def _spellings(secret: str) -> re.Pattern[str]:
    """What a secret looks like when it comes back: with blanks in it, percent-encoded, in base64 at any offset, or cut
    off after its first 12 characters."""
    letters = [rf"(?:{re.escape(c)}|{''.join(f'%{byte:02x}' for byte in c.encode())})" for c in secret]
    forms = [r"\s*".join(letters)]
    for offset in range(3):
        # the first and last characters of base64 depend on what stands beside the secret
        coded = base64.b64encode(b"\0" * offset + secret.encode()).decode().rstrip("=")
        core = coded[(0, 2, 3)[offset] : len(coded) - 1]
        forms += [re.escape(core), re.escape(core.translate(str.maketrans("+/", "-_")))]
    if len(secret) >= 20:
        forms.append(re.escape(secret[:12]) + r"[A-Za-z0-9*._-]*")
    return re.compile("|".join(f"(?i:{form})" if n == 0 else form for n, form in enumerate(forms)))
