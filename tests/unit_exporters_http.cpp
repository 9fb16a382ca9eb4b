// Labels: threads
// Goal: the server answers as its header says, whatever its clients do.
// Method: real sockets on loopback, on ports that the kernel chooses. Nothing here measures time;
// what hangs is ended by the test runner.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>

#include "unit_exporters_http_lib.hpp"

namespace rankbus::test {
namespace {

using namespace std::chrono_literals;

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

TEST(HttpServer, Metrics_IsTheExposition) {
  const auto server = start_with(mixed_snapshot());
  const Reply reply = fetch(*server, "GET /metrics");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(reply.headers.at("Content-Length"), std::to_string(reply.body.size()));
  EXPECT_EQ(reply.body, render(mixed_snapshot()));
}

TEST(HttpServer, MetricsWithFilter_ShowsItsSeries) {
  const Snapshot shown = mixed_snapshot();
  const auto server = start_with(shown);
  EXPECT_EQ(fetch(*server, "GET /metrics?server=chat").body, render(shown, {"chat", {}}));
  EXPECT_EQ(fetch(*server, "GET /metrics?server=ch%61t&engine=1").body,
            render(shown, {"chat", "1"}));
  EXPECT_EQ(fetch(*server, "GET /metrics?engine=000").body, render(shown, {{}, "0"}));
  const Reply nobody = fetch(*server, "GET /metrics?server=nobody");
  EXPECT_EQ(nobody.status, 200);
  EXPECT_EQ(nobody.body, "");
}

TEST(HttpServer, BadParameter_Is400) {
  const auto server = start_with(mixed_snapshot());
  for (const char* query :
       {"egine=0", "server", "server=", "engine=", "engine=x", "engine=-1", "engine=0x1",
        "engine=1%20", "engine=4294967296", "engine=0&engine=1", "server=a&server=a"}) {
    const Reply reply = fetch(*server, std::string("GET /metrics?") + query);
    EXPECT_EQ(reply.status, 400) << query;
    EXPECT_NE(reply.body, "") << query;
  }
}

TEST(HttpServer, OtherPages_Answer) {
  const auto server = start_with(mixed_snapshot());
  EXPECT_EQ(fetch(*server, "GET /healthz").body, "ok\n");
  EXPECT_EQ(fetch(*server, "GET /readyz").body, "ready\n");
  const Reply index = fetch(*server, "GET /");
  EXPECT_EQ(index.status, 200);
  EXPECT_EQ(index.headers.at("Content-Type"), "text/html; charset=utf-8");
  for (const char* link : {"/metrics", "/healthz", "/readyz"}) {
    EXPECT_NE(index.body.find("href=\"" + std::string(link) + "\""), std::string::npos);
  }
}

TEST(HttpServer, Head_IsGetWithoutBody) {
  const auto server = start_with(mixed_snapshot());
  for (const char* path : {"/metrics", "/healthz", "/readyz", "/"}) {
    const Reply get = fetch(*server, std::string("GET ") + path);
    const Reply head = fetch(*server, std::string("HEAD ") + path);
    EXPECT_EQ(head.status, 200) << path;
    EXPECT_EQ(head.body, "") << path;
    EXPECT_EQ(head.headers.at("Content-Length"), get.headers.at("Content-Length")) << path;
    EXPECT_EQ(head.headers.at("Content-Type"), get.headers.at("Content-Type")) << path;
  }
}

TEST(HttpServer, UnknownPath_Is404) {
  const auto server = start_with(mixed_snapshot());
  for (const char* path : {"/nothing",
                           "/metrics/",
                           "/Metrics",
                           "/../etc/passwd",
                           "//",
                           "//metrics",
                           "/./metrics",
                           "/metrics/../metrics",
                           "/x/../metrics",
                           "/%6detrics",
                           "/%2e/metrics",
                           "/metrics%00",
                           "/metrics%00.html",
                           "/metrics%3Fengine=0",
                           "/metrics;x",
                           "/metrics#x",
                           "*",
                           "metrics",
                           "\\metrics",
                           "https://localhost/metrics",
                           "http://localhost"}) {
    EXPECT_EQ(fetch(*server, std::string("GET ") + path).status, 404) << path;
  }
  EXPECT_EQ(fetch(*server, "POST /nothing").status, 404);
}

// The library takes a NUL for the end of what it stands in. What came before it is then asked for,
// and nothing else: never a page of another name.
TEST(HttpServer, NulInTarget_EndsIt) {
  const auto server = start_with(mixed_snapshot());
  using namespace std::string_literals;
  for (const std::string& target : {"/nothing\0/metrics"s, "\0/metrics"s, "/metric\0s"s}) {
    Client client(server->port());
    client.send("GET " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.finish_sending();
    EXPECT_NE(parse_reply(client.read_to_end()).status, 200) << testing::PrintToString(target);
  }
  EXPECT_EQ(fetch(*server, "GET /metrics").body, render(mixed_snapshot()));
}

TEST(HttpServer, OtherMethods_Are405WithAllow) {
  const auto server = start_with(mixed_snapshot());
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"}) {
    const Reply reply = fetch(*server, std::string(method) + " /metrics");
    EXPECT_EQ(reply.status, 405) << method;
    EXPECT_EQ(reply.headers.at("Allow"), "GET, HEAD") << method;
  }
  Client with_body(server->port());
  with_body.send(request_text("POST /metrics", "Content-Length: 5\r\n") + "hello");
  EXPECT_EQ(parse_reply(with_body.read_until("\r\n\r\n")).status, 405);
}

TEST(HttpServer, GetWithBody_Is400) {
  const auto server = start_with(mixed_snapshot());
  EXPECT_EQ(fetch(*server, "GET /metrics", "Content-Length: 1000000000000\r\n").status, 400);
  EXPECT_EQ(fetch(*server, "GET /metrics", "Transfer-Encoding: chunked\r\n").status, 400);
  EXPECT_EQ(fetch(*server, "GET /metrics", "Content-Length: 0\r\n").status, 200);
}

TEST(HttpServer, IncompleteSnapshot_Is503UntilComplete) {
  std::atomic<bool> is_complete = false;
  const auto server = start([&] {
    Snapshot shown = mixed_snapshot();
    shown.complete = is_complete;
    return shared(std::move(shown));
  });
  for (const char* path : {"/metrics", "/readyz"}) {
    const Reply reply = fetch(*server, std::string("GET ") + path);
    EXPECT_EQ(reply.status, 503) << path;
    EXPECT_EQ(reply.body, "the first pass over the bus is not complete\n") << path;
    EXPECT_EQ(reply.headers.at("Retry-After"), "1") << path;
  }
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
  EXPECT_EQ(fetch(*server, "GET /metrics?egine=0").status, 400) << "wrong at any time";
  is_complete = true;
  EXPECT_EQ(fetch(*server, "GET /metrics").status, 200);
  EXPECT_EQ(fetch(*server, "GET /readyz").status, 200);
}

TEST(HttpServer, Analysis_IsJsonOfTheEnginesThatWereAskedFor) {
  Snapshot shown;
  shown.complete = true;
  shown.analyses = {{"key of a", "a", "0", R"({"engine":0,"server":"a"})"},
                    {"key of b", "b", "0", R"({"engine":0,"server":"b"})"},
                    {"key of b", "b", "1", R"({"engine":1,"server":"b"})"}};
  std::vector<SnapshotParts> asked;
  auto address = parse_listen_address("127.0.0.1:0");
  auto server = HttpServer::start(*address, [&](SnapshotParts parts) {
    asked.push_back(parts);
    return shared(shown);
  });
  ASSERT_TRUE(server);
  const Reply all = fetch(**server, "GET /api/v1/analysis");
  EXPECT_EQ(all.status, 200);
  EXPECT_EQ(all.headers.at("Content-Type"), "application/json");
  EXPECT_EQ(all.body, R"({"engines":[{"engine":0,"server":"a"},{"engine":0,"server":"b"},)"
                      R"({"engine":1,"server":"b"}]})"
                      "\n");
  EXPECT_EQ(fetch(**server, "GET /api/v1/analysis?server=b&engine=1").body,
            R"({"engines":[{"engine":1,"server":"b"}]})"
            "\n");
  EXPECT_EQ(fetch(**server, "GET /api/v1/analysis?server=c").body, "{\"engines\":[]}\n");
  EXPECT_EQ(fetch(**server, "GET /api/v1/analysis?engine=x").status, 400);
  EXPECT_EQ(fetch(**server, "GET /metrics").status, 200);
  // Nobody who only scrapes pays for them.
  EXPECT_EQ(asked, (std::vector{SnapshotParts::analyses_too, SnapshotParts::analyses_too,
                                SnapshotParts::analyses_too, SnapshotParts::families}));
}

TEST(HttpServer, MissingSnapshot_Is503) {
  const auto none = start([] { return nullptr; });
  EXPECT_EQ(fetch(*none, "GET /metrics").status, 503);
  const auto failing = start(
      []() -> std::shared_ptr<const Snapshot> { throw std::runtime_error("secret of the bus"); });
  const Reply reply = fetch(*failing, "GET /metrics");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.body, "reading the bus failed\n");
  EXPECT_EQ(fetch(*failing, "GET /healthz").status, 200);
}

TEST(HttpServer, TwentyClients_EachGetTheWholeText) {
  auto shown = shared(mixed_snapshot());
  const std::string expected = render(*shown);
  std::atomic<int> calls = 0;
  std::atomic<int> calls_at_once = 0;
  std::atomic<bool> overlapped = false;
  const auto server = start([&] {
    if (++calls_at_once != 1) overlapped = true;
    ++calls;
    --calls_at_once;
    return shown;
  });
  constexpr int kClients = 20;
  constexpr int kRequests = 10;
  std::latch all_ready(kClients);
  std::vector<std::future<int>> whole;
  whole.reserve(kClients);
  for (int i = 0; i < kClients; ++i) {
    whole.push_back(std::async(std::launch::async, [&] {
      all_ready.arrive_and_wait();
      int count = 0;
      for (int j = 0; j < kRequests; ++j) count += fetch(*server, "GET /metrics").body == expected;
      return count;
    }));
  }
  for (auto& count : whole) EXPECT_EQ(count.get(), kRequests);
  EXPECT_LE(calls, kClients * kRequests);
  EXPECT_FALSE(overlapped);
}

TEST(HttpServer, WaitingForTheBus_DelaysNobodyElse) {
  std::latch asked(1);
  std::latch may_answer(1);
  std::atomic<int> calls = 0;
  auto shown = shared(mixed_snapshot());
  const auto server = start([&] {
    if (++calls == 1) {
      asked.count_down();
      may_answer.wait();
    }
    return shown;
  });
  auto scrape = std::async(std::launch::async, [&] { return fetch(*server, "GET /metrics"); });
  asked.wait();
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
  EXPECT_EQ(fetch(*server, "GET /nothing").status, 404);
  may_answer.count_down();
  EXPECT_EQ(scrape.get().status, 200);
}

TEST(HttpServer, ClientsThatWaitTogether_GetWhatEachAskedFor) {
  std::latch asked(1);
  std::latch may_answer(1);
  std::atomic<int> calls = 0;
  auto shown = shared(mixed_snapshot());
  const auto server = start([&] {
    if (++calls == 1) {
      asked.count_down();
      may_answer.wait();
    }
    return shown;
  });
  Client first(server->port());
  first.send(request_text("GET /metrics"));
  asked.wait();
  Client all(server->port());
  Client chat(server->port());
  Client engine(server->port());
  Client chat_again(server->port());
  Client ready(server->port());
  all.send(request_text("GET /metrics"));
  chat.send(request_text("GET /metrics?server=chat"));
  engine.send(request_text("GET /metrics?engine=1"));
  chat_again.send(request_text("GET /metrics?server=chat"));
  ready.send(request_text("GET /readyz"));
  // By these answers the others have most likely been taken in; if not, only less is tested.
  for (int i = 0; i < 10; ++i) fetch(*server, "GET /healthz");
  may_answer.count_down();
  EXPECT_EQ(parse_reply(first.read_to_end()).body, render(*shown));
  EXPECT_EQ(parse_reply(all.read_to_end()).body, render(*shown));
  EXPECT_EQ(parse_reply(chat.read_to_end()).body, render(*shown, {"chat", {}}));
  EXPECT_EQ(parse_reply(engine.read_to_end()).body, render(*shown, {{}, "1"}));
  EXPECT_EQ(parse_reply(chat_again.read_to_end()).body, render(*shown, {"chat", {}}));
  EXPECT_EQ(parse_reply(ready.read_to_end()).body, "ready\n");
}

TEST(HttpServer, KeptConnection_AnswersAgain) {
  const auto server = start_with(mixed_snapshot());
  Client client(server->port());
  for (int i = 0; i < 3; ++i) {
    client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(parse_reply(client.read_until("ready\n")).status, 200);
  }
}

TEST(HttpServer, PipelinedRequests_AreAllAnswered) {
  const auto server = start_with(mixed_snapshot());
  Client client(server->port());
  const std::string one = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
  client.send(one + one + request_text("GET /healthz"));
  const std::string all = client.read_to_end();
  const std::size_t first = all.find("ready\n");
  ASSERT_NE(first, std::string::npos);
  EXPECT_NE(all.find("ready\n", first + 1), std::string::npos);
  EXPECT_EQ(all.substr(all.size() - 3), "ok\n");
}

// C-27
TEST(HttpServer, SilentClient_IsClosedAndHindersNobody) {
  const auto server = start_with(mixed_snapshot(), {.request_timeout = 1s});
  Client silent(server->port());
  Client half(server->port());
  half.send("GET /metrics HTT");
  EXPECT_EQ(fetch_until_answered(*server, "GET /metrics").status, 200);
  EXPECT_EQ(silent.read_to_end(), "");
  EXPECT_EQ(half.read_to_end().find(" 200 "), std::string::npos);
  EXPECT_EQ(fetch_until_answered(*server, "GET /metrics").status, 200);
}

TEST(HttpServer, SlowReader_HindersNobodyAndGetsEverything) {
  const Snapshot shown = big_snapshot();
  const auto server = start_with(shown);
  Client slow(server->port(), 4096);
  slow.send(request_text("GET /metrics"));
  EXPECT_EQ(fetch(*server, "GET /metrics").body, render(shown));
  EXPECT_EQ(parse_reply(slow.read_to_end()).body, render(shown));
}

TEST(HttpServer, ClientThatLeavesEarly_HindersNobody) {
  const auto server = start_with(big_snapshot());
  for (int i = 0; i < 20; ++i) {
    Client leaving(server->port(), 4096);
    leaving.send(request_text("GET /metrics"));
    if (i % 2 == 0) leaving.read_until("\r\n");
  }
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
}

// C-27
TEST(HttpServer, OversizedRequest_IsRefused) {
  const auto server = start_with(mixed_snapshot());
  const Reply header = fetch(*server, "GET /metrics", "X: " + std::string(100000, 'x') + "\r\n");
  EXPECT_TRUE(header.status == 431 || header.status == 0) << header.status;
  std::string many;
  for (int i = 0; i < 10000; ++i) many += "X" + std::to_string(i) + ": y\r\n";
  const Reply headers = fetch(*server, "GET /metrics", many);
  EXPECT_TRUE(headers.status == 431 || headers.status == 0) << headers.status;
  const Reply path = fetch(*server, "GET /" + std::string(100000, 'x'));
  EXPECT_TRUE(path.status == 414 || path.status == 0) << path.status;
  EXPECT_EQ(fetch(*server, "GET /metrics").status, 200);
}

TEST(HttpServer, HeadersBelowTheLimit_AreServed) {
  const auto server = start_with(mixed_snapshot());
  EXPECT_EQ(fetch(*server, "GET /metrics", "X: " + std::string(4000, 'x') + "\r\n").status, 200);
}

TEST(HttpServer, Garbage_IsNotServed) {
  const auto server = start_with(mixed_snapshot(), {.request_timeout = 1s});
  for (const std::string_view garbage :
       {std::string_view("\x16\x03\x01\x02\x00\x01\r\n\r\n", 10), std::string_view("\r\n\r\n\r\n"),
        std::string_view("GET\r\n\r\n"), std::string_view("GET /metrics HTTP/1.1\r\nHost"),
        std::string_view("\0\0\0\0", 4)}) {
    Client client(server->port());
    client.send(garbage);
    client.finish_sending();
    EXPECT_EQ(client.read_to_end().find(" 200 "), std::string::npos) << garbage;
  }
  EXPECT_EQ(fetch_until_answered(*server, "GET /metrics").status, 200);
}

TEST(HttpServer, FullConnectionTable_TakesThePlaceOfTheIdlest) {
  const auto server = start_with(mixed_snapshot(), {.connections = 2});
  const std::string kept = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
  Client first(server->port());
  Client second(server->port());
  for (Client* client : {&second, &first}) {
    client->send(kept);
    client->read_until("ok\n");
  }
  EXPECT_EQ(fetch(*server, "GET /metrics").body, render(mixed_snapshot()));
  EXPECT_EQ(second.read_to_end(), "");
  first.send(kept);
  EXPECT_EQ(parse_reply(first.read_until("ok\n")).status, 200) << "whoever asked last stays";
}

TEST(HttpServer, FullConnectionTable_LeavesThoseWhoWaitForTheBus) {
  std::latch asked(1);
  std::latch may_answer(1);
  std::atomic<int> calls = 0;
  auto shown = shared(mixed_snapshot());
  const auto server = start(
      [&] {
        if (++calls == 1) {
          asked.count_down();
          may_answer.wait();
        }
        return shown;
      },
      {.connections = 1});
  Client waiting(server->port());
  waiting.send(request_text("GET /metrics"));
  asked.wait();
  Client turned_away(server->port());
  EXPECT_EQ(turned_away.read_to_end(), "");
  may_answer.count_down();
  EXPECT_EQ(parse_reply(waiting.read_to_end()).body, render(mixed_snapshot()));
}

// C-27
TEST(HttpServer, HeaderWithoutEnd_IsClosedThoughBytesKeepComing) {
  const auto server = start_with(mixed_snapshot(), {.request_timeout = 1s});
  Client dripping(server->port());
  dripping.send("GET /metrics HTTP/1.1\r\nX: ");
  while (!dripping.closes_within(10ms)) dripping.send("x");
  EXPECT_EQ(dripping.read_to_end().find(" 200 "), std::string::npos);
}

TEST(HttpServer, AnswerThatIsNotRead_IsBrokenOff) {
  const auto server = start_with(big_snapshot(), {.answer_timeout = 1s});
  Client slow(server->port(), 4096);
  slow.send(request_text("GET /metrics"));
  const std::string beginning = slow.read_until("\r\n\r\n");
  slow.wait_until_reset();
  EXPECT_EQ(parse_reply(beginning).status, 200);
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
}

TEST(HttpServer, AnswersThatNobodyReads_HoldBoundedMemory) {
  const auto server = start_with(big_snapshot(), {.held_answer_bytes = 1});
  Client first(server->port(), 4096);
  first.send(request_text("GET /metrics"));
  first.read_until("\r\n\r\n");
  Client second(server->port(), 4096);
  second.send(request_text("GET /metrics"));
  second.read_until("\r\n\r\n");
  first.wait_until_reset();
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
  EXPECT_EQ(fetch(*server, "GET /metrics").body, render(big_snapshot()));
}

TEST(HttpServer, PortInUse_IsAnErrorThatSaysSo) {
  const auto server = start_with(mixed_snapshot());
  const auto second = HttpServer::start(server->address(), [](SnapshotParts) { return nullptr; });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().find("cannot listen on " + server->address().text() +
                                ": Address already in use; another process has this port"),
            0u)
      << second.error();
  EXPECT_EQ(fetch(*server, "GET /metrics").status, 200);
}

