"""Who may send requests."""

from __future__ import annotations

import httpx
import pytest

from edge_gemma.server.running import with_key
from edge_gemma.server.security import host_name
from edge_gemma.server.settings import Settings, is_loopback

KEY = "correct-horse-battery-staple"


@pytest.fixture
def keyed(own_server):
    with httpx.Client(base_url=own_server(api_key=KEY, allowed_origins=("http://page.example",)).url) as client:
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:80", "192.168.1.7", "x.localhost"])
def test_hosts_that_are_this_machine(http, host):
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "a@b:80", "", "[::1"]
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(http, host):
    answer = http.get("/v1/models", headers={"Host": host})
    assert answer.status_code in (400, 403), "uvicorn refuses what is no host at all"
    if host == "evil.example":
        assert "--allow-host evil.example" in answer.json()["error"]["message"]


def test_a_name_may_be_allowed(own_server):
    url = own_server(allowed_hosts=("Box.Example",)).url
    assert httpx.get(url + "/v1/models", headers={"Host": "box.example:80"}).status_code == 200


def test_host_names():
    assert host_name("[::1]:80") == "::1" and host_name("A.b.:1") == "a.b" and host_name("[") == ""


def test_other_pages_are_refused_and_get_no_permission(http, server):
    answer = http.post("/v1/chat/completions", headers={"Origin": "http://evil.example"}, json={})
    assert answer.status_code == 403 and "--allow-origin http://evil.example" in answer.json()["error"]["message"]
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert http.options("/v1/chat/completions", headers=preflight).status_code == 403
    assert http.get("/v1/models", headers={"Origin": "null"}).status_code == 403
    own = http.get("/v1/models", headers={"Origin": server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


def test_an_allowed_page_gets_exactly_its_permission(keyed):
    page = {"Origin": "http://page.example"}
    preflight = keyed.options(
        "/v1/models",
        headers={**page, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"},
    )
    assert preflight.status_code == 204 and preflight.headers["access-control-allow-origin"] == page["Origin"]
    assert "access-control-allow-credentials" not in preflight.headers
    refused = keyed.get("/v1/models", headers=page)
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == page["Origin"]
    answer = keyed.get("/v1/models", headers={**page, "Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200 and answer.headers["vary"] == "Origin"
    assert keyed.get("/v1/models", headers={"Origin": "http://page.example.evil"}).status_code == 403


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": KEY}, {"x-api-key": KEY + "x"}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/api/tags", "/nowhere"])
def test_without_the_key_nothing_is_told(keyed, headers, path):
    answer = keyed.get(path, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


@pytest.mark.parametrize("headers", [{"Authorization": f"bearer {KEY}"}, {"x-api-key": KEY}])
def test_the_key_opens(keyed, headers):
    assert keyed.get("/v1/models", headers=headers).status_code == 200


def test_health_is_public(keyed):
    assert keyed.get("/health").json() == {"status": "ok"}


def test_without_a_key_any_key_is_taken(http):
    assert http.get("/v1/models", headers={"Authorization": "Bearer sk-0000000000000000000"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box"])
def test_a_key_is_made_where_others_reach_the_server(host):
    settings, made = with_key(Settings(host=host))
    assert made and settings.api_key is not None and len(settings.api_key) >= 32
    assert with_key(Settings(host=host))[0].api_key != settings.api_key
    assert with_key(Settings(host=host, api_key="k")) == (Settings(host=host, api_key="k"), False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_no_key_is_made_for_this_machine_alone(host):
    assert is_loopback(host) and with_key(Settings(host=host)) == (Settings(host=host), False)


def test_errors_have_the_form_of_their_interface(keyed):
    assert keyed.post("/v1/messages", json={}).json()["type"] == "error"
    assert set(keyed.post("/api/chat", json={}).json()) == {"error"}
    assert set(keyed.post("/v1/responses", json={}).json()["error"]) == {"message", "type", "param", "code"}
