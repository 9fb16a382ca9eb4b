// exporters/listen_socket.hpp: a listening socket of our own, because errno then says why there is
// none.
#pragma once

#include <rankbus/aggregator/result.hpp>
#include <rankbus/exporters/listen_address.hpp>
#include <utility>

namespace rankbus {

class ListenSocket {
 public:
  static Result<ListenSocket> open(const ListenAddress& address);

  ListenSocket(ListenSocket&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), address_(other.address_) {}
  ListenSocket& operator=(ListenSocket&&) = delete;
  ~ListenSocket();

  // With the port that the kernel chose, if it was asked to.
  const ListenAddress& address() const { return address_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  ListenSocket() = default;

  int fd_ = -1;
  ListenAddress address_;
};

}  // namespace rankbus
