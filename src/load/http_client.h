// One keep-alive HTTP/1.1 connection to the server that gets the load, for coroutines of a single thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "load/server_url.h"

namespace boost::asio::ssl {
class context;
}

namespace polylora {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

struct HttpCall {
  std::string method = "POST";
  std::string path;  // with the server's prefix
  HeaderList headers;
  std::string body;  // JSON, when not empty
};

/// A server whose name was looked up, and how to talk to it. Outlives the clients.
class HttpServerAddress {
 public:
  /// Looks the host up. Throws kUnavailable naming it. `insecure`: certificates are not verified.
  HttpServerAddress(const ServerUrl& url, bool insecure);
  ~HttpServerAddress();

  const ServerUrl& url() const { return url_; }
  const boost::asio::ip::tcp::resolver::results_type& endpoints() const { return endpoints_; }
  /// Null for plain HTTP.
  boost::asio::ssl::context* tls() const { return tls_.get(); }

 private:
  ServerUrl url_;
  boost::asio::ip::tcp::resolver::results_type endpoints_;
  std::unique_ptr<boost::asio::ssl::context> tls_;
};

class HttpClient {
 public:
  /// Gets the pieces of the answer's body as they arrive.
  using BodyFn = std::function<void(int status, std::string_view bytes)>;

  /// A call fails when the server is silent for longer than `silence`.
  HttpClient(boost::asio::io_context& io, const HttpServerAddress& address, std::chrono::seconds silence);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Sends the call, over the connection of the call before where the server kept it open, and returns the
  /// status when the whole answer was read. Throws kUnavailable for whatever goes wrong on the wire; what
  /// `on_body` throws passes. After an exception the next call connects anew. `call` outlives the coroutine.
  boost::asio::awaitable<int> send(const HttpCall& call, BodyFn on_body);

 private:
  class Connection;
  template <typename Stream>
  class ConnectionOver;
  std::unique_ptr<Connection> make_connection() const;

  boost::asio::io_context& io_;
  const HttpServerAddress& address_;
  const std::chrono::seconds silence_;
  std::unique_ptr<Connection> connection_;  // null: not connected
};

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// One call on a connection and an event loop of its own, for set-up work. Throws what HttpClient throws.
HttpAnswer call_server(const HttpServerAddress& address, const HttpCall& call, std::chrono::seconds silence);

}  // namespace polylora
