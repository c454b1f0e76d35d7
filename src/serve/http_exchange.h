// The exchange as the HTTP server implements it: bytes to send pile up here until the connection takes them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "serve/http_message.h"

namespace polylora {

/// How the exchange reaches its connection; all calls but those of post and dispatch come on the executor.
struct ExchangePort {
  std::function<void(std::function<void()>)> post;  // run later, on the executor; any thread
  std::function<void(std::function<void()>)>
      dispatch;                // run now when on the executor, else as post; any thread
  std::function<void()> wake;  // there is something to send
  std::function<void(const HttpRequest&, HttpResponse&)> decorate;
};

class HttpExchange final : public Exchange, public std::enable_shared_from_this<HttpExchange> {
 public:
  /// `keep_alive`: whether the client may send another request afterwards. `chunks`: whether it understands
  /// chunked bodies (HTTP/1.1).
  HttpExchange(HttpRequest request, bool keep_alive, bool chunks, ExchangePort port);

  const HttpRequest& request() const override { return request_; }
  void post(std::function<void()> work) override;
  void respond(HttpResponse response) override;
  void begin_stream(HttpResponse head) override;
  void write(std::string_view data) override;
  void end_stream() override;
  size_t unsent_bytes() const override { return output_.size() + in_flight_; }
  void on_drained(std::function<void()> callback) override;
  void on_client_left(std::function<void()> callback) override;

  // --- for the connection, on the executor

  bool has_output() const { return !output_.empty(); }
  /// Takes the bytes to send; sent() says that they are gone.
  std::string take_output();
  void sent();
  bool complete() const { return complete_; }
  bool keep_alive() const { return keep_alive_; }
  int status() const { return status_; }
  /// No one will read the answer any more; the exchange forgets its connection.
  void leave();

 private:
  void send_whole(HttpResponse response);
  void append_head(HttpResponse& response, const std::string& framing);
  void append_chunk(std::string_view data);
  void finish();
  bool closed() const { return complete_ || left_; }

  const HttpRequest request_;
  ExchangePort port_;
  std::string output_;
  size_t in_flight_ = 0;
  std::function<void()> drained_, client_left_;
  int status_ = 0;
  bool keep_alive_;
  const bool chunks_;
  bool streaming_ = false;
  bool complete_ = false;
  bool left_ = false;
};

}  // namespace polylora
