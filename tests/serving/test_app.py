"""The page as a visitor uses it: typed into and clicked in a headless Chromium."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.serving import app
from tests.launching import FORKS
from tests.utils import spend_little

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


def _serve(words, log, home):
    """The command in a process of its own."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ |= {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    os.environ["HTTP_PROXY"] = os.environ["HTTPS_PROXY"] = "http://127.0.0.1:9"  # where nobody listens
    tempfile.tempdir = None
    sys.argv = ["app.py", *words]
    spend_little()
    from recipe.process.exiting import exit_on_error

    exit_on_error(app.main)


@pytest.fixture
def served(arguments, tmp_path):
    """A run's folder, the page's address, its process and its log."""
    pytest.importorskip("gradio")
    train(arguments("--prefix_cache=off", "--model_card=true"))
    home, log = tmp_path / "home", tmp_path / "log"
    (home / "tmp").mkdir(parents=True)
    words = [f"--model_name_or_path={tmp_path / 'run'}", "--use_cpu"]
    process = FORKS.Process(target=_serve, args=(words, str(log), home))
    process.start()
    deadline = time.monotonic() + 60
    while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text() if log.exists() else "")):
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield tmp_path / "run", found[0], process, log
    process.kill()
    process.join()


class Visitor:
    """A browser."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.support.ui import WebDriverWait

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1200,1600"):
            options.add_argument(f"--{word}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.wait = WebDriverWait(self.driver, 30, poll_frequency=0.05)

    def find(self, css):
        """The element, once it is there."""
        return self.wait.until(lambda driver: driver.find_element("css selector", css))

    def fill(self, css, text):
        """Put text into a field at once, as pasting does."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.driver.execute_script(script, self.find(css), text)

    def reads(self, css, pattern, seconds=30):
        """What the element says, once it says that; None where it does not within these seconds."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, text := self.find(css).text, re.DOTALL):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
        return text

    def ask(self, first, second, pattern):
        """Type a pair and click, again where the page was not ready yet; what is said of it."""
        for _ in range(6):
            self.fill("#s1 textarea", first)
            self.fill("#s2 textarea", second)
            self.find("#ask").click()
            if said := self.reads("#said", pattern, 5):
                return said
        raise AssertionError(f"{self.find('#said').text!r} is said, not {pattern!r}")

    def open(self, tab):
        """Click on the tab of that number."""
        self.wait.until(lambda driver: len(driver.find_elements("css selector", "button[role=tab]")) > tab)
        self.driver.find_elements("css selector", "button[role=tab]")[tab].click()

    def requested(self):
        """The addresses that the page has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


