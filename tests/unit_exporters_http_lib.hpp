// tests/unit_exporters_http_lib.hpp: a client on real sockets, and servers of given snapshots.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <map>
#include <rankbus/exporters/http_server.hpp>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "unit_exporters_lib.hpp"

namespace rankbus::test {

class Client {
 public:
  explicit Client(std::uint16_t port, int receive_buffer_bytes = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer_bytes != 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      throw std::runtime_error("cannot connect");
    }
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The server may close before it has read everything, which is no error here.
  void send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
  }

  void finish_sending() { shutdown(fd_, SHUT_WR); }

  // All that arrives until the server closes.
  std::string read_to_end() {
    std::string all;
    while (read_some(all)) {
    }
    return all;
  }

  void read_byte_if_any() {
    char byte = 0;
    (void)recv(fd_, &byte, 1, MSG_DONTWAIT);
  }

  // Whether the server has closed it, with all that it had sent.
  bool is_closed() const {
    char byte = 0;
    const ssize_t peeked = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return peeked == 0 || (peeked < 0 && errno != EAGAIN && errno != EINTR);
  }

  bool closes_within(std::chrono::milliseconds limit) const {
    pollfd end{fd_, POLLIN | POLLRDHUP, 0};
    return poll(&end, 1, static_cast<int>(limit.count())) > 0;
  }

  // Until the server has broken the connection off, without reading what it had sent.
  void wait_until_reset() {
    pollfd broken{fd_, 0, 0};
    while (poll(&broken, 1, -1) < 0) {
    }
  }

  // Up to the first occurrence of `end`.
  std::string read_until(std::string_view end) {
    std::string all;
    while (all.find(end) == std::string::npos && read_some(all)) {
    }
    return all;
  }

 private:
  bool read_some(std::string& all) {
    char buffer[16384];
    const ssize_t received = recv(fd_, buffer, sizeof(buffer), 0);
    if (received <= 0) return false;
    all.append(buffer, static_cast<std::size_t>(received));
    return true;
  }

  int fd_ = -1;
};

struct Reply {
  int status = 0;
  std::map<std::string, std::string> headers;
  std::string body;
};

inline Reply parse_reply(const std::string& text) {
  Reply reply;
  const std::size_t head_end = text.find("\r\n\r\n");
  if (head_end == std::string::npos) return reply;
  reply.body = text.substr(head_end + 4);
  std::istringstream head(text.substr(0, head_end));
  std::string version;
  head >> version >> reply.status;
  std::string line;
  std::getline(head, line);
  while (std::getline(head, line)) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) reply.headers[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return reply;
}

inline std::string request_text(const std::string& method_and_path,
                                const std::string& more_headers = "") {
  return method_and_path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + more_headers +
         "\r\n";
}

inline Reply fetch(const HttpServer& server, const std::string& method_and_path,
                   const std::string& more_headers = "") {
  Client client(server.port());
  client.send(request_text(method_and_path, more_headers));
  return parse_reply(client.read_to_end());
}

// For servers that close idle connections soon: a test that is held up meanwhile just asks again.
inline Reply fetch_until_answered(const HttpServer& server, const std::string& method_and_path) {
  for (;;) {
    Reply reply = fetch(server, method_and_path);
    if (reply.status != 0) return reply;
  }
}

inline std::shared_ptr<const Snapshot> shared(Snapshot shown) {
  return std::make_shared<const Snapshot>(std::move(shown));
}

using Fresh = std::function<std::shared_ptr<const Snapshot>()>;

inline std::unique_ptr<HttpServer> start(Fresh fresh, const HttpLimits& limits = {}) {
  const auto address = parse_listen_address("127.0.0.1:0");
  auto started = HttpServer::start(
      address.value(), [fresh = std::move(fresh)](SnapshotParts) { return fresh(); }, limits);
  if (!started) throw std::runtime_error(started.error());
  return std::move(*started);
}

inline std::unique_ptr<HttpServer> start_with(Snapshot shown, const HttpLimits& limits = {}) {
  return start([all = shared(std::move(shown))] { return all; }, limits);
}

inline Snapshot long_snapshot(int series_count) {
  std::vector<Series> all;
  for (int i = 0; i < series_count; ++i) {
    all.push_back(series({{"i", std::to_string(i)}, {"text", std::string(1000, 'x')}},
                         Number(std::uint64_t{1})));
  }
  return snapshot({family("big", "Big.", FamilyType::gauge, std::move(all))});
}

// A body that no socket buffer holds.
inline Snapshot big_snapshot() {
  return long_snapshot(8000);
}

// A body as a node with some engines has it: more than a small receive buffer holds.
inline Snapshot medium_snapshot() {
  return long_snapshot(200);
}

}  // namespace rankbus::test
