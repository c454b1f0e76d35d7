// HTTP/1.1 over TCP, TLS or a Unix socket: connections in, exchanges out. Knows nothing of what is served.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "serve/http_message.h"

namespace polylora {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  std::string uds;                        // instead of host and port
  std::string ssl_certfile, ssl_keyfile;  // both: TLS
  std::string root_path;                  // stripped from every path
  bool access_log = true;
  int threads = 1;
  size_t max_body_bytes = size_t{64} << 20;
  size_t max_header_bytes = size_t{64} << 10;
  int max_connections = 4096;
  std::chrono::milliseconds header_timeout{10'000};  // handshake, and a request's head once it has begun
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds write_timeout{30'000};  // a client that takes nothing for that long
  std::chrono::milliseconds keep_alive_timeout{5'000};
};

/// Adds headers to an answer just before it is sent.
using Decorator = std::function<void(const HttpRequest&, HttpResponse&)>;

class HttpServer {
 public:
  /// Binds and listens. Throws kIo naming the address, kInvalidArgument / kNotFound for certificates.
  /// `handler` is called on an HTTP thread, must not block, and must not throw.
  HttpServer(const HttpServerOptions& options, Handler handler, Decorator decorate);
  ~HttpServer();

  uint16_t port() const;
  std::string url() const;

  void run();             // serves until stop()
  void close_listener();  // no new connections; those open end after their current answer. Any thread.
  bool wait_idle(std::chrono::milliseconds timeout);  // until no exchange is open. Any thread but run()'s.
  void stop();                                        // closes everything; run() returns. Any thread.

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polylora
