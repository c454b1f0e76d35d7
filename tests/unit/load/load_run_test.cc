#include "load/load_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace polylora {
namespace {

using boost::asio::ip::tcp;
using testing::HasSubstr;
namespace http = boost::beast::http;

const std::string kStream =
    "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\ndata: [DONE]\n\n";

/// A server with a thread per connection. Its answer is raw bytes; an empty one closes the connection.
class ThreadedServer {
 public:
  using Request = http::request<http::string_body>;
  using Answer = std::function<std::string(const Request&)>;

  explicit ThreadedServer(Answer answer)
      : answer_(std::move(answer)), acceptor_(io_, {boost::asio::ip::address_v4::loopback(), 0}) {
    accepting_ = std::thread([this] { accept(); });
  }

  ~ThreadedServer() {
    stopping_ = true;
    tcp::socket(io_).connect(acceptor_.local_endpoint());  // wakes accept()
    accepting_.join();
    {
      const std::lock_guard lock(mutex_);
      boost::system::error_code ignored;
      for (tcp::socket& socket : sockets_) socket.shutdown(tcp::socket::shutdown_both, ignored);
    }
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadedServer(const ThreadedServer&) = delete;
  ThreadedServer& operator=(const ThreadedServer&) = delete;

  ServerUrl url() const {
    ServerUrl url;
    url.port = std::to_string(acceptor_.local_endpoint().port());
    return url;
  }
  int connections() const { return connections_; }
  int most_at_a_time() const { return most_; }

 private:
  void accept() {
    for (;;) {
      tcp::socket socket = acceptor_.accept();
      if (stopping_) return;
      ++connections_;
      const std::lock_guard lock(mutex_);
      sockets_.push_back(std::move(socket));
      threads_.emplace_back([this, &own = sockets_.back()] { serve(own); });
    }
  }

  void serve(tcp::socket& socket) {
    boost::beast::flat_buffer buffer;
    boost::system::error_code error;
    for (;;) {
      Request request;
      http::read(socket, buffer, request, error);
      if (error) return;
      const int running = ++running_;
      for (int most = most_; most < running && !most_.compare_exchange_weak(most, running);) {
      }
      const std::string answer = answer_(request);
      --running_;
      if (answer.empty()) {
        socket.shutdown(tcp::socket::shutdown_both, error);
        return;
      }
      boost::asio::write(socket, boost::asio::buffer(answer), error);
      if (error) return;
    }
  }

  Answer answer_;
  boost::asio::io_context io_;
  tcp::acceptor acceptor_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> connections_ = 0, running_ = 0, most_ = 0;
  std::mutex mutex_;
  std::list<tcp::socket> sockets_;
  std::list<std::thread> threads_;
  std::thread accepting_;
};

std::string whole(const std::string& status, const std::string& body) {
  return "HTTP/1.1 " + status + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

LoadPlan plan_of(size_t requests, int max_concurrency) {
  LoadPlan plan;
  plan.max_concurrency = max_concurrency;
  plan.requests.resize(requests);
  for (size_t i = 0; i < requests; ++i) {
    plan.requests[i].model = "m" + std::to_string(i);
    plan.requests[i].body = plan.requests[i].model;
  }
  return plan;
}

LoadResult run(const ThreadedServer& server, const LoadPlan& plan) {
  return run_load(HttpServerAddress(server.url(), false), plan);
}

TEST(LoadRun, KeepsToTheLimitAndReusesConnections) {
  const ThreadedServer server([](const auto&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return whole("200 OK", kStream);
  });
  std::vector<size_t> progress;
  const LoadPlan plan = plan_of(12, 3);
  const LoadResult result = run_load(HttpServerAddress(server.url(), false), plan,
                                     [&](size_t finished) { progress.push_back(finished); });
  EXPECT_EQ(server.connections(), 3);
  EXPECT_EQ(server.most_at_a_time(), 3);
  EXPECT_EQ(progress.size(), 12u);
  for (size_t i = 0; i < 12; ++i) {
    const RequestRecord& record = result.records[i];
    EXPECT_TRUE(record.success) << record.error;
    EXPECT_EQ(record.model, "m" + std::to_string(i));
    EXPECT_EQ(record.output_tokens, 2);
    EXPECT_GE(record.ttft_s, 0.005);
    EXPECT_LE(record.start_s + record.latency_s, result.duration_s);
  }
  EXPECT_GT(result.records[11].queue_s, result.records[0].queue_s);
}

TEST(LoadRun, AConnectionThatTheServerClosedWhileIdleIsNoFailure) {
  std::atomic<int> calls = 0;
  const ThreadedServer server(
      [&calls](const auto&) {  // every second request of a connection meets a closed one
        return ++calls % 2 == 0 ? std::string() : whole("200 OK", kStream);
      });
  for (const RequestRecord& record : run(server, plan_of(3, 1)).records)
    EXPECT_TRUE(record.success) << record.error;
  EXPECT_EQ(server.connections(), 3);
}

TEST(LoadRun, EveryFailureIsARecordOfItsOwn) {
  const ThreadedServer server([](const auto& request) {
    if (request.body() == "m0") return std::string();
    if (request.body() == "m1") return whole("404 Not Found", R"({"error":{"message":"no m1"}})");
    if (request.body() == "m2")
      return std::string("HTTP/1.1 200 OK\r\nContent-Length: 999\r\nConnection: close\r\n\r\nda");
    if (request.body() == "m3") return std::string("nonsense\r\n\r\n");
    return whole("200 OK", kStream);
  });
  LoadPlan plan = plan_of(5, 0);
  plan.silence = std::chrono::seconds(1);
  const LoadResult result = run(server, plan);
  EXPECT_THAT(result.records[0].error, HasSubstr("end of stream"));
  EXPECT_EQ(result.records[1].error, "HTTP 404: no m1");
  EXPECT_THAT(result.records[2].error, HasSubstr("no answer in time"));
  EXPECT_THAT(result.records[3].error, HasSubstr("bad version"));
  EXPECT_TRUE(result.records[4].success);
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(result.records[static_cast<size_t>(i)].success);
}

TEST(LoadRun, SideTrafficGoesRoundUntilTheRequestsAreDone) {
  const ThreadedServer server([](const auto& request) {
    if (request.target() == "/bad") return whole("500 Oh", "no");
    if (request.target() == "/good") return whole("200 OK", "yes");
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
    return whole("200 OK", kStream);
  });
  LoadPlan plan = plan_of(2, 1);
  plan.side.interval_s = 0.002;
  for (const char* path : {"/good", "/bad"}) plan.side.calls.emplace_back().path = path;
  const LoadResult result = run(server, plan);
  ASSERT_GE(result.side.size(), 2u);
  for (size_t i = 0; i < result.side.size(); ++i) {
    EXPECT_EQ(result.side[i].call, i % 2);
    EXPECT_EQ(result.side[i].error, i % 2 == 0 ? "" : "HTTP 500: no");
  }
}

TEST(LoadRun, StopsAtOnceWhenAsked) {
  const ThreadedServer server([](const auto&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return whole("200 OK", kStream);
  });
  std::stop_source stop;
  std::thread stopper([&stop] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    stop.request_stop();
  });
  LoadPlan plan = plan_of(100, 4);
  plan.side.calls.emplace_back().path = "/side";
  const HttpServerAddress address(server.url(), false);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(run_load(address, plan, {}, stop.get_token()), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  stopper.join();
}

TEST(LoadRun, OfNothingEndsAtOnce) {
  const ThreadedServer server([](const auto&) { return std::string(); });
  EXPECT_TRUE(run(server, {}).records.empty());
}

TEST(HttpServerAddress, NamesAHostThatCannotBeResolved) {
  ServerUrl url;
  url.host = "no.such.host.invalid";
  try {
    const HttpServerAddress address(url, false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("no.such.host.invalid"));
  }
}

}  // namespace
}  // namespace polylora
