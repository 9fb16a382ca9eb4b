#include <microhttpd.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <mutex>
#include <rankbus/exporters/http_answer.hpp>
#include <rankbus/exporters/http_connections.hpp>
#include <rankbus/exporters/http_request.hpp>
#include <rankbus/exporters/http_server.hpp>
#include <rankbus/exporters/listen_socket.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace rankbus {
namespace {

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

// Descriptors are for segments first: a quarter of those that the process may have.
unsigned connection_limit(unsigned wanted) {
  rlimit descriptors{};
  if (getrlimit(RLIMIT_NOFILE, &descriptors) != 0) return wanted;
  return static_cast<unsigned>(std::clamp<rlim_t>(descriptors.rlim_cur / 4, 1, wanted));
}

// A connection that was told to close keeps its place in the library until the network thread has
// noticed. Room for these, or the library would stop accepting for that long.
constexpr unsigned kClosingConnections = 256;
// How often overdue connections are looked for.
constexpr std::chrono::seconds kLookForOverdueEvery{1};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const ListenAddress& address, FreshSnapshot fresh_snapshot, HttpHosts hosts,
       const HttpLimits& limits)
      : address_(address),
        fresh_snapshot_(std::move(fresh_snapshot)),
        hosts_(std::move(hosts)),
        limits_(limits),
        connections_({connection_limit(limits.connections), limits.request_timeout,
                      limits.answer_timeout, limits.held_answer_bytes}) {}

  // Returns why it failed, or nothing.
  std::string start(int listen_fd) {
    const SignalsBlocked no_signals_here;
    constexpr unsigned kFlags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    daemon_ = MHD_start_daemon(kFlags, 0, nullptr, nullptr, &Impl::on_request, this,            //
                               MHD_OPTION_EXTERNAL_LOGGER, &LastMessage::take, &last_message_,  //
                               MHD_OPTION_LISTEN_SOCKET, listen_fd,                             //
                               MHD_OPTION_URI_LOG_CALLBACK, &Impl::on_target, this,             //
                               MHD_OPTION_NOTIFY_COMPLETED, &Impl::on_completed, this,          //
                               MHD_OPTION_NOTIFY_CONNECTION, &Impl::on_connection, this,        //
                               MHD_OPTION_CONNECTION_LIMIT,
                               connection_limit(limits_.connections) + kClosingConnections,  //
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, limits_.request_bytes,    //
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
      changed_.wait_for(lock, limits_.stop_grace, [this] { return requests_in_flight_ == 0; });
    }
    MHD_stop_daemon(daemon_);
    daemon_ = nullptr;
    if (listen_fd >= 0) close(listen_fd);
  }

  const ListenAddress& address() const { return address_; }

 private:
  // One request, from its request line until its answer has left. Only the network thread touches
  // it, except while its connection is suspended, when only the reader does.
  struct Request {
    MHD_Connection* connection = nullptr;
    HttpTarget target;
    bool has_headers = false;
    SeriesFilter filter;
    HttpAnswer answer;
  };

  struct Rendered {
    HttpRoute route = HttpRoute::none;
    SeriesFilter filter;
    HttpResponse response;
    std::size_t bytes = 0;
  };

  static HttpConnections::Connection* place_of(MHD_Connection* connection) {
    const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return static_cast<HttpConnections::Connection*>(info->socket_context);
  }

  // Called before the descriptor is closed, so that no stranger's is ever shut down.
  static void on_connection(void* self, MHD_Connection* connection, void** place,
                            MHD_ConnectionNotificationCode what) {
    HttpConnections& connections = static_cast<Impl*>(self)->connections_;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
      connections.closed(static_cast<HttpConnections::Connection*>(*place));
      return;
    }
    const auto* fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const auto* peer = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    *place = connections.opened(fd->connect_fd, peer->client_addr, HttpConnections::Clock::now());
  }

  // The library calls this with the request line as it came; what it returns is the request's
  // state.
  static void* on_target(void*, const char* target, MHD_Connection* connection) {
    try {
      auto request = std::make_unique<Request>();
      request->connection = connection;
      request->target = parse_target_untrusted(target);
      return request.release();
    } catch (const std::exception&) {
      return nullptr;  // Out of memory: on_request will close the connection.
    }
  }

  // The library calls this first with the headers alone, and again when the whole request is there
  // or when a suspended connection goes on.
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char*,
                               const char* method, const char* version, const char*,
                               std::size_t* upload_bytes, void** state) {
    auto* impl = static_cast<Impl*>(self);
    auto* request = static_cast<Request*>(*state);
    if (request == nullptr) return MHD_NO;
    try {
      if (!request->has_headers) {
        request->has_headers = true;
        impl->count_in_flight(+1);
        impl->connections_.asked(place_of(connection));
        // Answering at the headers makes the library close the connection without reading a body;
        // so do only the refusals, and a scraper keeps its connection.
        auto refusal = refuse_untrusted(connection, request->target, method, version, impl->hosts_);
        return refusal ? impl->queue(*request, std::move(*refusal)) : MHD_YES;
      }
      // A body whose length no header announced.
      if (*upload_bytes != 0) return MHD_NO;
      return impl->answer_or_wait(*request);
    } catch (const std::exception&) {
      return MHD_NO;  // Out of memory: the connection closes, the process stays.
    }
  }

  static void on_completed(void* self, MHD_Connection* connection, void** state,
                           MHD_RequestTerminationCode) {
    auto* request = static_cast<Request*>(std::exchange(*state, nullptr));
    if (request == nullptr) return;
    auto* impl = static_cast<Impl*>(self);
    const bool had_headers = request->has_headers;
    delete request;
    if (!had_headers) return;
    impl->connections_.answered(place_of(connection), HttpConnections::Clock::now());
    impl->count_in_flight(-1);
  }

  MHD_Result queue(Request& request, HttpAnswer answer) {
    request.answer = std::move(answer);
    connections_.answering(place_of(request.connection), HttpConnections::Clock::now());
    return MHD_queue_response(request.connection, request.answer.status,
                              request.answer.response.get());
  }

  MHD_Result answer_or_wait(Request& request) {
    if (request.answer.status != 0) return queue(request, std::move(request.answer));
    const HttpRoute route = request.target.route;
    if (route == HttpRoute::index) return queue(request, index_answer());
    if (route == HttpRoute::healthz) return queue(request, plain_answer(MHD_HTTP_OK, "ok\n"));
    if (route == HttpRoute::metrics || route == HttpRoute::analysis) {
      Result<SeriesFilter> filter = parse_query_untrusted(request.connection);
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
      changed_.wait_for(lock, kLookForOverdueEvery,
                        [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty() && stopping_) return;
      batch.swap(waiting_);
      lock.unlock();
      if (!batch.empty()) answer_batch(batch);
      batch.clear();
      connections_.close_overdue(HttpConnections::Clock::now());
      lock.lock();
    }
  }

  void answer_batch(const std::vector<Request*>& batch) {
    std::shared_ptr<const Snapshot> snapshot;
    std::string missing = "the first pass over the bus is not complete\n";
    try {
      const bool wants_analyses = std::any_of(batch.begin(), batch.end(), [](const Request* each) {
        return each->target.route == HttpRoute::analysis;
      });
      snapshot =
          fresh_snapshot_(wants_analyses ? SnapshotParts::analyses_too : SnapshotParts::families);
    } catch (const std::exception&) {
      missing = "reading the bus failed\n";
    }
    const bool is_complete = snapshot != nullptr && snapshot->complete;
    std::vector<HttpConnections::Connection*> places;
    for (Request* request : batch) {
      try {
        places.push_back(place_of(request->connection));
        if (!is_complete) {
          request->answer = unavailable_answer(missing);
        } else if (request->target.route == HttpRoute::readyz) {
          request->answer = plain_answer(MHD_HTTP_OK, "ready\n");
        } else {
          request->answer = {MHD_HTTP_OK,
                             render_once(*snapshot, request->target.route, request->filter)};
        }
      } catch (const std::exception&) {
        request->answer = {MHD_HTTP_INTERNAL_SERVER_ERROR, nullptr};  // Closes the connection.
      }
    }
    std::size_t bytes = 0;
    for (const Rendered& each : rendered_) bytes += each.bytes;
    rendered_.clear();
    connections_.hold(places, bytes);
    // A resumed request is the network thread's again, which may end and delete it at once.
    for (Request* request : batch) MHD_resume_connection(request->connection);
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
  HttpResponse render_once(const Snapshot& snapshot, HttpRoute route, const SeriesFilter& filter) {
    for (const Rendered& done : rendered_) {
      if (done.route == route && done.filter == filter) return done.response;
    }
    const bool is_metrics = route == HttpRoute::metrics;
    std::string text;
    if (is_metrics) {
      const bool is_whole = filter == SeriesFilter{};
      if (is_whole) text.reserve(expected_whole_bytes_);
      render_prometheus_text(snapshot, filter, text);
      if (is_whole) expected_whole_bytes_ = text.size() + text.size() / 16;
    } else {
      text = analysis_json(snapshot, filter);
    }
    const std::size_t bytes = text.capacity();
    HttpResponse response =
        make_response(std::move(text), is_metrics ? kPrometheusTextType : kJsonType);
    rendered_.push_back({route, filter, response, bytes});
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
  const HttpHosts hosts_;
  const HttpLimits limits_;
  HttpConnections connections_;
  LastMessage last_message_;
  MHD_Daemon* daemon_ = nullptr;
  std::thread reader_;

  // The reader's alone.
  std::vector<Rendered> rendered_;
  std::size_t expected_whole_bytes_ = 0;  // Of an unfiltered rendering, from the latest one.

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request*> waiting_;  // Suspended, for the next snapshot.
  int requests_in_flight_ = 0;
  bool stopping_ = false;
};

Result<std::unique_ptr<HttpServer>> HttpServer::start(const ListenAddress& address,
                                                      FreshSnapshot fresh_snapshot,
                                                      const HttpLimits& limits,
                                                      const std::vector<std::string>& names) {
  Result<HttpHosts> hosts = HttpHosts::parse(names);
  if (!hosts) return Error{hosts.error()};
  Result<ListenSocket> socket = ListenSocket::open(address);
  if (!socket) return Error{socket.error()};
  auto impl = std::make_unique<Impl>(socket->address(), std::move(fresh_snapshot),
                                     std::move(*hosts), limits);
  std::string error = impl->start(socket->release());
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
