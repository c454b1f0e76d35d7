#include "load/http_client.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/span_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <exception>

#include "base/error.h"

namespace polylora {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::awaitable;
using boost::system::error_code;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 * 1024;
constexpr std::chrono::seconds kConnectTimeout{30};

[[noreturn]] void fail_call(const HttpServerAddress& address, const char* doing, error_code error) {
  fail(ErrorCode::kUnavailable, "{} {}: {}", doing, address.url().host_port(),
       error == beast::error::timeout ? "no answer in time" : error.message());
}

http::request<http::span_body<const char>> make_request(const HttpCall& call, const ServerUrl& url) {
  http::request<http::span_body<const char>> request(http::string_to_verb(call.method),
                                                     url.prefix + call.path, 11);
  request.set(http::field::host, url.host_port());
  request.set(http::field::accept, "*/*");
  request.set(http::field::user_agent, "polylora/" POLYLORA_VERSION);
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  for (const auto& [name, value] : call.headers) request.set(name, value);
  request.body() = {call.body.data(), call.body.size()};
  request.prepare_payload();
  return request;
}

}  // namespace

HttpServerAddress::HttpServerAddress(const ServerUrl& url, bool insecure) : url_(url) {
  asio::io_context io;
  error_code error;
  endpoints_ = asio::ip::tcp::resolver(io).resolve(url.host, url.port, error);
  if (error)
    fail(ErrorCode::kUnavailable, "the server's name {} cannot be resolved: {}", url.host, error.message());
  if (!url.tls) return;
  tls_ = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  tls_->set_default_verify_paths(error);
  tls_->set_verify_mode(insecure ? asio::ssl::verify_none : asio::ssl::verify_peer);
}
HttpServerAddress::~HttpServerAddress() = default;

/// What a client needs of a connection, whatever it runs over.
class HttpClient::Connection {
 public:
  virtual ~Connection() = default;
  virtual awaitable<void> open() = 0;
  virtual awaitable<int> exchange(const HttpCall& call, const BodyFn& on_body) = 0;
  /// Whether the server allows another call.
  bool reusable() const { return reusable_; }
  /// Whether anything of the last call's answer arrived.
  bool answered() const { return answered_; }

 protected:
  bool reusable_ = false;
  bool answered_ = false;
};

template <typename Stream>
class HttpClient::ConnectionOver : public Connection {
 public:
  template <typename... Args>
  ConnectionOver(const HttpServerAddress& address, std::chrono::seconds silence, Args&&... args)
      : address_(address), silence_(silence), stream_(std::forward<Args>(args)...) {}

  awaitable<void> open() override {
    beast::tcp_stream& tcp = beast::get_lowest_layer(stream_);
    tcp.expires_after(kConnectTimeout);
    const auto [error, endpoint] = co_await tcp.async_connect(address_.endpoints(), kAwait);
    if (error) fail_call(address_, "connecting to", error);
    error_code ignored;
    tcp.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      stream_.set_verify_callback(asio::ssl::host_name_verification(address_.url().host));
      SSL_set_tlsext_host_name(stream_.native_handle(), address_.url().host.c_str());
      const auto [refused] = co_await stream_.async_handshake(asio::ssl::stream_base::client, kAwait);
      if (refused) fail_call(address_, "TLS handshake with", refused);
    }
  }

  awaitable<int> exchange(const HttpCall& call, const BodyFn& on_body) override {
    reusable_ = answered_ = false;
    const auto request = make_request(call, address_.url());
    expect_progress();
    const auto [unsent, written] = co_await http::async_write(stream_, request, kAwait);
    if (unsent) fail_call(address_, "sending to", unsent);
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    co_await read_head(parser);
    const int status = parser.get().result_int();
    while (!parser.is_done()) {
      const size_t count = co_await read_some(parser);
      if (count > 0) on_body(status, {chunk_.data(), count});
    }
    reusable_ = parser.keep_alive();
    co_return status;
  }

 private:
  using Parser = http::response_parser<http::buffer_body>;

  void expect_progress() { beast::get_lowest_layer(stream_).expires_after(silence_); }

  awaitable<void> read_head(Parser& parser) {
    expect_progress();
    const auto [error, count] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
    answered_ = count > 0;
    if (error) fail_call(address_, "reading from", error);
  }

  /// Whatever of the body is there, at least one byte or the end of it.
  awaitable<size_t> read_some(Parser& parser) {
    auto& body = parser.get().body();
    body.data = chunk_.data();
    body.size = chunk_.size();
    expect_progress();
    const auto [error, count] = co_await http::async_read_some(stream_, buffer_, parser, kAwait);
    if (error && error != http::error::need_buffer) fail_call(address_, "reading from", error);
    co_return chunk_.size() - body.size;
  }

  const HttpServerAddress& address_;
  const std::chrono::seconds silence_;
  Stream stream_;
  beast::flat_buffer buffer_;
  std::array<char, kReadBytes> chunk_;
};

HttpClient::HttpClient(asio::io_context& io, const HttpServerAddress& address, std::chrono::seconds silence)
    : io_(io), address_(address), silence_(silence) {}
HttpClient::~HttpClient() = default;

std::unique_ptr<HttpClient::Connection> HttpClient::make_connection() const {
  if (address_.tls() == nullptr)
    return std::make_unique<ConnectionOver<beast::tcp_stream>>(address_, silence_, io_);
  return std::make_unique<ConnectionOver<TlsStream>>(address_, silence_, io_, *address_.tls());
}

awaitable<int> HttpClient::send(const HttpCall& call, BodyFn on_body) {
  // The server may have closed an idle connection at any time; that is no failure of this call.
  for (bool kept = connection_ != nullptr;; kept = false) {
    std::unique_ptr<Connection> connection = kept ? std::move(connection_) : make_connection();
    if (!kept) co_await connection->open();
    try {
      const int status = co_await connection->exchange(call, on_body);
      if (connection->reusable()) connection_ = std::move(connection);
      co_return status;
    } catch (const Error&) {
      if (!kept || connection->answered()) throw;
    }
  }
}

HttpAnswer call_server(const HttpServerAddress& address, const HttpCall& call, std::chrono::seconds silence) {
  asio::io_context io;
  HttpClient client(io, address, silence);
  HttpAnswer answer;
  std::exception_ptr failure;
  asio::co_spawn(io, client.send(call, [&answer](int, std::string_view bytes) { answer.body += bytes; }),
                 [&](std::exception_ptr thrown, int status) {
                   failure = std::move(thrown);
                   answer.status = status;
                 });
  io.run();
  if (failure) std::rethrow_exception(failure);
  return answer;
}

}  // namespace polylora
