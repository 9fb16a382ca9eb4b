#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <rankbus/exporters/listen_address.hpp>

namespace rankbus {
namespace {

// The socket API wants one structure's bytes inside another; copying them is the defined way.
template <typename SocketAddress>
ListenAddress from_socket_address(const SocketAddress& address) {
  ListenAddress result;
  std::memcpy(&result.storage, &address, sizeof(address));
  result.storage_bytes = sizeof(address);
  return result;
}

template <typename SocketAddress>
SocketAddress to_socket_address(const sockaddr_storage& storage) {
  SocketAddress result{};
  std::memcpy(&result, &storage, sizeof(result));
  return result;
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return port;
}

std::optional<ListenAddress> from_ipv4(const std::string& host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) return std::nullopt;
  return from_socket_address(address);
}

std::optional<ListenAddress> from_ipv6(const std::string& host, std::uint16_t port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  if (inet_pton(AF_INET6, host.c_str(), &address.sin6_addr) != 1) return std::nullopt;
  return from_socket_address(address);
}

}  // namespace

std::uint16_t ListenAddress::port() const {
  if (storage.ss_family == AF_INET6) {
    return ntohs(to_socket_address<sockaddr_in6>(storage).sin6_port);
  }
  return ntohs(to_socket_address<sockaddr_in>(storage).sin_port);
}

std::string ListenAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> host{};
  const char* written = nullptr;
  const bool is_ipv6 = storage.ss_family == AF_INET6;
  if (is_ipv6) {
    const auto address = to_socket_address<sockaddr_in6>(storage);
    written = inet_ntop(AF_INET6, &address.sin6_addr, host.data(), host.size());
  } else {
    const auto address = to_socket_address<sockaddr_in>(storage);
    written = inet_ntop(AF_INET, &address.sin_addr, host.data(), host.size());
  }
  const std::string host_text = written == nullptr ? "?" : written;
  return (is_ipv6 ? "[" + host_text + "]" : host_text) + ":" + std::to_string(port());
}

Result<ListenAddress> parse_listen_address(std::string_view text) {
  const std::string quoted = "\"" + std::string(text) + "\"";
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return Error{"listen address " + quoted +
                 " has no port: expected HOST:PORT, such as 127.0.0.1:9855"};
  }
  const std::optional<std::uint16_t> port = parse_port(text.substr(colon + 1));
  if (!port) {
    return Error{"listen address " + quoted +
                 " does not end in a port: expected a number from 0 to 65535"};
  }
  std::string host(text.substr(0, colon));
  if (host.empty()) {
    return Error{"listen address " + quoted +
                 " has no host: write 127.0.0.1 for this machine only, 0.0.0.0 or [::] "
                 "for every interface"};
  }
  std::optional<ListenAddress> address;
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    address = from_ipv6(host.substr(1, host.size() - 2), *port);
  } else {
    address = from_ipv4(host == "localhost" ? "127.0.0.1" : host, *port);
  }
  if (!address) {
    return Error{"listen address " + quoted +
                 " does not begin with an address: expected IPv4 (127.0.0.1), IPv6 in "
                 "brackets ([::1]) or localhost"};
  }
  return *address;
}

}  // namespace rankbus
