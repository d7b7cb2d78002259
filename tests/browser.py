"""A browser to look at pages: the fixture ``browser``, for the conftest.py of those who look.

It is a headless Chromium, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/) with nothing but HTTP.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest


@pytest.fixture
def browser(tmp_path):
    """``browser(size=..., dark=...)``: a window, closed in the end.

    Skipped where there is no Chromium, except where GIGA_REQUIRE_BROWSER says that there must be one.
    """
    if not (CHROMIUM and DRIVER):
        reason = "no chromium and chromedriver on the path (Debian: chromium, chromium-driver)"
        if os.environ.get("GIGA_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path / "browser"
    folder.mkdir()
    windows = []

    def open_window(**options):
        windows.append(Browser(folder, **options))
        return windows[-1]

    yield open_window
    for window in windows:
        window.close()


CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
)


class Browser:
    """One window."""

    def __init__(self, folder: Path, *, size=(1280, 900), dark=False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = (folder / "chromedriver.log").open("w")
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{port}"
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 60
        while True:
            try:
                self.call("GET", "/status")
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
        scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        window = [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder / 'profile'}"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": [*FLAGS, *scheme, *window]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except OSError:
            self.stop()
            raise
        self.url += f"/session/{made['sessionId']}"
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)  # a window cannot be narrower than 500 px

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.stop()

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with self.opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def devtools(self, command, parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path | str):
        """Go to a file, or to an address."""
        self.call("POST", "/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})

    def run(self, script, *arguments):
        """The value that a piece of JavaScript returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def move(self, x, y, *, click=False):
        """Put the mouse on a point of the window, and press it."""
        steps = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]
        if click:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
        self.call("POST", "/actions", {"actions": [mouse]})

    def messages(self):
        """What the page said on its console since it was last asked: nothing, if all is well."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, file: Path, *, whole=True):
        parameters = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            box = self.devtools("Page.getLayoutMetrics", {})["cssContentSize"]
            parameters["clip"] = {**box, "scale": 1}
        file.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot", parameters)["data"]))
