#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <rankbus/exporters/http_server.hpp>
#include <rankbus/exporters/number_text.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace rankbus {
namespace {

constexpr int kListenBacklog = 128;

constexpr char kPlainType[] = "text/plain; charset=utf-8";
constexpr char kJsonType[] = "application/json";
constexpr char kHtmlType[] = "text/html; charset=utf-8";
constexpr char kIndexPage[] =
    "<!DOCTYPE html>\n"
    "<html lang=\"en\"><head><title>rankbus</title></head><body>\n"
    "<h1>rankbus</h1>\n"
    "<ul>\n"
    "<li><a href=\"/metrics\">/metrics</a>: Prometheus text; ?server=NAME and ?engine=N "
    "choose</li>\n"
    "<li><a href=\"/api/v1/analysis\">/api/v1/analysis</a>: KV blocks, caches and the scheduler "
    "over "
    "time, as JSON; ?server=NAME and ?engine=N choose</li>\n"
    "<li><a href=\"/healthz\">/healthz</a>: the process answers</li>\n"
    "<li><a href=\"/readyz\">/readyz</a>: the first pass over the bus is complete</li>\n"
    "</ul>\n"
    "</body></html>\n";

enum class Route : std::uint8_t { none, index, healthz, readyz, metrics, analysis };

Route find_route(std::string_view path) {
  if (path == "/metrics") return Route::metrics;
  if (path == "/api/v1/analysis") return Route::analysis;
  if (path == "/healthz") return Route::healthz;
  if (path == "/readyz") return Route::readyz;
  if (path == "/") return Route::index;
  return Route::none;
}

// The library counts references to a response: one per queued answer, and this one.
struct DestroyResponse {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};
using Response = std::shared_ptr<MHD_Response>;

// Takes the body as it is, without a copy; the last connection that sends it frees it.
Response make_response(std::string body, const char* content_type) {
  auto owned = std::make_unique<std::string>(std::move(body));
  const auto free_body = [](void* string) { delete static_cast<std::string*>(string); };
  Response response(MHD_create_response_from_buffer_with_free_callback_cls(
                        owned->size(), owned->data(), free_body, owned.get()),
                    DestroyResponse());
  if (response == nullptr) throw std::bad_alloc();
  static_cast<void>(owned.release());  // The response's now.
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  return response;
}

struct Answer {
  unsigned status = 0;
  Response response;
};

Answer plain_answer(unsigned status, std::string reason) {
  return {status, make_response(std::move(reason), kPlainType)};
}

Answer unavailable_answer(std::string reason) {
  Answer answer = plain_answer(MHD_HTTP_SERVICE_UNAVAILABLE, std::move(reason));
  MHD_add_response_header(answer.response.get(), MHD_HTTP_HEADER_RETRY_AFTER, "1");
  return answer;
}

// Collects ?server= and ?engine=. Everything unexpected is an error, because a misspelt filter that
// is ignored shows every engine under the name of one.
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

// A listening socket of our own, because errno then says why there is none.
class ListenSocket {
 public:
  static Result<ListenSocket> open(const ListenAddress& address) {
    ListenSocket result;
    const int family = address.storage.ss_family;
    result.fd_ = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (result.fd_ < 0) return failure(address, errno);
    const int on = 1;
    const int off = 0;
    // Without this, a restart would have to wait for the old connections' TIME_WAIT. It does not
    // let two processes listen on one port.
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

  ListenSocket(ListenSocket&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), address_(other.address_) {}
  ListenSocket& operator=(ListenSocket&&) = delete;
  ~ListenSocket() {
    if (fd_ >= 0) close(fd_);
  }

  const ListenAddress& address() const { return address_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  ListenSocket() = default;

  static sockaddr* as_sockaddr(sockaddr_storage* storage) {
    return reinterpret_cast<sockaddr*>(storage);
  }
  static const sockaddr* as_sockaddr(const sockaddr_storage* storage) {
    return reinterpret_cast<const sockaddr*>(storage);
  }

  static Result<ListenSocket> failure(const ListenAddress& address, int error) {
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

  int fd_ = -1;
  ListenAddress address_;
};

// Threads started while this lives take no signals, so that those of the process reach the thread
// that expects them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// The library's own last words, for the one moment when somebody can use them: a failed start.
struct LastMessage {
  std::mutex mutex;
  std::string text;

  static void take(void* self, const char* format, std::va_list arguments) {
    std::array<char, 256> line{};
    // The format is the library's.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    std::vsnprintf(line.data(), line.size(), format, arguments);
#pragma GCC diagnostic pop
    auto* last = static_cast<LastMessage*>(self);
    const std::lock_guard lock(last->mutex);
    last->text = line.data();
  }
};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const ListenAddress& address, FreshSnapshot fresh_snapshot,
       std::chrono::milliseconds stop_grace)
      : address_(address), fresh_snapshot_(std::move(fresh_snapshot)), stop_grace_(stop_grace) {}

  // Returns why it failed, or nothing.
  std::string start(int listen_fd, const HttpLimits& limits) {
    const SignalsBlocked no_signals_here;
    constexpr unsigned kFlags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    daemon_ = MHD_start_daemon(kFlags, 0, nullptr, nullptr, &Impl::on_request, this,            //
                               MHD_OPTION_EXTERNAL_LOGGER, &LastMessage::take, &last_message_,  //
                               MHD_OPTION_LISTEN_SOCKET, listen_fd,                             //
                               MHD_OPTION_NOTIFY_COMPLETED, &Impl::on_completed, this,          //
                               MHD_OPTION_CONNECTION_LIMIT, limits.connections,                 //
                               MHD_OPTION_CONNECTION_TIMEOUT, limits.idle_timeout_s,            //
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, limits.request_bytes,        //
                               MHD_OPTION_END);
    if (daemon_ == nullptr) {
      // Whether the library has closed the socket by now depends on where it failed. Closing it
      // once too often could hit a stranger's; leaving it open costs one descriptor.
      const std::lock_guard lock(last_message_.mutex);
      return "cannot start the HTTP server on " + address_.text() + ": " +
             (last_message_.text.empty() ? "no reason given" : last_message_.text);
    }
    try {
      reader_ = std::thread([this] { answer_waiting_requests(); });
    } catch (const std::system_error& error) {
      MHD_stop_daemon(std::exchange(daemon_, nullptr));
      return "cannot start a thread for the HTTP server: " + std::string(error.what());
    }
    return {};
  }

  void stop() {
    if (daemon_ == nullptr) return;
    // From here on nobody is accepted, and what arrives on open connections is refused at once.
    const int listen_fd = MHD_quiesce_daemon(daemon_);
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    // The reader leaves only when nobody waits for it: the library may not be stopped while a
    // connection is suspended.
    reader_.join();
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, stop_grace_, [this] { return requests_in_flight_ == 0; });
    }
    MHD_stop_daemon(daemon_);
    daemon_ = nullptr;
    if (listen_fd >= 0) close(listen_fd);
  }

