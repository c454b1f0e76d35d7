#include "serve/http_exchange.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <utility>

#include "serve/api_error.h"

namespace polylora {

namespace {

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return status < 500 ? "Bad Request" : "Internal Server Error";
  }
}

std::string http_date() {
  return fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(std::time(nullptr)));
}

/// A value that cannot end the header it stands in.
bool is_header_safe(std::string_view value) {
  return value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
}

}  // namespace

HttpExchange::HttpExchange(HttpRequest request, bool keep_alive, bool chunks, ExchangePort port)
    : request_(std::move(request)), port_(std::move(port)), keep_alive_(keep_alive), chunks_(chunks) {}

void HttpExchange::post(std::function<void()> work) {
  port_.post([self = shared_from_this(), moved = std::move(work)] { answer_errors(self, moved); });
}

void HttpExchange::respond(HttpResponse response) {
  port_.dispatch([self = shared_from_this(), moved = std::move(response)]() mutable {
    self->send_whole(std::move(moved));
  });
}

void HttpExchange::send_whole(HttpResponse response) {
  if (closed()) return;
  if (streaming_) {
    // A handler failed in the middle of its stream: only an early end can tell the client.
    keep_alive_ = false;
    return finish();
  }
  append_head(response, fmt::format("content-length: {}\r\n", response.body.size()));
  if (request_.method != "HEAD") output_ += response.body;
  finish();
}

void HttpExchange::begin_stream(HttpResponse head) {
  if (closed()) return;
  streaming_ = true;
  if (!chunks_) keep_alive_ = false;  // the end of the body is the end of the connection
  append_head(head, chunks_ ? "transfer-encoding: chunked\r\n" : "");
  append_chunk(head.body);
  port_.wake();
}

void HttpExchange::write(std::string_view data) {
  if (closed()) return;
  append_chunk(data);
  port_.wake();
}

void HttpExchange::end_stream() {
  if (closed()) return;
  if (chunks_) output_ += "0\r\n\r\n";
  finish();
}

void HttpExchange::append_head(HttpResponse& response, const std::string& framing) {
  status_ = response.status;
  port_.decorate(request_, response);
  output_ += fmt::format("HTTP/1.1 {} {}\r\ndate: {}\r\nserver: polylora\r\n{}", status_,
                         reason_phrase(status_), http_date(), framing);
  if (!response.content_type.empty()) output_ += fmt::format("content-type: {}\r\n", response.content_type);
  for (const auto& [name, value] : response.headers.entries())
    if (is_header_safe(value)) output_ += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive_) output_ += "connection: close\r\n";
  output_ += "\r\n";
}

void HttpExchange::append_chunk(std::string_view data) {
  if (data.empty()) return;  // an empty chunk would end the body
  if (chunks_) output_ += fmt::format("{:x}\r\n", data.size());
  output_ += data;
  if (chunks_) output_ += "\r\n";
}

void HttpExchange::finish() {
  complete_ = true;
  drained_ = nullptr;
  client_left_ = nullptr;
  port_.wake();
}

void HttpExchange::on_drained(std::function<void()> callback) {
  if (!closed()) drained_ = std::move(callback);
}

void HttpExchange::on_client_left(std::function<void()> callback) {
  if (left_) return callback();
  if (!complete_) client_left_ = std::move(callback);
}

std::string HttpExchange::take_output() {
  in_flight_ = output_.size();
  return std::exchange(output_, {});
}

void HttpExchange::sent() {
  in_flight_ = 0;
  if (!output_.empty()) return;
  if (const std::function<void()> callback = drained_) callback();  // a copy: it may end the stream
}

void HttpExchange::leave() {
  left_ = true;
  port_.wake = [] {};
  drained_ = nullptr;
  if (const std::function<void()> callback = std::exchange(client_left_, nullptr)) callback();
}

}  // namespace polylora
