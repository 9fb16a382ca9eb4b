// exporters/http_hosts.hpp: under which names a server may be asked.
//
// A page in somebody's browser can make a name of its own resolve to our address, and would then
// read every answer: the browser takes us for the page's own server (DNS rebinding). What gives it
// away is the name in the request. An address cannot be made to point elsewhere, so all are
// welcome.
#pragma once

#include <rankbus/aggregator/result.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus {

class HttpHosts {
 public:
  // Besides localhost, this machine's own name and addresses. An error says which name is none, and
  // why.
  static Result<HttpHosts> parse(const std::vector<std::string>& names);

  // `authority` is what follows http:// or stands in a Host header: a name or an address (IPv6 in
  // brackets), with or without a port, which may be any: forwarded ports differ from ours.
  bool allow_untrusted(std::string_view authority) const;

 private:
  std::vector<std::string> names_;  // In lower case, without a final dot.
};

}  // namespace rankbus
