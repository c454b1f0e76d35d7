#include "serve/http_server.h"

#include <arpa/inet.h>
#include <spdlog/spdlog.h>

#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "serve/api_error.h"
#include "serve/http_exchange.h"

namespace polylora {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::awaitable;
using boost::system::error_code;
using Strand = asio::strand<asio::io_context::executor_type>;
using Protocol = asio::generic::stream_protocol;
using Socket = asio::basic_stream_socket<Protocol, Strand>;
using TlsStream = asio::ssl::stream<Socket>;
using Timer = asio::steady_timer;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 * 1024;
constexpr std::chrono::milliseconds kLinger{2'000};  // for a refused client to read why
constexpr std::chrono::milliseconds kAcceptRetry{100};

/// Lets one coroutine of a strand wait for another one's news. Waiters check their condition in a loop.
class Signal {
 public:
  explicit Signal(const Strand& strand) : timer_(strand, Timer::time_point::max()) {}
  awaitable<void> wait() { co_await timer_.async_wait(kAwait); }
  void notify() { timer_.cancel(); }

 private:
  Timer timer_;
};

/// "127.0.0.1:51234"; empty for a Unix socket.
std::string endpoint_name(const Protocol::endpoint& endpoint) {
  char text[INET6_ADDRSTRLEN] = "";
  if (endpoint.protocol().family() == AF_INET) {
    const auto* address = reinterpret_cast<const sockaddr_in*>(endpoint.data());
    inet_ntop(AF_INET, &address->sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, ntohs(address->sin_port));
  }
  if (endpoint.protocol().family() == AF_INET6) {
    const auto* address = reinterpret_cast<const sockaddr_in6*>(endpoint.data());
    inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(address->sin6_port));
  }
  return {};
}

/// What all connections share.
struct Shared {
  HttpServerOptions options;
  Handler handler;
  Decorator decorate;
  std::atomic<bool> draining{false};

  std::mutex mutex;
  std::condition_variable idle;
  int open_exchanges = 0;
  std::map<const void*, std::function<void()>> drain_callbacks;  // one per connection; also their number
};

/// One client. Two coroutines on one strand: the reader fills `input_` and so notices at any time that the
/// client left, the main one parses requests and sends answers. They talk through signals.
template <typename Stream>
class Connection : public std::enable_shared_from_this<Connection<Stream>> {
 public:
  template <typename... Args>
  Connection(Shared& shared, Strand strand, Args&&... args)
      : shared_(shared),
        strand_(std::move(strand)),
        stream_(std::forward<Args>(args)...),
        deadline_(strand_),
        readable_(strand_),
        room_(strand_),
        output_(strand_) {}

