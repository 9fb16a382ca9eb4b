// Labels: threads
// Goal: a page whose name was made to resolve to us reads nothing; who asks by address or by a name
//       that was given is served.
// Method: real requests, with Host and target as a client may write them.
#include <gtest/gtest.h>
#include <unistd.h>

#include "unit_exporters_http_lib.hpp"

namespace rankbus::test {
namespace {

std::unique_ptr<HttpServer> start_named(const std::vector<std::string>& names) {
  const auto address = parse_listen_address("127.0.0.1:0");
  const auto shown = shared(mixed_snapshot());
  auto started = HttpServer::start(
      address.value(), [shown](SnapshotParts) { return shown; }, {}, names);
  if (!started) throw std::runtime_error(started.error());
  return std::move(*started);
}

int status_of(const HttpServer& server, const std::string& head) {
  Client client(server.port());
  client.send(head + "Connection: close\r\n\r\n");
  return parse_reply(client.read_to_end()).status;
}

int status_for_host(const HttpServer& server, const std::string& host) {
  return status_of(server, "GET /metrics HTTP/1.1\r\nHost: " + host + "\r\n");
}

TEST(HttpHosts, AddressesAndLocalhost_AreServed) {
  const auto server = start_named({});
  for (const char* host : {"localhost", "LocalHost", "localhost.", "localhost:9855",
                           "localhost:", "127.0.0.1", "127.0.0.1:1", "10.1.2.3:9855", "[::1]",
                           "[::1]:9855", "[2001:db8::1]:65535", "[::ffff:10.0.0.1]"}) {
    EXPECT_EQ(status_for_host(*server, host), 200) << host;
  }
}

TEST(HttpHosts, TheMachinesOwnName_IsServed) {
  char own[256] = {};
  ASSERT_EQ(gethostname(own, sizeof own - 1), 0);
  const auto server = start_named({});
  EXPECT_EQ(status_for_host(*server, std::string(own) + ":9855"), 200) << own;
  EXPECT_EQ(status_for_host(*server, std::string(own) + ".attacker.example"), 421);
}

// C-27
TEST(HttpHosts, OtherNames_Are421WithWhatToDo) {
  const auto server = start_named({});
  for (const char* host : {"evil.example",
                           "evil.example:9855",
                           "localhost.evil.example",
                           "127.0.0.1.evil.example",
                           "evil.example:80@localhost",
                           "user@localhost",
                           "localhost:x",
                           "localhost:123456",
                           "localhost:80:80",
                           "127.1",
                           "0x7f000001",
                           "2130706433",
                           "127.0.0.1.",
                           "256.0.0.1",
                           "::1",
                           "[::1",
                           "[::1]x",
                           "[localhost]",
                           "[127.0.0.1]",
                           "[]",
                           "localhost/",
                           "local host",
                           "*",
                           "",
                           "localhost,evil.example",
                           "xn--lcalhost-gua",
                           "local\thost"}) {
    EXPECT_EQ(status_for_host(*server, host), 421) << host;
  }
  for (const char* path : {"/metrics", "/api/v1/analysis", "/healthz", "/readyz", "/", "/none"}) {
    const std::string head = std::string("GET ") + path + " HTTP/1.1\r\nHost: evil.example\r\n";
    EXPECT_EQ(status_of(*server, head), 421) << path;
  }
  Client client(server->port());
  client.send("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  const std::string reply = client.read_until("NAME\n");
  EXPECT_NE(reply.find("--allow-host NAME"), std::string::npos);
  EXPECT_EQ(reply.find("evil"), std::string::npos) << "a stranger's words stay out of the answer";
  EXPECT_EQ(reply.find("generation_tokens"), std::string::npos);
}

TEST(HttpHosts, GivenNames_AreServedAndNoOthers) {
  const auto server = start_named({"node-17.Example.ORG", "gpu_box."});
  EXPECT_EQ(status_for_host(*server, "node-17.example.org:9855"), 200);
  EXPECT_EQ(status_for_host(*server, "NODE-17.example.org."), 200);
  EXPECT_EQ(status_for_host(*server, "gpu_box"), 200);
  EXPECT_EQ(status_for_host(*server, "localhost"), 200);
  EXPECT_EQ(status_for_host(*server, "node-17"), 421);
  EXPECT_EQ(status_for_host(*server, "x.node-17.example.org"), 421);
}

TEST(HttpHosts, NamesThatAreNone_AreErrors) {
  for (const char* name : {"", "a b", "a:80", "http://a", "*", "[::1]", "a/b", "a\nb"}) {
    EXPECT_FALSE(HttpServer::start(*parse_listen_address("127.0.0.1:0"),
                                   [](SnapshotParts) { return nullptr; }, {}, {name}))
        << name;
  }
}

TEST(HttpHosts, NoHostOrTwo_Is400ApartFromHttp10) {
  const auto server = start_named({});
  EXPECT_EQ(status_of(*server, "GET /metrics HTTP/1.1\r\n"), 400);
  EXPECT_EQ(status_of(*server, "GET /metrics HTTP/1.0\r\n"), 200);
  EXPECT_EQ(status_of(*server, "GET /metrics HTTP/1.0\r\nHost: evil.example\r\n"), 421);
  EXPECT_EQ(
      status_of(*server, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nhOST: evil.example\r\n"),
      400);
  EXPECT_EQ(status_of(*server, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n"),
            400);
}

TEST(HttpHosts, AbsoluteTarget_IsServedUnderOurNamesOnly) {
  const auto server = start_named({"node"});
  const auto status = [&](const std::string& target, const std::string& host) {
    return status_of(*server, "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n");
  };
  EXPECT_EQ(status("http://localhost/metrics", "localhost"), 200);
  EXPECT_EQ(status("http://node:9855/metrics?engine=0", "node:9855"), 200);
  EXPECT_EQ(status("http://evil.example/metrics", "localhost"), 421);
  EXPECT_EQ(status("http://localhost/metrics", "evil.example"), 421);
  EXPECT_EQ(status("http://localhost@evil.example/metrics", "localhost"), 421);
}

TEST(HttpHosts, Answers_KeepBrowsersFromGuessing) {
  const auto server = start_named({});
  for (const char* path : {"/metrics", "/", "/healthz", "/none"}) {
    EXPECT_EQ(fetch(*server, std::string("GET ") + path).headers.at("X-Content-Type-Options"),
              "nosniff")
        << path;
  }
  const Reply index = fetch(*server, "GET /");
  EXPECT_EQ(index.headers.at("Content-Security-Policy").find("default-src 'none'"), 0u);
  EXPECT_EQ(index.headers.count("Access-Control-Allow-Origin"), 0u);
}

}  // namespace
}  // namespace rankbus::test
