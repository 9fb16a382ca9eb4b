#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <rankbus/exporters/http_hosts.hpp>

namespace rankbus {
namespace {

constexpr std::size_t kLongestName = 253;  // Of the domain name system.

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string plain_name(std::string_view name) {
  if (!name.empty() && name.back() == '.') name.remove_suffix(1);
  std::string plain(name);
  std::transform(plain.begin(), plain.end(), plain.begin(), lower);
  return plain;
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName &&
         std::all_of(name.begin(), name.end(), [](char c) {
           const char l = lower(c);
           return (l >= 'a' && l <= 'z') || is_digit(c) || c == '-' || c == '.' || c == '_';
         });
}

bool is_address(int family, std::string_view text) {
  in6_addr ignored;  // Large enough for either.
  // A copy, because text may hold a NUL that would end it early.
  return text.size() < INET6_ADDRSTRLEN && text.find('\0') == std::string_view::npos &&
         inet_pton(family, std::string(text).c_str(), &ignored) == 1;
}

// Nothing, or a colon and at most five digits.
bool is_port_suffix(std::string_view text) {
  if (text.empty()) return true;
  return text.size() <= 6 && text[0] == ':' && std::all_of(text.begin() + 1, text.end(), is_digit);
}

}  // namespace

Result<HttpHosts> HttpHosts::parse(const std::vector<std::string>& names) {
  HttpHosts hosts;
  hosts.names_.emplace_back("localhost");
  // Who scrapes machines by their names should not have to say it twice.
  char own[kLongestName + 1] = {};
  if (gethostname(own, sizeof own - 1) == 0 && is_name(own))
    hosts.names_.push_back(plain_name(own));
  for (const std::string& name : names) {
    if (!is_name(name)) {
      return Error{"'" + name +
                   "' is no host name: expected letters, digits, '-' and '.', without "
                   "a port"};
    }
    hosts.names_.push_back(plain_name(name));
  }
  return hosts;
}

bool HttpHosts::allow_untrusted(std::string_view authority) const {
  if (!authority.empty() && authority[0] == '[') {
    const std::size_t end = authority.find(']');
    return end != std::string_view::npos && is_port_suffix(authority.substr(end + 1)) &&
           is_address(AF_INET6, authority.substr(1, end - 1));
  }
  const std::size_t colon = std::min(authority.find(':'), authority.size());
  const std::string_view host = authority.substr(0, colon);
  if (!is_port_suffix(authority.substr(colon))) return false;
  if (is_address(AF_INET, host)) return true;
  return is_name(host) && std::find(names_.begin(), names_.end(), plain_name(host)) != names_.end();
}

}  // namespace rankbus
