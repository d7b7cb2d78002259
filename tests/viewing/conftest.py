"""A page of the tiny cohort, and how to ask it."""

import http.client
import json

import pytest

import gigacli as giga
from tests.browser import browser

__all__ = ["browser"]


class Asked:
    """Asks a page, byte for byte as it is told."""

    def __init__(self, view):
        self.view = view
        self.home = "/" + view.url.split("/", 3)[3].partition("#")[0]

    def raw(self, path, *, method="GET", headers=None, body=None):
        """Status, headers and body of an answer; `path` is the whole of it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.view.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=headers is not None, skip_accept_encoding=True)
            for name, value in headers or []:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def bytes(self, place):
        status, _, body = self.raw(self.home + place)
        assert status == 200, body
        return body

    def json(self, place):
        return json.loads(self.bytes(place))

    def error(self, place):
        """Status and text of a refusal."""
        status, _, body = self.raw(self.home + place)
        return status, body.decode()


@pytest.fixture
def ask():
    """The class :class:`Asked`."""
    return Asked


@pytest.fixture(scope="module")
def page(chain, cohort):
    """A page of the tiny cohort, which only reads."""
    with giga.view(chain("embed"), None, cohort.labels_csv) as view:
        yield Asked(view)