  ~Connection() {
    const std::lock_guard lock(shared_.mutex);
    shared_.drain_callbacks.erase(this);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void start() {
    error_code ignored;
    remote_ = endpoint_name(socket().remote_endpoint(ignored));
    socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    {
      const std::lock_guard lock(shared_.mutex);
      shared_.drain_callbacks[this] = [weak = this->weak_from_this(), strand = strand_] {
        asio::post(strand, [weak] {
          if (const auto self = weak.lock(); self && !self->exchange_) self->close();
        });
      };
    }
    asio::co_spawn(strand_, main(this->shared_from_this()), asio::detached);
  }

 private:
  using Self = std::shared_ptr<Connection>;  // keeps the connection alive while a coroutine runs
  using Parser = http::request_parser<http::string_body>;

  Socket& socket() {
    if constexpr (std::is_same_v<Stream, Socket>)
      return stream_;
    else
      return stream_.next_layer();
  }

  awaitable<void> main(Self self) {
    const bool greeted = co_await handshake();
    if (greeted) {
      asio::co_spawn(strand_, reader(self), asio::detached);
      for (bool first = true; co_await serve_one(first); first = false) {
      }
      co_await linger();
    }
    close();
  }

  awaitable<bool> handshake() {
    if constexpr (!std::is_same_v<Stream, Socket>) {
      arm(shared_.options.header_timeout);
      const auto [error] = co_await stream_.async_handshake(asio::ssl::stream_base::server, kAwait);
      disarm();
      if (error) co_return false;
    }
    co_return true;
  }

  awaitable<void> reader([[maybe_unused]] Self self) {
    const size_t read_ahead = shared_.options.max_header_bytes + kReadBytes;
    while (!eof_) {
      if (input_.size() >= read_ahead) {
        co_await room_.wait();
        continue;
      }
      const auto [error, count] = co_await stream_.async_read_some(asio::buffer(chunk_), kAwait);
      if (error) {
        eof_ = true;
      } else {
        const asio::mutable_buffer space = input_.prepare(count);
        input_.commit(asio::buffer_copy(space, asio::buffer(chunk_, count)));
      }
      readable_.notify();
      if (eof_) output_.notify();
    }
  }

  /// One request and its answer; false when the connection is to end.
  awaitable<bool> serve_one(bool first) {
    Parser parser;
    parser.header_limit(static_cast<uint32_t>(shared_.options.max_header_bytes));
    parser.body_limit(shared_.options.max_body_bytes);
    const bool complete = co_await read_request(parser, first);
    disarm();
    if (!complete) co_return false;
    begin_exchange(parser);
    shared_.handler(exchange_);
    const bool sent = co_await send_answer();
    end_exchange(sent);
    const bool go_on = sent && last_keep_alive_ && !shared_.draining;
    co_return go_on;
  }

  /// False when the client left or sent something that is not a request (it was told so).
  awaitable<bool> read_request(Parser& parser, bool first) {
    const HttpServerOptions& options = shared_.options;
    arm(first ? options.header_timeout : options.keep_alive_timeout);
    bool begun = first, in_body = false;
    while (!parser.is_done()) {
      bool progress = false;
      if (input_.size() > 0) {
        if (!std::exchange(begun, true)) arm(options.header_timeout);
        error_code error;
        const size_t used = parser.put(input_.cdata(), error);
        input_.consume(used);
        room_.notify();
        if (error && error != http::error::need_more) {
          co_await refuse(error);
          co_return false;
        }
        progress = used > 0;
      }
      if (parser.is_header_done() && !std::exchange(in_body, true)) {
        arm(options.body_timeout);
        if (!parser.is_done() && equal_ignoring_case(parser.get()[http::field::expect], "100-continue")) {
          const bool sent = co_await send("HTTP/1.1 100 Continue\r\n\r\n");
          if (!sent) co_return false;
          arm(options.body_timeout);
        }
        continue;
      }
      if (progress || parser.is_done()) continue;
      if (eof_ || (shared_.draining && !begun)) co_return false;
      co_await readable_.wait();
    }
    co_return true;
  }

  awaitable<void> refuse(error_code error) {
    HttpRequest unread;
    unread.method = "POST";
    exchange_ = std::make_shared<HttpExchange>(std::move(unread), false, true, port());
    exchange_->respond(refusal(error));
    const std::string output = exchange_->take_output();
    co_await send(output);
    exchange_ = nullptr;
  }

  HttpResponse refusal(error_code error) const {
    const HttpServerOptions& options = shared_.options;
    int status = 400;
    std::string message = "Invalid HTTP request: " + error.message();
    if (error == http::error::body_limit) {
      status = 413;
      message = fmt::format("The request body is larger than the {} bytes this server accepts.",
                            options.max_body_bytes);
    } else if (error == http::error::header_limit) {
      status = 431;
      message = fmt::format("The request's head is larger than the {} bytes this server accepts.",
                            options.max_header_bytes);
    }
    HttpResponse response = error_response(Error(ErrorCode::kInvalidArgument, message));
    response.status = status;
    return response;
  }

  ExchangePort port() {
    return {
        .post = [strand = strand_](std::function<void()> work) { asio::post(strand, std::move(work)); },
        .dispatch = [strand =
                         strand_](std::function<void()> work) { asio::dispatch(strand, std::move(work)); },
        .wake = [this] { output_.notify(); },  // until leave(), which end_exchange() calls
        .decorate = shared_.decorate,
    };
  }

  void begin_exchange(Parser& parser) {
    const bool keep_alive = parser.keep_alive() && !shared_.draining;
    const bool chunks = parser.get().version() >= 11;
    exchange_ = std::make_shared<HttpExchange>(make_request(parser), keep_alive, chunks, port());
    const std::lock_guard lock(shared_.mutex);
    ++shared_.open_exchanges;
  }

  void end_exchange(bool sent) {
    exchange_->leave();
    last_keep_alive_ = exchange_->keep_alive();
    if (shared_.options.access_log) {
      const HttpRequest& request = exchange_->request();
      spdlog::info("{} - \"{} {} HTTP/1.1\" {}", remote_, request.method, request.path,
                   sent ? std::to_string(exchange_->status()) : "client left");
    }
    exchange_ = nullptr;
    const std::lock_guard lock(shared_.mutex);
    if (--shared_.open_exchanges == 0) shared_.idle.notify_all();
  }

  HttpRequest make_request(Parser& parser) {
    auto& message = parser.get();
    HttpRequest request;
    request.method = message.method_string();
    const std::string_view target = message.target();
    request.path = target.substr(0, target.find('?'));
    const std::string& root = shared_.options.root_path;
    if (!root.empty() && request.path.starts_with(root)) request.path.erase(0, root.size());
    for (const auto& field : message) request.headers.add(field.name_string(), field.value());
    request.body = std::move(message.body());
    request.remote = remote_;
    return request;
  }

  /// Sends what the exchange produces until it is complete; false when the client left first.
  awaitable<bool> send_answer() {
    for (;;) {
      if (exchange_->has_output()) {
        const std::string output = exchange_->take_output();
        const bool sent = co_await send(output);
        if (!sent) co_return false;
        exchange_->sent();
      } else if (exchange_->complete()) {
        co_return true;
      } else if (eof_) {
        co_return false;
      } else {
        co_await output_.wait();
      }
    }
  }

  /// `data` must outlive the call. The deadline restarts whenever the client takes something.
  awaitable<bool> send(std::string_view data) {
    while (!data.empty()) {
      arm(shared_.options.write_timeout);
      const auto [error, count] =
          co_await stream_.async_write_some(asio::buffer(data.data(), data.size()), kAwait);
      if (error) {
        disarm();
        co_return false;
      }
      data.remove_prefix(count);
    }
    disarm();
    co_return true;
  }

  /// Reads on for a moment: closing with unread bytes would reset the connection, and the client might lose
  /// the end of its answer.
  awaitable<void> linger() {
    error_code ignored;
    socket().shutdown(Socket::shutdown_send, ignored);
    arm(kLinger);
    while (!eof_) {
      input_.consume(input_.size());
      room_.notify();
      co_await readable_.wait();
    }
    disarm();
  }

  void arm(std::chrono::milliseconds timeout) {
    deadline_.expires_after(timeout);
    deadline_.async_wait([weak = this->weak_from_this()](error_code error) {
      const auto self = weak.lock();
      // A wait that ended just before the timer was set anew reports success too.
      if (!error && self && self->deadline_.expiry() <= Timer::clock_type::now()) self->close();
    });
  }

  void disarm() { deadline_.expires_at(Timer::time_point::max()); }

  void close() {
    eof_ = true;
    disarm();
    error_code ignored;
    socket().close(ignored);
    readable_.notify();
    room_.notify();
    output_.notify();
  }

  Shared& shared_;
  const Strand strand_;
  Stream stream_;
  std::string remote_;
  Timer deadline_;
  Signal readable_, room_, output_;
  beast::flat_buffer input_;
  std::array<char, kReadBytes> chunk_;
  std::shared_ptr<HttpExchange> exchange_;
  bool eof_ = false;
  bool last_keep_alive_ = false;
};

void load_certificate(asio::ssl::context& tls, const HttpServerOptions& options) {
  tls.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                  asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                  asio::ssl::context::no_tlsv1_1);
  error_code error;
  tls.use_certificate_chain_file(options.ssl_certfile, error);
  if (error)
    fail(ErrorCode::kInvalidArgument, "--ssl-certfile {}: {}", options.ssl_certfile, error.message());
  tls.use_private_key_file(options.ssl_keyfile, asio::ssl::context::pem, error);
  if (error) fail(ErrorCode::kInvalidArgument, "--ssl-keyfile {}: {}", options.ssl_keyfile, error.message());
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpServerOptions& options, Handler handler, Decorator decorate) {
    shared_.options = options;
    shared_.handler = std::move(handler);
    shared_.decorate = std::move(decorate);
    if (!options.ssl_certfile.empty())
      load_certificate(tls_.emplace(asio::ssl::context::tls_server), options);
    listen();
  }

