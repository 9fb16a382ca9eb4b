// exporters/http_connections.hpp: who is connected, since when, and who has to go.
//
// The library closes a connection that makes no progress, and a byte now and then is progress: with
// it a client could hold its place for ever, and a full table would lock everybody out. Here a
// connection has deadlines for whole things instead (a request, an answer), and whoever comes to a
// full table takes the place of somebody else:
//
//   of the address with most connections (of IPv6, the /64), so that a crowd only crowds itself out
//   the one that has been without a whole request for longest; if there is none,
//   the one that has been reading its answer for longest
//   never one that waits for a snapshot: that is a matter of our time, not of the client's
//
// Closing is shutdown(): the library's own thread then notices, and closes the descriptor.
#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <vector>

namespace rankbus {

class HttpConnections {
 public:
  using Clock = std::chrono::steady_clock;
  using Address = std::array<std::uint8_t, 8>;

  struct Limits {
    std::size_t connections = 0;
    std::chrono::milliseconds request{0};  // From an answer, or the beginning, to whole headers.
    std::chrono::milliseconds answer{0};   // From an answer's first byte to its last.
    std::size_t held_bytes = 0;            // Of answers that slow clients have not read yet.
  };

  class Connection {
    friend class HttpConnections;
    enum class Phase : std::uint8_t { receiving, waiting, sending, closing };

    int fd = -1;
    Address address{};
    Phase phase = Phase::receiving;
    Clock::time_point since;  // When this phase began.
    std::uint64_t batch = 0;  // Whose memory its answer holds; 0: nobody's.
    std::list<Connection>::iterator place;
  };

  explicit HttpConnections(const Limits& limits) : limits_(limits) {}

  // Makes room if there is none. The result is valid until `closed`; the descriptor is the
  // caller's.
  Connection* opened(int fd, const sockaddr* peer, Clock::time_point now);
  void closed(Connection* connection);

  // In the order of a connection's life: the headers are whole, an answer begins to leave, it has
  // left.
  void asked(Connection* connection);
  void answering(Connection* connection, Clock::time_point now);
  void answered(Connection* connection, Clock::time_point now);

  // These are about to get answers that share so many bytes, which are held until the last of them
  // has left. Closes whoever still reads the oldest such answers while all together hold too much.
  void hold(const std::vector<Connection*>& connections, std::size_t bytes);

  void close_overdue(Clock::time_point now);

 private:
  using Phase = Connection::Phase;

  struct Batch {
    std::size_t bytes = 0;
    std::size_t answers = 0;
  };

  static Address address_of(const sockaddr* peer);
  Connection* most_dispensable();
  void close_now(Connection& connection);
  void release(Connection& connection);

  const Limits limits_;
  std::mutex mutex_;
  std::list<Connection> all_;
  std::size_t open_ = 0;  // Those of `all_` that are not closing.
  std::map<std::uint64_t, Batch> batches_;
  std::uint64_t newest_batch_ = 0;
  std::size_t held_bytes_ = 0;
};

}  // namespace rankbus
