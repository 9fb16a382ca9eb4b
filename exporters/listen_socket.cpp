#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <rankbus/exporters/listen_socket.hpp>
#include <string>

namespace rankbus {
namespace {

// As many as the kernel lets wait: a crowd that connects at once should not fill the queue before
// the next of them is taken in.
constexpr int kListenBacklog = 4096;

sockaddr* as_sockaddr(sockaddr_storage* storage) {
  return reinterpret_cast<sockaddr*>(storage);
}

const sockaddr* as_sockaddr(const sockaddr_storage* storage) {
  return reinterpret_cast<const sockaddr*>(storage);
}

Error failure(const ListenAddress& address, int error) {
  std::string why = "cannot listen on " + address.text() + ": " + std::strerror(error);
  if (error == EADDRINUSE) {
    why += "; another process has this port: stop it, or choose another one with --listen";
  } else if (error == EACCES) {
    why += "; ports below 1024 are for privileged processes: choose another one with --listen";
  } else if (error == EADDRNOTAVAIL) {
    why += "; no interface of this machine has this address";
  }
  return Error{std::move(why)};
}

}  // namespace

Result<ListenSocket> ListenSocket::open(const ListenAddress& address) {
  ListenSocket result;
  const int family = address.storage.ss_family;
  result.fd_ = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (result.fd_ < 0) return failure(address, errno);
  const int on = 1;
  const int off = 0;
  // Without this, a restart would have to wait for the old connections' TIME_WAIT. It does not let
  // two processes listen on one port.
  setsockopt(result.fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // [::] means every interface of either family, whatever the machine's default is.
  if (family == AF_INET6) setsockopt(result.fd_, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(result.fd_, as_sockaddr(&address.storage), address.storage_bytes) != 0 ||
      listen(result.fd_, kListenBacklog) != 0) {
    return failure(address, errno);
  }
  result.address_.storage_bytes = sizeof(result.address_.storage);
  if (getsockname(result.fd_, as_sockaddr(&result.address_.storage),
                  &result.address_.storage_bytes) != 0) {
    return failure(address, errno);
  }
  return result;
}

ListenSocket::~ListenSocket() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace rankbus