  const ListenAddress& address() const { return address_; }

 private:
  // One request, from its headers until its answer has left. Only the network thread touches it,
  // except while its connection is suspended, when only the reader does.
  struct Request {
    MHD_Connection* connection = nullptr;
    Route route = Route::none;
    SeriesFilter filter;
    Answer answer;
  };

  // The library calls this first with the headers alone, and again when the whole request is there
  // or when a suspended connection goes on.
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* path,
                               const char* method, const char*, const char*,
                               std::size_t* upload_bytes, void** state) {
    auto* impl = static_cast<Impl*>(self);
    try {
      if (*state == nullptr) {
        auto* request = new Request{connection, find_route(path), {}, {}};
        *state = request;
        impl->count_in_flight(+1);
        return refuse_early(*request, method);
      }
      // A body whose length no header announced.
      if (*upload_bytes != 0) return MHD_NO;
      return impl->answer_or_wait(*static_cast<Request*>(*state));
    } catch (const std::exception&) {
      return MHD_NO;  // Out of memory: the connection closes, the process stays.
    }
  }

  static void on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
    if (*state == nullptr) return;
    delete static_cast<Request*>(*state);
    *state = nullptr;
    static_cast<Impl*>(self)->count_in_flight(-1);
  }

  // Answering at the headers makes the library close the connection without reading a body; so do
  // only the refusals, and a scraper keeps its connection.
  static MHD_Result refuse_early(Request& request, std::string_view method) {
    if (request.route == Route::none) {
      return queue(request, plain_answer(MHD_HTTP_NOT_FOUND,
                                         "no such page: there are /metrics, /api/v1/analysis, "
                                         "/healthz, /readyz\n"));
    }
    if (method != MHD_HTTP_METHOD_GET && method != MHD_HTTP_METHOD_HEAD) {
      Answer answer = plain_answer(MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
      MHD_add_response_header(answer.response.get(), MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
      return queue(request, std::move(answer));
    }
    const auto header = [&](const char* name) {
      return MHD_lookup_connection_value(request.connection, MHD_HEADER_KIND, name);
    };
    const char* length = header(MHD_HTTP_HEADER_CONTENT_LENGTH);
    const bool has_length = length != nullptr && std::string_view(length) != "0";
    if (has_length || header(MHD_HTTP_HEADER_TRANSFER_ENCODING) != nullptr) {
      return queue(request, plain_answer(MHD_HTTP_BAD_REQUEST, "a request here has no body\n"));
    }
    return MHD_YES;
  }

  static MHD_Result queue(Request& request, Answer answer) {
    request.answer = std::move(answer);
    return MHD_queue_response(request.connection, request.answer.status,
                              request.answer.response.get());
  }

  MHD_Result answer_or_wait(Request& request) {
    if (request.answer.status != 0) return queue(request, std::move(request.answer));
    if (request.route == Route::index) {
      return queue(request, {MHD_HTTP_OK, make_response(kIndexPage, kHtmlType)});
    }
    if (request.route == Route::healthz) return queue(request, plain_answer(MHD_HTTP_OK, "ok\n"));
    if (request.route == Route::metrics || request.route == Route::analysis) {
      Result<SeriesFilter> filter = QueryParser::parse(request.connection);
      if (!filter) return queue(request, plain_answer(MHD_HTTP_BAD_REQUEST, filter.error()));
      request.filter = std::move(*filter);
    }
    std::unique_lock lock(mutex_);
    if (stopping_) {
      lock.unlock();
      return queue(request, unavailable_answer("stopping\n"));
    }
    waiting_.push_back(&request);
    // Under the lock, so that the reader cannot resume what is not suspended yet.
    MHD_suspend_connection(request.connection);
    lock.unlock();
    changed_.notify_all();
    return MHD_YES;
  }

  void answer_waiting_requests() {
    std::vector<Request*> batch;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      batch.swap(waiting_);
      lock.unlock();
      answer_batch(batch);
      batch.clear();
      lock.lock();
    }
  }

  void answer_batch(const std::vector<Request*>& batch) {
    std::shared_ptr<const Snapshot> snapshot;
    std::string missing = "the first pass over the bus is not complete\n";
    try {
      const bool wants_analyses = std::any_of(batch.begin(), batch.end(), [](const Request* each) {
        return each->route == Route::analysis;
      });
      snapshot =
          fresh_snapshot_(wants_analyses ? SnapshotParts::analyses_too : SnapshotParts::families);
    } catch (const std::exception&) {
      missing = "reading the bus failed\n";
    }
    const bool is_complete = snapshot != nullptr && snapshot->complete;
    rendered_.clear();
    for (Request* request : batch) {
      try {
        if (!is_complete) {
          request->answer = unavailable_answer(missing);
        } else if (request->route == Route::readyz) {
          request->answer = plain_answer(MHD_HTTP_OK, "ready\n");
        } else if (request->route == Route::analysis) {
          request->answer = {MHD_HTTP_OK,
                             make_response(analysis_json(*snapshot, request->filter), kJsonType)};
        } else {
          request->answer = {MHD_HTTP_OK, render_once(*snapshot, request->filter)};
        }
      } catch (const std::exception&) {
        request->answer = {MHD_HTTP_INTERNAL_SERVER_ERROR, nullptr};  // Closes the connection.
      }
      // The request is the network thread's again, which may end and delete it at once.
      MHD_resume_connection(request->connection);
    }
    rendered_.clear();
  }

  static std::string analysis_json(const Snapshot& snapshot, const SeriesFilter& filter) {
    std::string text = "{\"engines\":[";
    bool is_first = true;
    for (const EngineAnalysis& engine : snapshot.analyses) {
      const bool is_of_server = !filter.server || *filter.server == engine.server ||
                                *filter.server == engine.server_label;
      if (!is_of_server) continue;
      if (filter.engine && *filter.engine != engine.engine) continue;
      if (!is_first) text += ',';
      is_first = false;
      text += engine.json;
    }
    return text + "]}\n";
  }

  // Scrapers that wait for the same snapshot with the same filter get one rendering.
  Response render_once(const Snapshot& snapshot, const SeriesFilter& filter) {
    for (const auto& [done_filter, response] : rendered_) {
      if (done_filter == filter) return response;
    }
    std::string text;
    const bool is_whole = filter == SeriesFilter{};
    if (is_whole) text.reserve(expected_whole_bytes_);
    render_prometheus_text(snapshot, filter, text);
    if (is_whole) expected_whole_bytes_ = text.size() + text.size() / 16;
    Response response = make_response(std::move(text), kPrometheusTextType);
    rendered_.emplace_back(filter, response);
    return response;
  }

  void count_in_flight(int change) {
    {
      const std::lock_guard lock(mutex_);
      requests_in_flight_ += change;
      if (requests_in_flight_ != 0) return;
    }
    changed_.notify_all();
  }

  const ListenAddress address_;
  const FreshSnapshot fresh_snapshot_;
  const std::chrono::milliseconds stop_grace_;
  LastMessage last_message_;
  MHD_Daemon* daemon_ = nullptr;
  std::thread reader_;

  // The reader's alone.
  std::vector<std::pair<SeriesFilter, Response>> rendered_;
  std::size_t expected_whole_bytes_ = 0;  // Of an unfiltered rendering, from the latest one.

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request*> waiting_;  // Suspended, for the next snapshot.
  int requests_in_flight_ = 0;
  bool stopping_ = false;
};

Result<std::unique_ptr<HttpServer>> HttpServer::start(const ListenAddress& address,
                                                      FreshSnapshot fresh_snapshot,
                                                      const HttpLimits& limits) {
  Result<ListenSocket> socket = ListenSocket::open(address);
  if (!socket) return Error{socket.error()};
  auto impl =
      std::make_unique<Impl>(socket->address(), std::move(fresh_snapshot), limits.stop_grace);
  std::string error = impl->start(socket->release(), limits);
  if (!error.empty()) return Error{std::move(error)};
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  impl_->stop();
}

void HttpServer::stop() {
  impl_->stop();
}

const ListenAddress& HttpServer::address() const {
  return impl_->address();
}

}  // namespace rankbus
