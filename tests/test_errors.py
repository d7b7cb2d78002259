"""Errors say what to do, and no secret."""

import pytest

from gigacli.errors import GigaError, SlideError, reason_of, without_secrets

HIDDEN = {
    "cannot reach https://me:pass-word@host:8080/c.zarr today": "cannot reach https://me:***@host:8080/c.zarr today",
    "s3://AKID:pass/wo+rd@bucket/c.zarr/tiles": "s3://AKID:***@bucket/c.zarr/tiles",
    "https:/me:pass-word@host/slide.svs": "https:/me:***@host/slide.svs",  # as pathlib writes it
    "see https://host/c.zarr?sig=abc&se=1 .": "see https://host/c.zarr?*** .",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_of_urls_are_hidden(text):
    assert without_secrets(text) == HIDDEN[text]
    error = GigaError(text, hint=f"try {text}")
    assert (error.message, error.hint) == (HIDDEN[text], f"try {HIDDEN[text]}")
    assert str(error) == f"{HIDDEN[text]}\ntry {HIDDEN[text]}"
    assert reason_of(OSError(text)) == HIDDEN[text]
    assert reason_of(RuntimeError(text)) == f"RuntimeError: {HIDDEN[text]}"


@pytest.mark.parametrize(
    "text",
    [
        "there is no store at s3://bucket/c.zarr",
        "no Dask scheduler answers at tcp://10.0.0.1:8786: refused",
        "http://host:8080/a@b.zarr",
        "mail me@host: it is 10:30 @home",
        "what is this? a question",
    ],
)
def test_other_texts_stay(text):
    assert without_secrets(text) == text


def test_secrets_of_the_environment_are_hidden(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MY_TOKEN", "false")
    assert without_secrets("signed with wJalrXUtnFEMI/K7MDENG, false") == "signed with ***, false"
    assert SlideError("wJalrXUtnFEMI/K7MDENG").args == ("***",)