  ~Impl() {
    if (!shared_.options.uds.empty()) std::filesystem::remove(shared_.options.uds, ignored_);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  uint16_t port() const { return port_; }

  std::string url() const {
    const HttpServerOptions& options = shared_.options;
    if (!options.uds.empty()) return "unix:" + options.uds;
    const bool v6 = options.host.find(':') != std::string::npos;
    return fmt::format("{}://{}{}{}:{}", tls_ ? "https" : "http", v6 ? "[" : "", options.host, v6 ? "]" : "",
                       port_);
  }

  void run() {
    asio::co_spawn(io_, accept_loop(), asio::detached);
    std::vector<std::jthread> helpers;
    for (int i = 1; i < shared_.options.threads; ++i) helpers.emplace_back([this] { run_handlers(); });
    run_handlers();
  }

  void close_listener() {
    shared_.draining = true;
    asio::post(io_, [this] { acceptor_.close(ignored_); });
    const std::lock_guard lock(shared_.mutex);
    for (const auto& [connection, drain] : shared_.drain_callbacks) drain();
  }

  bool wait_idle(std::chrono::milliseconds timeout) {
    std::unique_lock lock(shared_.mutex);
    return shared_.idle.wait_for(lock, timeout, [&] { return shared_.open_exchanges == 0; });
  }

  void stop() { io_.stop(); }

 private:
  Protocol::endpoint resolve() {
    const HttpServerOptions& options = shared_.options;
    if (!options.uds.empty()) return asio::local::stream_protocol::endpoint(options.uds);
    asio::ip::tcp::resolver resolver(io_);
    error_code error;
    const auto found =
        resolver.resolve(options.host, std::to_string(options.port), asio::ip::tcp::resolver::passive, error);
    if (error || found.empty())
      fail(ErrorCode::kIo, "cannot resolve the address to listen on, {}: {}", options.host, error.message());
    return found.begin()->endpoint();
  }

  void listen() {
    const Protocol::endpoint endpoint = resolve();
    const bool uds = !shared_.options.uds.empty();
    // A socket file that a killed server left behind is in the way; any other file is not ours to remove.
    if (uds && std::filesystem::is_socket(shared_.options.uds, ignored_))
      std::filesystem::remove(shared_.options.uds, ignored_);
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error && !uds) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      const std::string where =
          uds ? shared_.options.uds : fmt::format("{}:{}", shared_.options.host, shared_.options.port);
      fail(ErrorCode::kIo, "cannot listen on {}: {}", where, error.message());
    }
    const Protocol::endpoint bound = acceptor_.local_endpoint();
    if (!uds)
      port_ = ntohs(reinterpret_cast<const sockaddr_in*>(bound.data())->sin_port);  // the same place in IPv6
  }

  awaitable<void> accept_loop() {
    Timer retry(io_);
    while (acceptor_.is_open()) {
      Strand strand = asio::make_strand(io_);
      Socket socket(strand);
      const auto [error] = co_await acceptor_.async_accept(socket, kAwait);
      if (!error) {
        start_connection(std::move(strand), std::move(socket));
      } else if (acceptor_.is_open()) {  // out of file descriptors, most likely: some will be closed
        spdlog::warn("cannot accept a connection: {}", error.message());
        retry.expires_after(kAcceptRetry);
        co_await retry.async_wait(kAwait);
      }
    }
  }

  void start_connection(Strand strand, Socket socket) {
    if (is_full()) return;  // closes the socket
    if (tls_)
      std::make_shared<Connection<TlsStream>>(shared_, std::move(strand), std::move(socket), *tls_)->start();
    else
      std::make_shared<Connection<Socket>>(shared_, std::move(strand), std::move(socket))->start();
  }

  bool is_full() {
    const std::lock_guard lock(shared_.mutex);
    return shared_.drain_callbacks.size() >= static_cast<size_t>(shared_.options.max_connections);
  }

  /// A handler that throws must not take the server down: its connection is lost, the others go on.
  void run_handlers() {
    for (;;) {
      try {
        io_.run();
        return;
      } catch (const std::exception& error) {
        spdlog::error("an HTTP handler failed: {}", error.what());
      }
    }
  }

  // Destroyed in reverse: io_ destroys what is left of the connections, which still use shared_ and tls_.
  Shared shared_;
  std::optional<asio::ssl::context> tls_;
  uint16_t port_ = 0;
  error_code ignored_;
  asio::io_context io_;
  asio::basic_socket_acceptor<Protocol> acceptor_{io_};
};

HttpServer::HttpServer(const HttpServerOptions& options, Handler handler, Decorator decorate)
    : impl_(std::make_unique<Impl>(options, std::move(handler), std::move(decorate))) {}
HttpServer::~HttpServer() = default;
uint16_t HttpServer::port() const {
  return impl_->port();
}
std::string HttpServer::url() const {
  return impl_->url();
}
void HttpServer::run() {
  impl_->run();
}
void HttpServer::close_listener() {
  impl_->close_listener();
}
bool HttpServer::wait_idle(std::chrono::milliseconds timeout) {
  return impl_->wait_idle(timeout);
}
void HttpServer::stop() {
  impl_->stop();
}

}  // namespace polylora
