"""/openapi.json: valid, complete, and readable where there is no internet.

That answers are as it says is shown by all tests of the HTTP interface: `tests.checked` looks at them.
"""

import inspect
import re

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from server import __version__, dialects, fields, openapi
from tests.checked import PENDING, READERS, STATUS, Checked
from tests.serving import ROOT, Server

HTTP = [
    route
    for route in dialects.routes()
    if isinstance(route, Route)
    and not route.path.startswith("/api/v1/")
    and route.endpoint.__module__ not in PENDING
]


@pytest.fixture(scope="module")
def document(server: Server) -> openapi.Schema:
    with server.client() as client:
        told: openapi.Schema = client.get("/openapi.json").json()
    return told


def test_it_is_valid(document: openapi.Schema) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__


@pytest.mark.parametrize("route", HTTP, ids=lambda route: f"{min(route.methods)} {route.path}")
def test_every_route_is_declared(route: openapi.Route) -> None:
    handler = f"{route.endpoint.__module__}.{route.endpoint.__name__}"
    assert openapi.declared(route), (
        f"{route.path} declares nothing: put @operation(…) above {handler}; server/openapi.py shows how"
    )


def test_every_route_is_told(document: openapi.Schema) -> None:
    told = {(method, path) for path, item in document["paths"].items() for method in item}
    for route in HTTP:
        for method in set(route.methods or ()) - {"HEAD"}:
            assert (method.lower(), openapi.place(route)) in told
    for path, item in document["paths"].items():
        servers = [server["url"] for server in item.get("servers", document["servers"])]
        assert servers == (["/", "/api"] if path.startswith("/v1/") else ["/"])


def test_operations_have_names_of_their_own(document: openapi.Schema) -> None:
    operations = [
        item[method] for item in document["paths"].values() for method in item if method != "servers"
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] and operation["tags"] for operation in operations)


def test_it_tells_where_keys_are_wanted(document: openapi.Schema) -> None:
    paths = document["paths"]
    assert paths["/v1/health"]["get"]["security"] == []
    assert "401" not in paths["/v1/health"]["get"]["responses"]
    assert {} in paths["/v1/models"]["get"]["security"], "this server wants none"
    assert "401" in paths["/v1/models"]["get"]["responses"]
    assert paths["/v1/models"]["post"]["x-scope"] == "admin"
    keyed = openapi.document(dialects.doors(), keys=True)
    assert {} not in keyed["paths"]["/v1/models"]["get"]["security"]


def test_every_field_is_described(document: openapi.Schema) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "servers":
                continue
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), f"{method} {path}: {parameter['name']}"
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for name, schema in content["schema"].get("properties", {}).items():
                    assert schema.get("description"), f"{method} {path}: {name}"


def test_all_that_fields_reads_is_watched() -> None:
    """What a request's fields are read with; a new reader has to say which fields it reads."""
    public = {
        name
        for name, thing in vars(fields).items()
        if inspect.isfunction(thing) and thing.__module__ == fields.__name__ and not name.startswith("_")
    }
    assert public == set(READERS), "tests/checked.py: say in READERS which fields a call of it reads"


def test_only_fields_reads_the_query() -> None:
    for file in {*(ROOT / "server").rglob("*.py")} - {ROOT / "server" / "fields.py"}:
        assert not re.search(r"request\.(form|json|body)\(|query_params|\[.query_string", file.read_text()), (
            f"{file.name}: read the request with fields.py, so that what is read is declared"
        )


def test_the_page_needs_no_internet(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 3
    for link in linked:
        assert link.startswith("/docs/")
        assert client.get(link).status_code == 200
    assert "SwaggerUIBundle" in client.get("/docs/swagger-ui.js").text
    assert "/openapi.json" in client.get("/docs/start.js").text


def test_the_checker_sees_what_is_not_declared() -> None:
    """Its own proof: an answer that is not as declared becomes an error."""
    answers = {
        "/v1/health": JSONResponse({"status": "ok"}),
        "/v1/ping": JSONResponse({"status": "ok", "version": "1"}, 418),
        "/v1/version": JSONResponse({"release": "1", "api": "1", "more": 1}),
        "/v1/nothing": JSONResponse({}, 200),
    }

    async def lying(scope: Scope, receive: Receive, send: Send) -> None:
        await answers[scope["path"]](scope, receive, send)

    client = TestClient(Checked(lying))
    for path in answers:
        answer = client.get(path)
        assert answer.status_code == STATUS, path
        assert answer.text.startswith("UNTRUE GET " + path)
