"""The shapes that keys, tokens and passwords have by themselves, and those that a command or a sentence gives them.

A shape is a pattern, and a question to what the pattern found: `sk-based-on-plain-words` has the form of a key, but it
is made of words. What has no shape but a name before it is in `secret_names.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sotopia_rl_data.secret_values import (
    has_no_words,
    is_anything,
    is_basic,
    is_drawn_password,
    is_drawn_path,
    is_given_password,
    is_mixed,
    is_no_example,
    is_not_filled,
    is_password,
    is_password_in_url,
    is_surely_drawn,
    is_surely_random,
    is_told_password,
    is_unknown_token,
    looks_random,
)


class Found(NamedTuple):
    """A secret in a text: its `shape`, and the characters `start` to `end` that must not be read."""

    shape: str
    start: int
    end: int


class Shape(NamedTuple):
    """A pattern, and `parts` of which every match holds one (in small letters if the pattern ignores case), so that a
    text without them is not searched. What the pattern's last group matched, or else the whole of it, must be such
    that it `holds`. After a `name`, the group alone is the secret; a group before it is that name, or the user's."""

    pattern: str
    holds: Callable[[str], bool]
    parts: str
    name: bool = False
    filter: str = ""  # what every match holds, if that is looked for in less time, or says more than `relaxed` does


