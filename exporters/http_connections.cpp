#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <rankbus/exporters/http_connections.hpp>
#include <utility>

namespace rankbus {

// IPv4 in the last four bytes, also where it comes mapped into IPv6: a host counts as one whichever
// way it came. Of IPv6 the network, because a host there has as many addresses as it likes.
HttpConnections::Address HttpConnections::address_of(const sockaddr* peer) {
  Address address{};
  if (peer == nullptr) return address;
  if (peer->sa_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, peer, sizeof(v4));
    std::memcpy(address.data() + 4, &v4.sin_addr, 4);
  } else if (peer->sa_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, peer, sizeof(v6));
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      std::memcpy(address.data() + 4, v6.sin6_addr.s6_addr + 12, 4);
    } else {
      std::memcpy(address.data(), v6.sin6_addr.s6_addr, 8);
    }
  }
  return address;
}

HttpConnections::Connection* HttpConnections::opened(int fd, const sockaddr* peer,
                                                     Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  all_.emplace_back();
  Connection& made = all_.back();
  made.place = std::prev(all_.end());
  made.fd = fd;
  made.address = address_of(peer);
  made.since = now;
  ++open_;
  if (open_ > limits_.connections) {
    // Where everybody else waits for a snapshot, this is the one that was just made.
    if (Connection* other = most_dispensable()) close_now(*other);
  }
  return &made;
}

void HttpConnections::closed(Connection* connection) {
  const std::lock_guard lock(mutex_);
  release(*connection);
  if (connection->phase != Phase::closing) --open_;
  all_.erase(connection->place);
}

void HttpConnections::asked(Connection* connection) {
  const std::lock_guard lock(mutex_);
  if (connection->phase != Phase::closing) connection->phase = Phase::waiting;
}

void HttpConnections::answering(Connection* connection, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (connection->phase == Phase::closing) return;
  connection->phase = Phase::sending;
  connection->since = now;
}

void HttpConnections::answered(Connection* connection, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  release(*connection);
  if (connection->phase == Phase::closing) return;
  connection->phase = Phase::receiving;
  connection->since = now;
}

void HttpConnections::hold(const std::vector<Connection*>& connections, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (connections.empty()) return;
  const std::uint64_t batch = ++newest_batch_;
  for (Connection* connection : connections) connection->batch = batch;
  batches_[batch] = {bytes, connections.size()};
  held_bytes_ += bytes;
  while (held_bytes_ > limits_.held_bytes && batches_.begin()->first != batch) {
    const std::uint64_t oldest = batches_.begin()->first;
    for (Connection& connection : all_) {
      if (connection.batch != oldest) continue;
      close_now(connection);
      release(connection);
    }
  }
}

void HttpConnections::close_overdue(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  for (Connection& connection : all_) {
    const bool is_late =
        (connection.phase == Phase::receiving && now - connection.since > limits_.request) ||
        (connection.phase == Phase::sending && now - connection.since > limits_.answer);
    if (is_late) close_now(connection);
  }
}

HttpConnections::Connection* HttpConnections::most_dispensable() {
  std::map<Address, std::size_t> crowds;
  for (const Connection& each : all_) {
    if (each.phase == Phase::receiving || each.phase == Phase::sending) ++crowds[each.address];
  }
  if (crowds.empty()) return nullptr;
  const auto largest =
      std::max_element(crowds.begin(), crowds.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      })->first;
  Connection* chosen = nullptr;
  for (Connection& each : all_) {
    if (each.address != largest) continue;
    if (each.phase != Phase::receiving && each.phase != Phase::sending) continue;
    const bool is_better = chosen == nullptr || each.phase < chosen->phase ||
                           (each.phase == chosen->phase && each.since < chosen->since);
    if (is_better) chosen = &each;
  }
  return chosen;
}

void HttpConnections::close_now(Connection& connection) {
  if (connection.phase == Phase::closing) return;
  if (connection.phase == Phase::sending) {
    // What the kernel still holds for a client that does not read goes with the connection, and the
    // client sees an error instead of an end.
    const linger at_once{1, 0};
    setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }
  connection.phase = Phase::closing;
  --open_;
  shutdown(connection.fd, SHUT_RDWR);
}

void HttpConnections::release(Connection& connection) {
  const auto batch = batches_.find(std::exchange(connection.batch, 0));
  if (batch == batches_.end() || --batch->second.answers > 0) return;
  held_bytes_ -= batch->second.bytes;
  batches_.erase(batch);
}

}  // namespace rankbus