def predictions(run, path):
    """What --do_predict answers."""
    predict(parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu", f"--test_file={path}"]))
    return (run / "predictions.jsonl").read_text()


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="neither chromium nor chromedriver is installed")
def test_a_visitor_asks_uploads_and_looks(served, pairs_dir, tmp_path):
    pytest.importorskip("selenium")
    run, url, process, log = served
    visitor = Visitor()
    try:
        visitor.driver.get(url)
        _ask(visitor, run, tmp_path)
        _upload(visitor, run, pairs_dir, tmp_path)
        _look(visitor, pairs_dir)
        assert [each for each in visitor.requested() if not each.startswith((url, "data:", "blob:"))] == []
        assert [entry for entry in visitor.driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        os.kill(process.pid, signal.SIGINT)  # while the browser is still connected
        process.join(10)
    finally:
        visitor.driver.quit()
    assert process.exitcode == 130
    lines = log.read_text().splitlines()
    assert lines == [f"page            {url}  (Ctrl-C ends it)", "app.py: interrupted"]
    kept = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert {name for name in kept if not name.startswith("fontlist-v")} == set()  # matplotlib's


def _ask(visitor, run, tmp_path):
    """A pair by hand, an example by a click, and what is no pair."""
    pair = {"sentence1": "花呗怎么提前还款", "sentence2": "花呗可以提前还吗"}
    expected = []
    for number, order in enumerate((list(pair.values()), list(pair.values())[::-1])):
        path = tmp_path / f"asked-{number}.jsonl"
        path.write_text(json.dumps(dict(zip(pair, order, strict=True))) + "\n")
        line = json.loads(predictions(run, path))
        expected.append((line["prediction"], line["probability"]))
    said = visitor.ask(*pair.values(), "both orders agree|orders disagree")
    found = re.findall(r"(same|different) (\d\.\d{6})", said)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [float(chance) for _, chance in found] == pytest.approx([chance for _, chance in expected], abs=1e-6)
    assert ("both orders agree" in said) == (expected[0][0] == expected[1][0])
    for number, (name, _) in enumerate(expected, 1):
        assert visitor.reads(f"#order{number} h2", ".") == name
    visitor.ask("", "花呗", "Please type every sentence")
    visitor.ask("花" * 50_000, "呗", "too long: cut")
    visitor.ask("花" * 100_001, "呗", "sentence1 has 100,001 characters; at most 100,000")
    visitor.ask("<img src=x onerror=alert(1)>", "**呗**", r"different|same")


def _upload(visitor, run, pairs_dir, tmp_path):
    """A file that is good, one with a bad row, and one that is broken."""
    visitor.open(1)
    visitor.find("#upload input[type=file]").send_keys(str(pairs_dir / "test.json"))
    assert visitor.reads("#file-said", "20 pairs")
    link = visitor.find("#answers a[href]").get_attribute("href")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as response:
        assert response.read().decode() == predictions(run, pairs_dir / "test.json")
    (tmp_path / "some.csv").write_text("sentence1,sentence2\n花呗,借呗\n花呗,\n花,呗\n")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00\x00")
    for name, said in [
        ("some.csv", r"2 pairs; 1 bad rows left out, the first: some\.csv:3: sentence2 is empty"),
        ("broken.csv", r"broken\.csv:1: byte 1 is not UTF-8"),
    ]:
        visitor.find("#upload button[aria-label=Clear]").click()
        visitor.find("#upload input[type=file]").send_keys(str(tmp_path / name))
        assert visitor.reads("#file-said", said)
    visitor.wait.until(lambda driver: not driver.find_elements("css selector", "#answers a[href]"))


def _look(visitor, pairs_dir):
    """The mistakes, and the run's scores and figures."""
    visitor.open(2)
    assert visitor.reads("#wrong", r"dev\.json: \d+ / 30")
    assert visitor.reads("#mistakes", "same")
    visitor.open(3)
    assert visitor.reads("#scores", "majority baseline")
    images = visitor.driver.find_elements("css selector", "#figures img")
    assert [image.get_property("naturalWidth") > 100 for image in images] == [True] * 3
    if folder := os.environ.get("SCREENSHOTS"):
        for tab in range(4):
            visitor.open(tab)
            time.sleep(1)
            visitor.driver.save_screenshot(str(Path(folder) / f"page-{tab}.png"))


def test_an_address_that_cannot_be_listened_on_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^--server_name 127.0.0.1 --server_port {port}: Address already in use; an "
        ):
            app._listen("127.0.0.1", port)
    for name, port in (("127.0.0.1", 99999), ("192.0.2.1", 7860), ("127.0.0.1", -1)):
        with pytest.raises(UserError, match=f"^--server_name {name} --server_port {port}: "):
            app._listen(name, port)
    with pytest.raises(UserError, match=r"^--server_name 192\.0\.2\.1 --server_port 7860: "):  # and not for each port
        app._listen("192.0.2.1", None)
    with app._listen("127.0.0.1", None) as first, app._listen("127.0.0.1", None) as second:
        ports = [each.getsockname()[1] for each in (first, second)]
    assert ports[0] != ports[1]
    assert all(app.FIRST_PORT <= port < app.FIRST_PORT + app.PORTS for port in ports)


def test_without_gradio_it_is_said_how_to_get_it(arguments, tmp_path, monkeypatch):
    for name in ("gradio", "recipe.serving.page"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(UserError, match=r"^app needs Gradio: pip install .*'\.\[app\]'"):
        app.serve(arguments("--do_predict"), "127.0.0.1", None)
