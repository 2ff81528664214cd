"""What holds for every template and file: nothing inline, nothing from elsewhere, nothing heavy."""

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from keyledger.client.records import UsagePoint
from services.dashboard.assets import build
from services.dashboard.routes.rendering import TEMPLATES
from tests.support.dashboard_pages import ADA, PART, Pages

OWN = build.OWN
LARGEST_HTML = 100 * 1024
LARGEST_OWN = 24 * 1024
"""Bytes of our own style and scripts, as they travel."""
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
HOSTILE = "\"'><svg onload=alert(1)>{{7*7}}</td>"


class Checked(HTMLParser):
    """Well-formed as far as a browser is concerned, with nothing inline; ids are there once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.labels: set[str] = set()
        self.fields: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> stays open" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if len(given) != len(attrs):
            self.wrong.append(f"<{tag}> says something twice: {attrs}")
        self.wrong += [
            f"<{tag} {name}>"
            for name in given
            if name == "style" or name.startswith(("on", "hx-on")) or name in ("srcdoc", "formaction")
        ]
        self.wrong += [
            f"<{tag} {name}={value}>"
            for name, value in given.items()
            if value and re.match(r"\s*(?:javascript:|js:|//|https?:)", value) and name != "value"
        ]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.wrong.append(f"inline <{tag}>")
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "label" and given.get("for"):
            self.labels.add(str(given["for"]))
        if tag in ("input", "select", "textarea"):
            self.fields.append((tag, {**given, "wrapped": "yes" if "label" in self._open else None}))
        if tag not in VOID and tag not in ("path", "circle", "rect", "line"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or tag in ("path", "circle", "rect", "line"):
            return
        if not self._open or self._open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def unlabelled(self) -> list[str]:
        return [
            str(given.get("name"))
            for _, given in self.fields
            if given.get("type") != "hidden"
            and not (given.get("wrapped") or given.get("aria-label") or given.get("id") in self.labels)
        ]


async def every_answer() -> dict[str, str]:
    """Every page and part there is, of a workspace full of what a hostile person may type."""
    pages = Pages()
    key = await pages.key(
        HOSTILE, scopes=("a:b", "keyledger:keys:read"), external_id=HOSTILE, metadata={HOSTILE: HOSTILE},
        allowed_ips=("192.0.2.1",),
    )  # fmt: skip
    pages.backend.points.append(
        UsagePoint(
            start=pages.backend.now.replace(minute=0, second=0), count=3, cost=3, outcome=HOSTILE, key=key
        )
    )
    pages.accounts.known[ADA] = type(pages.accounts.known[ADA])(ADA, HOSTILE, HOSTILE)
    await pages.accounts.invite(pages.visitor, "viewer", HOSTILE)
    await pages.backend.rename_workspace(pages.visitor, HOSTILE)
    home = f"/settings/api-keys/{key}"
    once = {"once": "h" * 20}
    found: dict[str, str] = {}
    async with pages.browser() as client:
        for path in (
            "/settings/api-keys", "/settings/api-keys?search=" + "x" * 300, "/settings/api-keys/new", home,
            f"{home}?as_of=2", f"{home}/rotate", f"{home}/revoke", f"{home}/edit", f"{home}/usage",
            "/settings/usage", "/settings/rate-limit", "/settings/activity", "/settings/workspace",
            "/settings/members", "/workspaces", "/account", "/settings/api-keys/nothing",
        ):  # fmt: skip
            found[path] = _sound(await client.get(path))
        for path in ("/workspaces/menu", "/settings/usage/top", "/settings/rate-limit/gauge"):
            found["part " + path] = _sound(await client.get(path, headers=PART))
        for path, fields in (
            ("/settings/api-keys", {"name": HOSTILE, "environment": "live", **once}),
            ("/settings/api-keys", {"name": "", "limit": HOSTILE, "metadata": HOSTILE, "scopes": HOSTILE}),
            (f"{home}/edit", {"name": "", "expires_at": HOSTILE, "window": HOSTILE, "limit": "x"}),
            (f"{home}/rotate", {"overlap": HOSTILE}),
            (f"{home}/rotate", {"overlap": "60", **once}),
            (f"{home}/revoke", {"confirm": HOSTILE[:5], "note": HOSTILE}),
            (f"{home}/revoke", {"confirm": HOSTILE, "reason": "Another"}),
            ("/settings/workspace", {"name": ""}),
            ("/settings/members/invitations", {"role": "viewer", "note": HOSTILE}),
            ("/workspaces", {"name": ""}),
            ("/workspaces", {"name": HOSTILE}),
            ("/account/erase", {"confirm": HOSTILE[:20]}),
        ):
            answer = await client.post(path, content=urlencode(fields).encode(), headers=PART)
            found[f"POST {path} {len(found)}"] = _sound(answer)
    return found


def _sound(answer: httpx2.Response) -> str:
    assert answer.status_code < 500, answer.url
    return answer.text


async def test_no_answer_has_anything_inline_or_from_elsewhere_or_unescaped() -> None:
    for path, text in (await every_answer()).items():
        checked = Checked(text)
        assert checked.wrong == [], path
        assert "<svg onload" not in text, path
        assert ">49<" not in text, path
        assert checked.unlabelled() == [], path
        assert sorted(set(checked.ids)) == sorted(checked.ids), path
        assert len(text) < LARGEST_HTML, path


OWN_PAGE = {"accept-encoding": "gzip", "sec-fetch-site": "same-origin"}


async def test_a_page_travels_zipped_when_one_of_ours_or_nobody_else_has_asked() -> None:
    pages = Pages()
    async with pages.browser() as client:
        for site, zipped in (("same-origin", True), ("none", True), ("cross-site", False), ("", False)):
            answer = await client.get("/settings/api-keys", headers={**OWN_PAGE, "sec-fetch-site": site})
            assert (answer.headers.get("content-encoding") == "gzip") is zipped, site
            assert "sec-fetch-site" in answer.headers["vary"]
            assert "<h1" in answer.text
        plain = await client.get("/settings/api-keys", headers={**OWN_PAGE, "accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers


async def test_what_shows_a_secret_is_never_zipped_and_kept_nowhere() -> None:
    """By its length it could be guessed (BREACH)."""
    pages = Pages()
    key = await pages.key()
    shown = 0
    async with pages.browser() as client:
        for path, fields in (
            ("/settings/api-keys", {"name": "billing", "environment": "live"}),
            (f"/settings/api-keys/{key}/rotate", {"overlap": "60"}),
            ("/settings/members/invitations", {"role": "viewer"}),
        ):
            answer = await client.post(path, content=urlencode(fields).encode(), headers={**PART, **OWN_PAGE})
            assert re.search(r"cvtk_live_\w{60}|invitations/secret-1", answer.text), path
            assert len(answer.content) > 1024, "long enough to be zipped"
            assert "content-encoding" not in answer.headers, path
            assert answer.headers["cache-control"] == "no-store", path
            shown += 1
    assert shown == 3


def test_what_checks_the_pages_can_find_something() -> None:
    for planted in (
        '<p style="x">', "<script>1</script>", '<a href="javascript:x">', "<p onclick='x'></p>",
        '<img src="//elsewhere/x">', "<div><p></div></p>", '<p id="a" id="b"></p>', "<style></style>",
    ):  # fmt: skip
        assert Checked(planted).wrong, planted
    assert Checked('<input name="a">').unlabelled() == ["a"]


async def test_a_whole_page_is_a_document_with_its_landmarks() -> None:
    for path, text in (await every_answer()).items():
        if path.startswith(("part", "POST")):
            assert "<html" not in text, path
            continue
        assert text.startswith('<!doctype html>\n<html lang="en">'), path
        assert text.count("<h1") == 1, path
        assert text.count("<main") == 1, path
        assert re.search(r"<title>[^<·]+ · Keyledger</title>", text), path
        assert '"allowEval":false' in text
        assert '"includeIndicatorStyles":false' in text
        assert 'hx-headers=\'{"X-Keyledger-Request":"1"}\'' in text


async def test_a_list_of_fifty_long_keys_is_light() -> None:
    pages = Pages()
    for number in range(60):
        await pages.key(
            f"{number:03}" + "n" * 197, scopes=tuple(f"scope:{each}" + "x" * 50 for each in range(9))
        )
    async with pages.browser() as client:
        assert len((await client.get("/settings/api-keys")).content) < LARGEST_HTML
        assert len((await client.get("/settings/activity")).content) < LARGEST_HTML


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_passes_a_value_by_unescaped(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    raw = re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}|autoescape false", text)
    # the drawings of the icons, which are written in that very file
    assert raw == (["{{ paths[name]|safe }}"] if path.name == "parts.html" else [])


def test_our_own_style_and_scripts_ask_nobody_and_are_light() -> None:
    own = [path for path in OWN.rglob("*") if path.suffix in (".css", ".js")]
    assert len(own) > 5
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|\beval\(|new Function|innerHTML|insertAdjacentHTML", text), (
            path
        )
    assert sum(len(gzip.compress(path.read_bytes())) for path in own) < LARGEST_OWN


def test_what_npm_brings_is_pinned_by_what_it_holds_and_by_no_address() -> None:
    lock = json.loads((build.ASSETS / "package-lock.json").read_text(encoding="utf-8"))
    wanted = json.loads((build.ASSETS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    packages = {name: given for name, given in lock["packages"].items() if name}
    assert {f"node_modules/{name}" for name in wanted} == set(packages)
    for name, given in packages.items():
        assert given["integrity"].startswith("sha512-"), name
        assert "resolved" not in given, name
        assert given["version"] == wanted[name.removeprefix("node_modules/")]
        assert not given.get("hasInstallScript"), name
    for path in build.VENDORED.values():
        assert any(path.startswith(f"{name}/") for name in wanted), path
