"""Goal:   the endpoint of the real binary is there for scrapers whatever else connects, and only under its names.
Method: real sockets: a thousand idle clients, two hundred slow ones and forty scrapers, by Python's own HTTP client; the
        names as flag, as environment and wrong.
Replay: ctest --test-dir build/release -R e2e_http -V
"""

import concurrent.futures
import http.client
import resource
import socket
import threading
import unittest

import lib

IDLE, SLOW, SCRAPERS, SCRAPES_EACH = 1000, 200, 40, 5


def raise_descriptor_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def ask(aggregator, host, path="/metrics"):
    connection = http.client.HTTPConnection(aggregator.listen, timeout=lib.LIMIT_S)
    try:
        connection.request("GET", path, headers={"Host": host})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


class Slow(threading.Thread):
    """Clients that send a header, or read an answer, a byte at a time, until the end of the test."""

    def __init__(self, address):
        super().__init__()
        self.address = address
        self.enough = threading.Event()

    def come(self, reads):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(self.address)
        client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + (b"\r\n" if reads else b"X: "))
        client.setblocking(False)
        return client

    def step(self, client, reads):
        """A byte further; False if the server has closed."""
        try:
            return bool(client.recv(1)) if reads else client.send(b"x") == 1
        except BlockingIOError:
            return True
        except OSError:
            return False

    def run(self):
        clients = [(self.come(i % 2 == 0), i % 2 == 0) for i in range(SLOW)]
        while not self.enough.wait(0.05):
            for i, (client, reads) in enumerate(clients):
                if not self.step(client, reads):
                    client.close()
                    clients[i] = (self.come(reads), reads)
        for client, _ in clients:
            client.close()


class Http(unittest.TestCase):
    # C-27
    def test_crowd_of_idle_and_slow_clients_leaves_every_scrape_whole(self):
        raise_descriptor_limit()
        with lib.temporary_bus() as bus, lib.Aggregator(bus, "--log-interval", 0) as aggregator:
            with lib.simulate(bus, "--workload", "generated:20", "--speed", "max", "--linger", "--tp", 2):
                tokens = "vllm:generation_tokens_total"
                lib.wait_for(lambda: aggregator.scrape().total(tokens), "tokens")
                host, port = aggregator.listen.split(":")
                idle = [socket.create_connection((host, int(port))) for _ in range(IDLE)]
                slow = Slow((host, int(port)))
                slow.start()
                try:
                    with concurrent.futures.ThreadPoolExecutor(SCRAPERS) as scrapers:
                        scrapes = list(
                            scrapers.map(lambda _: aggregator.scrape(), range(SCRAPERS * SCRAPES_EACH))
                        )
                finally:
                    slow.enough.set()
                    slow.join()
                    for client in idle:
                        client.close()
                self.assertEqual(len(scrapes), SCRAPERS * SCRAPES_EACH)
                for scrape in scrapes:
                    self.assertGreater(scrape.total(tokens), 0)
                    self.assertEqual(scrape.total("rankbus_checkpoints_mismatches_total"), 0)

    def test_only_addresses_localhost_and_given_names_are_served(self):
        for given in ({}, {"env": {"RANKBUS_ALLOW_HOST": "gpu-17.example.org"}}):
            arguments = ("--allow-host", "gpu-17.example.org", "--allow-host", "gpu-17") if not given else ()
            with lib.temporary_bus() as bus, lib.Aggregator(bus, *arguments, **given) as aggregator:
                for host in ("127.0.0.1", "10.0.0.7:9855", "[::1]:9855", "localhost", "GPU-17.example.org:9855"):
                    self.assertEqual(ask(aggregator, host)[0], 200, host)
                for path in ("/metrics", "/api/v1/analysis", "/"):
                    status, told = ask(aggregator, "rebound.example", path)
                    self.assertEqual(status, 421)
                    self.assertIn("--allow-host NAME", told)

    def test_a_name_that_is_none_is_a_bad_option(self):
        with lib.temporary_bus() as bus:
            result = lib.run_rankbus("aggregate", "--bus", bus, "--allow-host", "node:9855")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--allow-host 'node:9855' is no host name", result.stderr)

    # C-27
    def test_it_listens_on_loopback_unless_told_otherwise(self):
        help_text = lib.run_rankbus("aggregate", "--help").stdout
        self.assertIn("127.0.0.1:9855", help_text)


if __name__ == "__main__":
    lib.main()