TEST(HttpServer, ForeignAddress_IsAnError) {
  const auto address = parse_listen_address("192.0.2.1:0");  // Reserved for documentation.
  ASSERT_TRUE(address);
  const auto server = HttpServer::start(address.value(), [](SnapshotParts) { return nullptr; });
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().find("no interface of this machine has this address"),
            std::string::npos);
}

TEST(HttpServer, Ipv6Loopback_IsListenedOn) {
  auto address = parse_listen_address("[::1]:0");
  ASSERT_TRUE(address);
  auto shown = shared(mixed_snapshot());
  auto server = HttpServer::start(*address, [shown](SnapshotParts) { return shown; });
  if (!server) GTEST_SKIP() << "skipped: no IPv6 loopback here: " << server.error();
  EXPECT_EQ((*server)->address().text(), "[::1]:" + std::to_string((*server)->port()));
  EXPECT_NE((*server)->port(), 0);
  const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_storage& where = (*server)->address().storage;
  EXPECT_EQ(
      connect(fd, reinterpret_cast<const sockaddr*>(&where), (*server)->address().storage_bytes),
      0);
  close(fd);
}

TEST(HttpServer, StopWithScrapeUnderWay_AnswersItWhole) {
  std::latch asked(1);
  std::latch may_answer(1);
  auto shown = shared(big_snapshot());
  const auto server = start(
      [&] {
        asked.count_down();
        may_answer.wait();
        return shown;
      },
      {.stop_grace = std::chrono::hours(1)});
  auto scrape = std::async(std::launch::async, [&] { return fetch(*server, "GET /metrics"); });
  asked.wait();
  auto stopped = std::async(std::launch::async, [&] { server->stop(); });
  may_answer.count_down();
  EXPECT_EQ(scrape.get().body, render(*shown));
  stopped.get();
}

