// exporters/http_request.hpp: what a client asks for, understood or refused.
#pragma once

#include <microhttpd.h>

#include <cstdint>
#include <optional>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/exporters/http_answer.hpp>
#include <rankbus/exporters/http_hosts.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <string>
#include <string_view>

namespace rankbus {

enum class HttpRoute : std::uint8_t { none, index, healthz, readyz, metrics, analysis };

struct HttpTarget {
  HttpRoute route = HttpRoute::none;
  // Where the target names it, http://AUTHORITY/..., as it may.
  std::optional<std::string> authority;
};

// The target of a request line as it was sent. Our pages need no %, and have one name each: a path
// that would have to be decoded or simplified to become one of them is none of them.
HttpTarget parse_target_untrusted(std::string_view target);

// Why this request is refused before a body would be read; nothing if it is not. A refusal closes
// the connection.
std::optional<HttpAnswer> refuse_untrusted(MHD_Connection* connection, const HttpTarget& target,
                                           std::string_view method, std::string_view version,
                                           const HttpHosts& hosts);

// ?server= and ?engine=. Everything unexpected is an error, because a misspelt filter that is
// ignored shows every engine under the name of one.
Result<SeriesFilter> parse_query_untrusted(MHD_Connection* connection);

}  // namespace rankbus
