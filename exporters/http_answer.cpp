#include <new>
#include <rankbus/exporters/http_answer.hpp>
#include <utility>

namespace rankbus {
namespace {

constexpr char kPlainType[] = "text/plain; charset=utf-8";
constexpr char kHtmlType[] = "text/html; charset=utf-8";
// It holds no word of anybody else, and could not load or run one.
constexpr char kPagePolicy[] = "default-src 'none'; frame-ancestors 'none'";
constexpr char kIndexPage[] =
    "<!DOCTYPE html>\n"
    "<html lang=\"en\"><head><title>rankbus</title></head><body>\n"
    "<h1>rankbus</h1>\n"
    "<ul>\n"
    "<li><a href=\"/metrics\">/metrics</a>: Prometheus text; ?server=NAME and ?engine=N "
    "choose</li>\n"
    "<li><a href=\"/api/v1/analysis\">/api/v1/analysis</a>: KV blocks, caches and the scheduler "
    "over time, as JSON; ?server=NAME and ?engine=N choose</li>\n"
    "<li><a href=\"/healthz\">/healthz</a>: the process answers</li>\n"
    "<li><a href=\"/readyz\">/readyz</a>: the first pass over the bus is complete</li>\n"
    "</ul>\n"
    "</body></html>\n";

struct DestroyResponse {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};

}  // namespace

HttpResponse make_response(std::string body, const char* content_type) {
  auto owned = std::make_unique<std::string>(std::move(body));
  const auto free_body = [](void* string) { delete static_cast<std::string*>(string); };
  HttpResponse response(MHD_create_response_from_buffer_with_free_callback_cls(
                            owned->size(), owned->data(), free_body, owned.get()),
                        DestroyResponse());
  if (response == nullptr) throw std::bad_alloc();
  static_cast<void>(owned.release());  // The response's now.
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  // Bodies hold texts of strangers. A browser shall not guess that one of them is a page.
  MHD_add_response_header(response.get(), "X-Content-Type-Options", "nosniff");
  return response;
}

HttpAnswer index_answer() {
  HttpAnswer answer{MHD_HTTP_OK, make_response(kIndexPage, kHtmlType)};
  MHD_add_response_header(answer.response.get(), "Content-Security-Policy", kPagePolicy);
  return answer;
}

HttpAnswer plain_answer(unsigned status, std::string reason) {
  return {status, make_response(std::move(reason), kPlainType)};
}

HttpAnswer unavailable_answer(std::string reason) {
  HttpAnswer answer = plain_answer(MHD_HTTP_SERVICE_UNAVAILABLE, std::move(reason));
  MHD_add_response_header(answer.response.get(), MHD_HTTP_HEADER_RETRY_AFTER, "1");
  return answer;
}

}  // namespace rankbus
