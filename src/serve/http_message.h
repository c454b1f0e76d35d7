// What a route handler sees of HTTP: a request, a response, and the exchange that joins them. Nothing here
// knows sockets; http_server.cc is the only file that does.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

/// In the order they arrived (or will be written); names compare without case.
class HttpHeaders {
 public:
  void add(std::string name, std::string value) { entries_.emplace_back(std::move(name), std::move(value)); }
  /// The first header of that name; empty when absent.
  std::string_view get(std::string_view name) const;
  bool has(std::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& entries() const { return entries_; }

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
};

struct HttpRequest {
  std::string method;  // "POST"
  std::string path;    // without query and without --root-path
  HttpHeaders headers;
  std::string body;
  std::string remote;  // "127.0.0.1:51234", or the Unix socket's path
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";  // empty: none is sent
  HttpHeaders headers;
  std::string body;
};

HttpResponse json_answer(std::string body, int status = 200);
/// Without a content type, as vLLM sends its plain text.
HttpResponse plain_answer(std::string body);

/// One request and its answer: either respond(), or begin_stream(), write() …, end_stream().
///
/// post() and respond() may be called from any thread. The rest, and every callback, runs on the exchange's
/// own executor, one at a time. Calls after the client has left do nothing. The callbacks are dropped once
/// the answer is complete or the client has left.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const HttpRequest& request() const = 0;

  /// Runs `work` on the executor. An exception that leaves it becomes an error answer.
  virtual void post(std::function<void()> work) = 0;

  /// Sends the whole answer.
  virtual void respond(HttpResponse response) = 0;

  /// Sends the head of an answer whose body comes in pieces; `head.body` is its first piece.
  virtual void begin_stream(HttpResponse head) = 0;
  virtual void write(std::string_view data) = 0;
  virtual void end_stream() = 0;

  /// Bytes written here that the client's socket has not taken yet. A writer with much to say waits for
  /// on_drained once this is large: that bounds the memory a slow client can cost.
  virtual size_t unsent_bytes() const = 0;

  /// Called each time all bytes have been taken by the socket.
  virtual void on_drained(std::function<void()> callback) = 0;
  /// Called once if the client leaves before the answer is complete.
  virtual void on_client_left(std::function<void()> callback) = 0;
};

using Handler = std::function<void(const std::shared_ptr<Exchange>&)>;

/// Compares ASCII text without case, as header names want.
bool equal_ignoring_case(std::string_view a, std::string_view b);

}  // namespace polylora
