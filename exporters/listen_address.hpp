// exporters/listen_address.hpp: where a server listens, as a user writes it.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <rankbus/aggregator/result.hpp>
#include <string>
#include <string_view>

namespace rankbus {

struct ListenAddress {
  sockaddr_storage storage{};
  socklen_t storage_bytes = 0;

  std::uint16_t port() const;
  std::string text() const;  // HOST:PORT, an IPv6 host in brackets.
};

// HOST:PORT with an IPv4 address, an IPv6 address in brackets, or the word localhost (127.0.0.1).
// Other names are refused: where the server listens should not depend on a resolver. An empty host
// is refused as well, because "all interfaces" should be asked for in so many words. Port 0 lets
// the kernel choose.
Result<ListenAddress> parse_listen_address(std::string_view text);

}  // namespace rankbus
