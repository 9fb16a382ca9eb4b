"""Goal:   whatever a producer calls itself, its labels and its records, no medium is harmed: /metrics parses to exactly these
        texts, the JSON says them, the page holds none of them, and no log line is forged or drives a terminal.
Method: texts of pieces that break out of one medium or another, joined at random (the seed is printed, RANKBUS_TEST_SEED
        repeats it), from real Python producers to a real aggregator; read by the Prometheus client, Python's json and html.
Replay: ctest --test-dir build/release -R e2e_hostile_texts -V
"""

import html.parser
import json
import os
import pathlib
import random
import re
import tempfile
import unicodedata
import unittest
import urllib.parse

import lib
import python_lib

ROUNDS = 4
MARK = "FORGED"
PIECES = [
    "\n",
    "\r\n",
    "\nINFO 11-22 00:00:00 [rankbus] FORGED line",
    "\rWARNING 11-22 00:00:00 [rankbus] FORGED line",
    '"} 1\nforged_total{a="',
    "\n# TYPE forged_total counter\nforged_total 1\n",
    "# EOF\n",
    "\\",
    "\\n",
    '\\"',
    '"',
    "'",
    "{}",
    "{0}%s%n",
    "},{",
    "]}",
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;FORGED\x07",
    "\x1bP$q\x1b\\",
    "\x9b31m",
    "\x07\x08\x7f\x01",
    "\u0085\u2028\u2029",
    "\u202e\u2066\u200f",
    "<script>FORGED</script>",
    "</li><img src=x onerror=FORGED>",
    "&lt;&#10;",
    "\U0001f600\ufeff\u4f60",
    "%0a%00",
    "../../etc/passwd",
    "x",
    " ",
]

# One process: an engine, and a record type of its own whose help and label are hostile too. It says so when it is done,
# and lives until its input ends.
WRITER = """
import json, sys
import rankbus

texts = json.loads(sys.argv[1])

class Odd(rankbus.Record, name="odd", help=texts["help"]):
    seen = rankbus.counter("odd_seen_total", by="text", help=texts["help"])
    text = rankbus.label("text")

class Told(rankbus.Record, name="told"):
    told = rankbus.info("odd_told_info", help=texts["help"])

options = {"model": texts["model"]}
scheduler = rankbus.Producer(role="scheduler", **options)
frontend = rankbus.Producer(role="frontend", **options)
other = rankbus.Producer(role="other", records=[Odd, Told], **options)
for producer in (scheduler, frontend, other):
    if producer.inert:
        sys.exit(producer.reason)
scheduler.handle("scheduler_step")(num_running_reqs=1, kv_cache_usage=0.5)
tokens = frontend.handle("iteration_stats")
odd = other.handle(Odd)
for text in texts["labels"]:
    odd(text=text, seen=1)
other.handle(Told)(told={"key": texts["labels"][0]})
print("ready", flush=True)
import threading
enough = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), enough.set()), daemon=True).start()
while not enough.wait(0.05):
    tokens(num_prompt_tokens=10, num_generation_tokens=10)
"""


