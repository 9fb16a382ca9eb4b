#include <algorithm>
#include <charconv>
#include <cstddef>
#include <rankbus/exporters/http_request.hpp>
#include <rankbus/exporters/number_text.hpp>
#include <system_error>
#include <utility>

namespace rankbus {
namespace {

HttpRoute find_route(std::string_view path) {
  if (path == "/metrics") return HttpRoute::metrics;
  if (path == "/api/v1/analysis") return HttpRoute::analysis;
  if (path == "/healthz") return HttpRoute::healthz;
  if (path == "/readyz") return HttpRoute::readyz;
  if (path == "/") return HttpRoute::index;
  return HttpRoute::none;
}

// The values of one header, which may stand there more than once.
struct HeaderValues {
  std::string_view name;
  std::size_t count = 0;
  std::string_view last;

  static HeaderValues of(MHD_Connection* connection, std::string_view name) {
    HeaderValues values{name, 0, {}};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, &HeaderValues::on_header, &values);
    return values;
  }

  static MHD_Result on_header(void* self, MHD_ValueKind, const char* key, std::size_t key_bytes,
                              const char* value, std::size_t value_bytes) {
    auto* values = static_cast<HeaderValues*>(self);
    const auto same = [](char a, char b) { return (a | 0x20) == (b | 0x20); };
    const std::string_view found(key, key_bytes);
    if (std::equal(found.begin(), found.end(), values->name.begin(), values->name.end(), same)) {
      ++values->count;
      if (value != nullptr) values->last = {value, value_bytes};
    }
    return MHD_YES;
  }
};

std::optional<HttpAnswer> refuse_host(MHD_Connection* connection, const HttpTarget& target,
                                      std::string_view version, const HttpHosts& hosts) {
  const HeaderValues host = HeaderValues::of(connection, MHD_HTTP_HEADER_HOST);
  if (host.count > 1) return plain_answer(MHD_HTTP_BAD_REQUEST, "more than one Host\n");
  // What is older than Host, or as plain as a health check, is no browser.
  if (host.count == 0 && version != MHD_HTTP_VERSION_1_0) {
    return plain_answer(MHD_HTTP_BAD_REQUEST, "no Host\n");
  }
  const bool is_welcome = (host.count == 0 || hosts.allow_untrusted(host.last)) &&
                          (!target.authority || hosts.allow_untrusted(*target.authority));
  if (is_welcome) return std::nullopt;
  return plain_answer(MHD_HTTP_MISDIRECTED_REQUEST,
                      "this server is not known under the name in Host: ask by address, or start "
                      "it with --allow-host NAME\n");
}

class QueryParser {
 public:
  static Result<SeriesFilter> parse(MHD_Connection* connection) {
    QueryParser parser;
    MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, &QueryParser::on_argument,
                                &parser);
    if (!parser.error_.empty()) return Error{std::move(parser.error_)};
    return std::move(parser.filter_);
  }

 private:
  static MHD_Result on_argument(void* self, MHD_ValueKind, const char* key, std::size_t key_bytes,
                                const char* value, std::size_t value_bytes) {
    const std::string_view value_text =
        value == nullptr ? std::string_view() : std::string_view(value, value_bytes);
    return static_cast<QueryParser*>(self)->take({key, key_bytes}, value_text) ? MHD_YES : MHD_NO;
  }

  bool take(std::string_view name, std::string_view value) {
    if (name == "server") return take_server(value);
    if (name == "engine") return take_engine(value);
    return fail("unknown parameter: server and engine are known\n");
  }

  bool take_server(std::string_view value) {
    if (filter_.server) return fail("parameter server is given twice\n");
    if (value.empty()) return fail("parameter server is empty: leave it out for every server\n");
    filter_.server = value;
    return true;
  }

  // Engines are numbers; 000, as the log shows engine 0, is welcome too.
  bool take_engine(std::string_view value) {
    if (filter_.engine) return fail("parameter engine is given twice\n");
    std::uint32_t engine = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), engine);
    if (error != std::errc() || end != value.data() + value.size()) {
      return fail("parameter engine is not a number: expected the index of an engine, such as 0\n");
    }
    append_integer(std::uint64_t{engine}, filter_.engine.emplace());
    return true;
  }

  bool fail(const char* why) {
    error_ = why;
    return false;
  }

  SeriesFilter filter_;
  std::string error_;
};

}  // namespace

HttpTarget parse_target_untrusted(std::string_view target) {
  constexpr std::string_view kScheme = "http://";
  HttpTarget parsed;
  std::string_view path = target.substr(0, target.find('?'));
  if (path.substr(0, kScheme.size()) == kScheme) {
    path.remove_prefix(kScheme.size());
    const std::size_t slash = std::min(path.find('/'), path.size());
    parsed.authority = path.substr(0, slash);
    path.remove_prefix(slash);
  }
  parsed.route = find_route(path);
  return parsed;
}

std::optional<HttpAnswer> refuse_untrusted(MHD_Connection* connection, const HttpTarget& target,
                                           std::string_view method, std::string_view version,
                                           const HttpHosts& hosts) {
  if (auto refusal = refuse_host(connection, target, version, hosts)) return refusal;
  if (target.route == HttpRoute::none) {
    return plain_answer(MHD_HTTP_NOT_FOUND,
                        "no such page: there are /metrics, /api/v1/analysis, /healthz, /readyz\n");
  }
  if (method != MHD_HTTP_METHOD_GET && method != MHD_HTTP_METHOD_HEAD) {
    HttpAnswer answer = plain_answer(MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    MHD_add_response_header(answer.response.get(), MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    return answer;
  }
  const HeaderValues length = HeaderValues::of(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
  const bool has_length = length.count > 1 || (length.count == 1 && length.last != "0");
  if (has_length || HeaderValues::of(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING).count != 0) {
    return plain_answer(MHD_HTTP_BAD_REQUEST, "a request here has no body\n");
  }
  return std::nullopt;
}

Result<SeriesFilter> parse_query_untrusted(MHD_Connection* connection) {
  return QueryParser::parse(connection);
}

}  // namespace rankbus