TAIL = r"[A-Za-z0-9_-]"
_TELLING = "live prod test key api tok token pat sk sec secret auth"
_IS_THE_NAME = (  # … is the password; "…" // API_KEY
    r"[\"'`]?(?: (?:as|is|was) (?:the|your|my|our|its) (?:\w+ )?|[\"'`][.()\w; ]{0,16}(?://|#|--) ?(?:\w+[ _]){0,2})"
    r"(?i:pass(?:word|phrase|code)|pin|token|key|secret)\b"
)
_SLASH = r"\\{0,3}/"  # JSON may write \/
_HTTP = rf"https?:{_SLASH}{_SLASH}"
_BLOCK = (  # in base64, whatever stands between its lines, with its last one; or a first line that stands alone
    r"(?:(?:(?:\\+[rn]|\s)*[A-Z][A-Za-z-]+: [^\n\\]+)*[^-]{0,60}?[A-Za-z0-9+/=]{32,}"
    r"(?:[^-]{0,40}?[A-Za-z0-9+/=]{16,})*(?:[^-]{0,80}?-----END [A-Z ]+-----)?"
    r"|[\"'`]?[ \t\r]*(?:\n[^<{.\[*-]|\n?$))"
)
VALUE = r"[A-Za-z0-9+/_.~=:%|!-]"
# Read by Python's re and by RE2, which Arrow has (no lookaround, no atomic groups).
SHAPES = {
    "an API key (sk-…)": Shape(rf"\bsk[-.]({TAIL}{{20,}}(?:\.{TAIL}+)*)", has_no_words, "sk- sk."),
    "a Hugging Face token": Shape(r"\b(?:hf_|api_org_)([A-Za-z0-9]{30,})", has_no_words, "hf_ api_org_"),
    "a Google API key": Shape(rf"\bAIza{TAIL}{{35}}", is_not_filled, "AIza"),
    "a Google OAuth secret": Shape(
        rf"\b(?:ya29\.|GOCSPX-|1//0)({TAIL}{{20,}}(?:\.{TAIL}+)*)", has_no_words, "ya29. GOCSPX- 1//0"
    ),
    "an AWS access key": Shape(r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b", is_no_example, "AKIA ASIA ABIA ACCA"),
    "a GitHub token": Shape(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        is_not_filled,
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
    ),
    "a GitLab token": Shape(rf"\bgl(?:pat|[a-z]{{0,3}}t|oas|agent)-({TAIL}{{20,}}(?:\.{TAIL}+)*)", has_no_words, "gl"),
    "a Slack token": Shape(r"\bx(?:ox[a-z]|app)(?:\.xox[a-z])?-([A-Za-z0-9-]{10,})", has_no_words, "xox xapp-"),
    "a provider's key": Shape(
        rf"\b(?:gsk_|xai-|pplx-|nvapi-|r8_|tgp_v1_|fw_|csk-|jina_|lsv2_[a-z]{{2}}_|pa-|dapi)({TAIL}{{20,}})",
        has_no_words,
        "gsk_ xai- pplx- nvapi- r8_ tgp_v1_ fw_ csk- jina_ lsv2_ pa- dapi",
    ),
    "a Stripe key": Shape(
        r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,})",
        is_not_filled,
        "k_live_ k_test_ whsec_",
    ),
    "an npm token": Shape(r"\bnpm_[A-Za-z0-9]{30,}", is_not_filled, "npm_"),
    "a PyPI token": Shape(rf"\bpypi-({TAIL}{{16,}})", has_no_words, "pypi-"),
    "a SendGrid key": Shape(rf"\bSG\.({TAIL}{{16,}}\.{TAIL}{{16,}})", has_no_words, "SG."),
    "a service's token": Shape(
        r"\b(?:dckr_[a-z]{3}_|shp[a-z]{2}_|do[a-z]_v1_|hv[sbr]\.|tskey-[a-z]+-|ATATT3x|ATCTT3x|sq0[a-z]{3}-|NR[A-Z]{2}-|"
        r"PMAK-|AGE-SECRET-KEY-1|dp\.[a-z]{2,5}\.|EAA|FLW[A-Z]*SECK[-_]|gl(?:sa|c)_|pscale_[a-z]+_|sbp_|rubygems_|figd_|"
        r"ntn_|sntry[a-z]_|lin_[a-z]+_|ops_|key-|AKCp|fm[0-9][a-z]?_|FlyV1 |sq[apu]_|bk[a-z]{2}_|pul-|rpa_|esecret_|"
        r"xkeysib-|A3-|pat-[a-z]{2}[0-9]-|access_token\$[a-z]+\$|LTAI|dt0c01\.|EZ[AT]K|GR1348941|eyJrIjoi|p8e-|sha256~|"
        r"s-s4t2[a-z]{2}-|API-|atlasv1\.|sm_[aps]at_|HRKU-|CLOJARS_|CCIPAT_|e2b_|fc-|xsmtpsib-|zpka_|KGAT_|APP_USR-|RGAPI-|"
        r"SWMTKN-1-|AKID|dG9rO|sgp_|[ps]at\.|t1\.)([A-Za-z0-9_=+/$-]{20,}(?:\.[A-Za-z0-9_-]+)*)",
        is_mixed,
        "dckr_ shp _v1_ hvs. hvb. hvr. tskey- ATATT3x ATCTT3x sq0 NR PMAK- AGE- dp. EAA FLW glsa_ glc_ pscale_ sbp_ "
        "rubygems_ figd_ ntn_ sntry lin_ ops_ key- AKCp fm1 fm2 FlyV1 sqa_ sqp_ squ_ bk pul- rpa_ esecret_ xkeysib- "
        "pat- A3- access_token$ LTAI dt0c01. EZAK EZTK GR1348941 eyJrIjoi p8e- sha256~ s-s4t2 API- atlasv1. sm_ HRKU- "
        "CLOJARS_ CCIPAT_ e2b_ fc- xsmtpsib- zpka_ KGAT_ APP_USR- RGAPI- SWMTKN- AKID dG9rO sgp_ pat. sat. t1.",
    ),
    "a key of a hosted model": Shape(r"\b(?:a[ks]-[A-Za-z0-9]{22}|GOOG1[A-Z0-9]{50,})\b", is_mixed, "ak- as- GOOG1"),
    "a key with a telling prefix": Shape(
        rf"(?:\b|_)(?:{_TELLING.replace(' ', '|')})[_-]([A-Za-z0-9]{{32,}})\b",
        is_mixed,
        " ".join(f"{word}{joint}" for word in _TELLING.split() for joint in "_-"),
    ),
    "a key with a UUID": Shape(
        r"\b(?:sdk-|mob-|api-|HRKU-|access-[a-z]+-|amzn\.mws\.)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
        is_anything,
        "sdk- mob- api- HRKU- access- amzn.mws.",
    ),
    "an application's secret": Shape(
        r"\b[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}|\b[0-9]/[0-9]{10,18}(?:/[0-9]{10,18})?:[0-9a-f]{32}\b"
        r"|\b(?:[0-9]{15,16}|MLY\|[0-9]{15,17})\|[A-Za-z0-9_-]{27,40}\b|\b00D[A-Za-z0-9]{12,15}![A-Za-z0-9_.]{60,}"
        r"|\bK10[0-9a-f]{48,64}::[a-z]+:[0-9a-f]{32}",
        is_anything,
        "Q~ : | 00D K10",
    ),
    "a cloud's key": Shape(rf"\bAQVN({TAIL}{{35,}})", is_mixed, "AQVN"),
    "a messaging key": Shape(rf"\b{TAIL}{{11}}:APA91b{TAIL}{{100,}}", is_anything, "APA91b"),
    "a registry's token": Shape(r"\bcio([A-Za-z0-9]{32})\b", is_surely_random, "cio"),
    "a Twilio key": Shape(r"\bSK([0-9a-fA-F]{32})\b", is_mixed, "SK"),
    "a Mailchimp key": Shape(r"\b[0-9a-f]{32}-us[0-9]{1,2}\b", is_anything, "-us"),
    "a Twitter token": Shape(r"\bA{20,}[A-Za-z0-9%]{60,}", looks_random, "A" * 20),
    "an Airtable token": Shape(r"\bpat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b", is_anything, "pat"),
    "a private key": Shape(
        r"-----? ?BEGIN (?:[A-Za-z0-9]+ )*(?:PRIVATE KEY|Static key)(?: BLOCK| V[0-9])? ?-----?"
        rf"{_BLOCK}"
        r"|\bPrivate-Lines: [0-9]+(?:\s+[A-Za-z0-9+/=]{20,})+",
        is_anything,
        "PRIVATE Static Private-Lines",
    ),
    "a PGP block": Shape(rf"-----BEGIN PGP (?:MESSAGE|SECRET KEY BLOCK)-----{_BLOCK}", is_anything, "BEGIN PGP"),
    "a JSON web token": Shape(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*", is_anything, "eyJ"),
    "a token in JSON in base64": Shape(r"(?:^|[\s\"'=])(eyJ[A-Za-z0-9_-]{100,})", is_mixed, "eyJ"),
    "a bearer token": Shape(
        r"\b[Bb](?:earer|EARER)[ :,]+(?:[\"'] ?[+.,] ?[\"'])?([A-Za-z0-9._~+/=-]{16,})", has_no_words, "earer EARER"
    ),
    "a password of HTTP Basic": Shape(r"\b[Bb](?:asic|ASIC) +([A-Za-z0-9+/_-]{8,}={0,2})", is_basic, "asic ASIC"),
    "a web hook": Shape(
        rf"(?:(?:{_HTTP}[a-z0-9.:/\\-]{{0,80}}?)?hook[a-z0-9.:-]{{0,60}}{_SLASH}(?:[A-Za-z0-9@_.-]{{1,100}}{_SLASH}){{0,8}}"
        r"|://(?:maker\.ifttt|hc-ping|[a-z.]*victorops|events\.pagerduty|[a-z0-9.-]*(?:alchemy|infura))"
        r"\.(?:com|io)/(?:[A-Za-z0-9_-]{1,100}/){0,8})([A-Za-z0-9_-]{16,})"
        rf"|(?:{_HTTP})?\bhooks\.zapier\.com{_SLASH}hooks{_SLASH}catch{_SLASH}[0-9]+{_SLASH}[A-Za-z0-9]{{5,}}",
        is_drawn_path,
        "hook maker. hc-ping victorops pagerduty alchemy infura",
    ),
    "a bot's token": Shape(
        rf"(?:(?:\bbot|\b)[0-9]{{8,10}}:[A-Za-z0-9]{TAIL}{{33,34}}|\b[MNO][A-Za-z0-9_-]{{23,27}}\.{TAIL}{{6}}\.{TAIL}{{27,}})",
        looks_random,
        ": .",
    ),
    "a storage key": Shape(
        r"\b(?:(?:[Aa]ccount|[Ss]hared[Aa]ccess)[Kk]ey=|account\.key\.[\w.-]{1,80}[\"']?[ =:,]{1,3}[\"']?)"
        r"([A-Za-z0-9+/]{30,}={0,2})",
        looks_random,
        "Key= key= account.key.",
    ),
    "a password in a URL": Shape(
        rf"(?:\b[a-z][a-z0-9+.-]{{0,30}}:{_SLASH}{_SLASH}|\bhttps?:/)([^\s/:\"'<>]*):([^\s/\"'<>]+)@[A-Za-z0-9\[]"
        r"|\b[\w.-]{1,60}:([^\s\"':@/]{4,120})@(?:tcp|unix)\(",  # Go's
        is_password_in_url,
        ":// :\\ http:/ https:/ @tcp( @unix(",
        name=True,
    ),
    "a token before a host": Shape(
        rf":{_SLASH}{_SLASH}([A-Za-z0-9_.~%-]{{16,100}})(?::[\w-]*)?@[A-Za-z0-9\[]", looks_random, ":// :\\", name=True
    ),
    "a token in a URL": Shape(
        r"(?i:[?&#][a-z_.-]*(?:token|key|sig|signature|secret|password|passwd|pwd|credential|auth|code|appid|"
        r"jwt|assertion)"
        r"=([a-z0-9%._~+/=-]{12,}))",
        looks_random,
        "=",
        name=True,
    ),
    "a session's cookie": Shape(
        rf"(?i:cookie[\"']?: ?[^\n]{{0,200}}?(?:sess|sid|auth|jwt)[a-z_.-]*)=({VALUE}{{16,}})",
        looks_random,
        "cookie",
        name=True,
    ),
    "a key on a command line": Shape(  # the name from its beginning: random text holds the end of one by chance
        r"(?:^|[^\w.+/=-])(-{0,2}(?:[a-z][a-z0-9]{0,30}[_.:-]{1,3}){0,8}(?:[a-z0-9]{1,30}[_-]|-)(?:api|auth|access)?(?:key|token|secret|pat|bearer)"
        r"|-{0,2}(?:[A-Z][A-Z0-9]*_)+(?:API)?(?:KEY|TOKEN|SECRET|PAT)|-{0,2}[A-Z]?[a-z]+(?:[A-Z][a-z]+)*(?:Key|Token|Secret))"
        rf"[\"'`]?[ \t]{{1,3}}(?:-{{1,2}}[a-z]+[ =])?[\"'`]?({VALUE}{{16,}})",
        looks_random,
        "-bearer -key _key -token _token -secret _secret -pat _pat -api _api -auth _auth -access _access Key Token "
        "Secret _KEY _TOKEN _SECRET _PAT _API",
        name=True,
        filter=r"(?:[_-](?:api|auth|access)?(?:key|token|secret|pat|bearer)|_(?:API)?(?:KEY|TOKEN|SECRET|PAT)|[a-z](?:Key|Token|Secret))"
        rf"[\"'`]?[ \t]{{1,3}}(?:-{{1,2}}[a-z]+[ =])?[\"'`]?{VALUE}{{4}}",
    ),
    "a password on a command line": Shape(
        r"(?:-(?i:[a-z_-]{0,24}pass(?:word|wd|phrase|in|out)?)|[A-Z0-9]_(?:PASS(?:WORD|WD)?|PWD))"
        rf"[\"'`]?[ \t]{{1,3}}(?:-{{1,2}}[a-z]+[ =])?(?:pass:)?[\"'`]?({VALUE}{{8,}})",
        is_given_password,
        "pass _pwd",
        name=True,
    ),
    "a key beside a user's name": Shape(
        rf"\"username\"\s*:\s*\"[^\"]+\",\s*\"key\"\s*:\s*\"({VALUE}{{16,}})\"", looks_random, '"key"', name=True
    ),
    "a login on a command line": Shape(
        r"(?:\b(?:sshpass|mysql[a-z]*|redis-cli|mongo[a-z]*|login|7za?|rar|sqlcmd|ldap[a-z]+)\b"
        r"[^\n|;]{0,80}? -[paPw] ?"
        r"|\b(?:sqlplus\b[^\n|;]{0,40}? |jdbc:oracle:[a-z]+:)[\w.]+/|\bWIFI:[^\n]{0,80}?P:"
        r"|\b(?:(?:un)?zip\b[^\n|;]{0,80}? -P|openssl\b[^\n|;]{0,80}? -k) "
        r"|\blftp\b[^\n|;]{0,80}? -u [\w.@-]+,|\s(?:-u|--user)[ =]{1,3}[\"']?[\w.@-]+:)"
        r"(\"[^\s\"]{6,}|'[^\s']{6,}|[^\s\"']{6,})",
        is_password,
        "sshpass sqlplus jdbc:oracle WIFI: mysql redis-cli mongo login 7z zip openssl rar sqlcmd ldap -u --user",
        name=True,
    ),
    "a password before its name": Shape(
        rf"(?<![^\s\"'`])([^\s\"'`]{{8,64}}){_IS_THE_NAME}",
        is_surely_drawn,
        "pass pin token key secret",
        name=True,
        filter=re.sub(r"\{0,\d+\}", "*", _IS_THE_NAME),
    ),
    "a quoted password": Shape(
        r"(?i:pass(?:word|wd|phrase)?)[ \t]{1,3}(\"[^\s\"]{8,}\"|'[^\s']{8,}')"
        r"|(?mi:^[ \t]*pass(?:word|wd|phrase)?[ \t]+(\S{8,})$)",
        is_told_password,
        "pass",
        name=True,
    ),
    "a secret that is piped": Shape(
        r"\b(?:echo|printf)(?: -n)? +(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"'|]{6,}) *\|"
        r"[^\n|]{0,80}(?:-(?:pass|token|key|secret|std)|\bsudo -S| (?:env|secrets?) (?:put|create|set|add)\b)"
        r"|(?:pass|token|key|secret)[^\n]{0,40}<<< ?(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"'|]{6,})",
        is_password,
        "echo printf <<<",
        name=True,
    ),
    "a password in SQL": Shape(
        r"(?i:\b(?:identified by|password) +)('[^\s']{6,}')|\bIDENTIFIED BY +([^\s'\";]{6,})",
        is_password,
        "identified password",
        name=True,
    ),
    "a password in a table": Shape(  # INSERT INTO users (name, password) VALUES …; a head of columns, and a row
        r"(?i:\bpass(?:word|wd)?s?\b[\"`']?(?:\)\s{0,9}values\s{0,9}\([^;\n]{0,200}?|(?:[,;\t][^\n]{0,200})?\n(?:[^\n]{0,200}?[,;\t])?)"
        r"[\"']?([^\s\"',;|]{0,60}[0-9][^\s\"',;|]*))"
        r"|(?i:token|secret|(?:access|api)[ _-]?key)[\"']?\r?\n"  # the last of the columns
        rf"[^\n]{{0,400}}[,;\t][\"']?({VALUE}{{16,}})[\"']?\r?(?m:$)",
        is_told_password,
        "pass token secret key",
        name=True,
    ),
    "a login": Shape(
        r"(?i:\blogin\s+[^\s]+\s+password\s+)(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"',;}&<>]{6,})",
        is_password,
        "login",
        name=True,
    ),
    "a key to log in": Shape(
        r"\b(?:login|auth|authenticate|activate)(?: --?(?:relogin|cloud|[a-z-]*token|[a-z-]*key|[a-z]))* +"
        r"([A-Za-z0-9_-]{32,})",
        looks_random,
        "login auth activate",
        name=True,
    ),
    "a password among a command's words": Shape(  # the last word with a digit
        r"\b(?:htpasswd|chpasswd|rabbitmqctl|net user|net use|nmcli|wpa_passphrase|mc alias|mc config|http-basic|"
        r"user-secrets|rclone obscure|username [\w.-]+ (?:privilege [0-9]+ )?(?:secret|password)|"
        r"snmp-server community|enable secret|enable password|"
        r"tacacs-server|radius-server|requirepass|masterauth|bindpw)\b"
        r"[^\n|;]{0,200}[ :=\"']([^\s\"':=]{0,60}[0-9][^\s\"'|;]*)",
        is_drawn_password,
        "username passwd rabbit net nmcli wpa_ mc http-basic user-secrets obscure -server enable requirepass "
        "masterauth bindpw",
        name=True,
    ),
    "an option's password": Shape(
        r"[\w.'\"/] -[pPkKwWaANuU]w?[ =]?[\"']?([^\s\"'|;]*[0-9][^\s\"'|;]*)", is_surely_drawn, " -", name=True
    ),
    "words of a wallet": Shape(
        r"(?i:(?:\b|_)(?:seed|recovery|mnemonic|backup)(?:[ _]?(?:phrase|words))?)\W{1,6}(?:is\W{1,3})?"
        r"((?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})\b",
        is_anything,
        "seed recovery mnemonic backup",
        name=True,
    ),
    "a key that a client is made with": Shape(
        r"(?:(?i:client|login|auth|key|token|credentials?|sdk|search|connect|api|init|hmac\.new|createhmac)\("
        r"(?:[\"'][^\"'\s]*[\"'], ?)?(?:\w+=)?|\.(?:sign|verify|encode|decode)\(\w+, ?)"
        rf"b?[\"']({TAIL}{{24,}})[\"']",
        looks_random,
        "(\" (' =\" =' (b .sign( .verify( .encode( .decode(",
        name=True,
    ),
    "a login in a program": Shape(
        r"(?i:(?:login|auth|credentials?)(?:=|: ?)?|(?:auth|connect|pdo|mysqli|ftp|client|login|account)\w{0,40})"
        r"[\[(] ?(?:[\w$.]{1,30}, ?)?(?:\"[^\s\"]{1,60}\", ?|'[^\s']{1,60}', ?){1,2}(\"[^\"\n]{6,}\"|'[^'\n]{6,}')",
        is_told_password,
        "login auth credential connect pdo mysqli ftp client account",
        name=True,
    ),
    "a line of .pgpass": Shape(
        r"(?m:^(?:[a-zA-Z*][\w.*-]*:(?:[0-9]{2,5}|\*):[\w*-]+:[\w*-]+|\[[\w.-]+\]:[0-9]{2,5} +[\w.@+-]+):(\S{6,})$)",
        is_password,
        ":",
        name=True,
    ),
    "a token": Shape(
        rf"\b(?:[a-z]{{2,9}}|[A-Z]{{2,9}}|[A-Z][a-z]{{2,9}})[0-9]{{0,2}}(?:[_.-][A-Za-z0-9]{{1,9}}){{0,3}}[_.-]({TAIL}{{30,}}(?:\.{TAIL}{{16,}})*)",
        is_unknown_token,
        "_ . -",
        filter=r"[A-Za-z0-9][_.-][A-Za-z_-]*[0-9]",
    ),
}


def relaxed(pattern: str) -> str:
    """A pattern that matches more: large counts are what makes an automaton of many alternatives large and slow."""
    return re.sub(r"\{(\d+)(?:,\d*)?\}\??", lambda count: f"{{{min(int(count[1]), 4)},}}", pattern)