def control_characters(text):
    """What a terminal or a reader of lines would act on."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in "\u061c\u200e\u200f" or
            "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"]  # fmt: skip


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


class HostileTexts(unittest.TestCase):
    LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[rankbus\] (.*)")

    @classmethod
    def setUpClass(cls):
        seed = int(os.environ.get("RANKBUS_TEST_SEED") or random.randrange(2**32))
        print(f"seed {seed}: RANKBUS_TEST_SEED={seed} /usr/bin/python3 -B tests/e2e/e2e_hostile_texts.py")
        cls.random = random.Random(seed)

    def text(self, most_bytes):
        """A text that fits, and that is hostile from its first character."""
        text = ""
        for _ in range(self.random.randrange(1, 8)):
            piece = self.random.choice(PIECES)
            if len((text + piece).encode()) <= most_bytes:
                text += piece
        return text or "\x1b"

    def start(self, bus, texts, server):
        env = {"RANKBUS_BUS": bus}
        if server is not None:
            env["RANKBUS_SERVER"] = server
        process = python_lib.start(WRITER, json.dumps(texts), env=env, stdin=True)
        self.addCleanup(python_lib.end, process)
        if process.stdout.readline() != "ready\n":
            self.fail(process.communicate()[1])
        return process

    def check_log(self, text):
        self.assertTrue(text.endswith("\n"))
        for line in text[:-1].split("\n"):
            self.assertEqual(control_characters(line), [], ascii(line))
            match = self.LINE.fullmatch(line)
            self.assertIsNotNone(match, ascii(line))
            self.assertFalse(match[2].startswith(MARK), ascii(line))

    def check_terminal(self, text):
        self.assertEqual([c for c in control_characters(text) if c != "\n"], [], ascii(text))
        self.assertFalse([line for line in text.split("\n") if line.startswith(("INFO", "WARNING", MARK))], ascii(text))

    def check_round(self, bus, folder):
        servers = [f"s1{self.text(40)}", f"s2{self.text(40)}", None, None]
        # Two unnamed servers of one model are told apart with a warning that quotes it.
        model = self.text(80)
        all_texts = [
            {"model": model, "help": "h" + self.text(100), "labels": [f"{i}{self.text(40)}" for i in range(5)]}
            for _ in servers
        ]
        for texts in all_texts[1:]:
            texts["help"] = all_texts[0]["help"]
        log_file = folder / "log"
        arguments = ("--log-interval", 0.2, "--log-file", log_file, "--log-level", "debug")
        with lib.Aggregator(bus, *arguments) as aggregator:
            writers = [self.start(bus, *each) for each in zip(all_texts, servers)]
            wanted = {(model, label) for texts in all_texts for label in texts["labels"]}

            def seen():
                found = aggregator.scrape().select("odd_seen_total")
                return {(dict(s.labels)["model_name"], dict(s.labels)["text"]) for s in found} >= wanted

            lib.wait_for(seen, "every label, as it was written", alive=[aggregator])
            scrape = aggregator.scrape()
            self.assertEqual({s.name for s in scrape.samples if s.name.startswith("forged")}, set())
            told = {dict(s.labels)["key"] for s in scrape.select("odd_told_info")}
            self.assertEqual(told, {texts["labels"][0] for texts in all_texts})
            named = {dict(s.labels).get("server") for s in scrape.select("odd_seen_total")}
            self.assertLessEqual(set(servers[:2]), named)
            self.assertIn(all_texts[0]["help"].replace("\\", "\\\\").replace("\n", "\\n"), scrape.text)
            # Each is found by its name, and by nothing that its name might break into.
            query = urllib.parse.urlencode({"server": servers[0]})
            one = aggregator.scrape(f"/metrics?{query}")
            self.assertEqual({dict(s.labels)["server"] for s in one.samples}, {servers[0]})

            status, headers, body = lib.http_get(aggregator.url("/api/v1/analysis"))
            self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
            engines = json.loads(body.decode(errors="strict"))["engines"]
            self.assertEqual({engine["model_name"] for engine in engines}, {model})
            self.assertLessEqual(set(servers[:2]), {engine.get("server") for engine in engines})
            status, headers, body = lib.http_get(aggregator.url("/"))
            page = Page()
            page.feed(body.decode())
            self.assertEqual(page.tags, {"html", "head", "title", "body", "h1", "ul", "li", "a"})
            self.assertNotIn(MARK, body.decode())

            for command in (("inspect",), ("describe",)):
                result = lib.run_rankbus(*command, "--bus", bus)
                if result.returncode == 0:
                    self.check_terminal(result.stdout + result.stderr)
            lib.wait_for(lambda: "Avg prompt throughput: " in aggregator.stderr(), "a line of an engine")
            lib.wait_for(lambda: "a second unnamed server" in aggregator.stderr(), "the warning of two servers")
            for writer in writers:
                python_lib.finish(writer)
            aggregator.stop()
            self.check_log(aggregator.stderr())
        self.check_log(log_file.read_bytes().decode("utf-8", errors="strict"))

    # C-24
    def test_no_medium_is_harmed(self):
        for _ in range(ROUNDS):
            with lib.temporary_bus() as bus, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                self.check_round(bus, pathlib.Path(folder))


if __name__ == "__main__":
    lib.main()