TEST(HttpServer, StopWithStalledClients_EndsAfterTheGrace) {
  const auto server = start_with(big_snapshot(), {.stop_grace = std::chrono::milliseconds(1)});
  Client silent(server->port());
  Client slow(server->port(), 4096);
  slow.send(request_text("GET /metrics"));
  slow.read_until("\r\n\r\n");
  server->stop();
  server->stop();
  EXPECT_EQ(silent.read_to_end(), "");
}

TEST(HttpServer, StoppedServer_LeavesPortAndDescriptors) {
  auto server = start_with(mixed_snapshot());
  const ListenAddress address = server->address();
  EXPECT_EQ(fetch(*server, "GET /metrics").status, 200);
  server.reset();
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 5; ++i) {
    auto shown = shared(mixed_snapshot());
    auto again = HttpServer::start(address, [shown](SnapshotParts) { return shown; });
    ASSERT_TRUE(again) << again.error();
    EXPECT_EQ(fetch(**again, "GET /metrics").status, 200);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(ListenAddress, GoodOnes_AreUnderstood) {
  const auto text = [](const char* given) {
    const auto parsed = parse_listen_address(given);
    return parsed ? parsed->text() : parsed.error();
  };
  EXPECT_EQ(text("127.0.0.1:9855"), "127.0.0.1:9855");
  EXPECT_EQ(text("0.0.0.0:0"), "0.0.0.0:0");
  EXPECT_EQ(text("localhost:65535"), "127.0.0.1:65535");
  EXPECT_EQ(text("[::1]:9855"), "[::1]:9855");
  EXPECT_EQ(text("[0:0:0:0:0:0:0:0]:1"), "[::]:1");
}

TEST(ListenAddress, BadOnes_AreRefusedWithTheReason) {
  const auto error = [](const char* given) { return parse_listen_address(given).error(); };
  EXPECT_NE(error("9855").find("has no port"), std::string::npos);
  EXPECT_NE(error("").find("has no port"), std::string::npos);
  EXPECT_NE(error(":9855").find("has no host"), std::string::npos);
  for (const char* given : {"127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1",
                            "127.0.0.1: 1", "127.0.0.1:1x"}) {
    EXPECT_NE(error(given).find("does not end in a port"), std::string::npos) << given;
  }
  for (const char* given : {"example.org:1", "::1:1", "[127.0.0.1]:1", "[::1:1", "256.0.0.1:1"}) {
    EXPECT_NE(error(given).find("does not begin with an address"), std::string::npos) << given;
  }
}

}  // namespace
}  // namespace rankbus::test
