// exporters/http_server.hpp: serves snapshots over HTTP.
//
//   GET /metrics?server=&engine=   Prometheus text, current as of the request
//   GET /api/v1/analysis?server=&engine=
//                                  what the analyses say of each engine, as JSON
//   GET /healthz                   200 while the process answers at all
//   GET /readyz                    200 once the first pass over the bus is complete
//   GET /                          a page with links to these
//
// Two threads. One does all network I/O and never waits for anything but the network, so neither a
// slow client nor a slow read of the bus delays another client. The other one asks for a fresh
// snapshot: once for everybody who is waiting by then, since a read that begins after a request
// arrived is fresh for that request. It also closes the connections of clients that take too long.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/exporters/listen_address.hpp>
#include <string>
#include <vector>

namespace rankbus {

// What one client, or many, may take from the process at most.
struct HttpLimits {
  // Never more than a quarter of the descriptors that the process may have. Whoever comes to a full
  // table takes the place of somebody who asks for nothing: http_connections.hpp.
  unsigned connections = 1024;
  // A connection without a whole request for so long is closed, whatever it sends meanwhile.
  std::chrono::milliseconds request_timeout{30000};
  // An answer that has not left for so long is broken off.
  std::chrono::milliseconds answer_timeout{60000};
  std::size_t request_bytes = 16384;  // Request line and headers, with the library's own needs.
  // Of answers that slow clients have not read. The newest answer may be larger.
  std::size_t held_answer_bytes = 64 << 20;
  // How long stop() lets finished answers leave. Longer would let a stalled client delay a restart.
  std::chrono::milliseconds stop_grace{1000};
};

class HttpServer {
 public:
  // Called on the server's own thread, never by two threads at once. May wait, for a bounded time.
  // Null, or an exception, becomes a 503 with a reason.
  using FreshSnapshot = std::function<std::shared_ptr<const Snapshot>(SnapshotParts)>;

  // It may be asked for by any address, as localhost, and by these names.
  static Result<std::unique_ptr<HttpServer>> start(const ListenAddress& address,
                                                   FreshSnapshot fresh_snapshot,
                                                   const HttpLimits& limits = {},
                                                   const std::vector<std::string>& names = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Stops listening, answers what has been asked, gives the answers a moment to leave, and closes.
  // Idempotent; waits for a FreshSnapshot call in progress.
  void stop();

  // Where it really listens: with the port that the kernel chose, if it was asked to.
  const ListenAddress& address() const;
  std::uint16_t port() const { return address().port(); }

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace rankbus
