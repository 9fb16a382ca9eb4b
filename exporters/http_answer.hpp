// exporters/http_answer.hpp: what the HTTP server says, as its library wants it.
#pragma once

#include <microhttpd.h>

#include <cstddef>
#include <memory>
#include <string>

namespace rankbus {

// The library counts references to a response: one per queued answer, and this one.
using HttpResponse = std::shared_ptr<MHD_Response>;

struct HttpAnswer {
  unsigned status = 0;  // 0: none yet.
  HttpResponse response;
};

constexpr char kJsonType[] = "application/json";

// Takes the body as it is, without a copy; the last connection that sends it frees it.
HttpResponse make_response(std::string body, const char* content_type);

HttpAnswer index_answer();
HttpAnswer plain_answer(unsigned status, std::string reason);
HttpAnswer unavailable_answer(std::string reason);

}  // namespace rankbus
