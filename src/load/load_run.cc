#include "load/load_run.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

#include "base/error.h"
#include "load/stream_recorder.h"

namespace polylora {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using Clock = std::chrono::steady_clock;
using Timer = asio::steady_timer;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kMaxErrorBody = 4096;
constexpr int kStatusOk = 200;

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string status_error(int status, std::string_view body) {
  return fmt::format("HTTP {}: {}", status, describe_error(body));
}

class LoadRun {
 public:
  LoadRun(const HttpServerAddress& address, const LoadPlan& plan,
          const std::function<void(size_t)>& on_progress)
      : address_(address), plan_(plan), on_progress_(on_progress) {
    result_.records.resize(plan.requests.size());
  }

  LoadResult run(const std::stop_token& stop) {
    const std::stop_callback stopper(stop, [this] { io_.stop(); });
    start_ = Clock::now();
    asio::co_spawn(io_, dispatch(), asio::detached);
    if (!plan_.side.calls.empty()) asio::co_spawn(io_, side_traffic(), asio::detached);
    io_.run();
    if (stop.stop_requested()) fail(ErrorCode::kUnavailable, "the load run was interrupted");
    return std::move(result_);
  }

 private:
  /// Starts the requests in order, each at its time and when a place is free.
  awaitable<void> dispatch() {
    Timer timer(io_);
    for (size_t i = 0; i < plan_.requests.size(); ++i) {
      const Clock::time_point arrival = start_ + to_duration(plan_.requests[i].arrival_s);
      if (arrival > Clock::now()) {
        timer.expires_at(arrival);
        co_await timer.async_wait(kAwait);
      }
      while (plan_.max_concurrency > 0 && running_ >= plan_.max_concurrency)
        co_await place_free_.async_wait(kAwait);
      ++running_;
      asio::co_spawn(io_, run_one(i, take_client()), asio::detached);
    }
  }

  std::unique_ptr<HttpClient> take_client() {
    if (idle_.empty()) return std::make_unique<HttpClient>(io_, address_, plan_.silence);
    std::unique_ptr<HttpClient> client = std::move(idle_.back());
    idle_.pop_back();
    return client;
  }

  awaitable<void> run_one(size_t index, std::unique_ptr<HttpClient> client) {
    const PlannedRequest& request = plan_.requests[index];
    RequestRecord& record = result_.records[index];
    record.model = request.model;
    record.prompt_tokens = request.prompt_tokens;
    record.start_s = seconds_since(start_);
    record.queue_s = std::max(0.0, record.start_s - request.arrival_s);
    try {
      co_await stream(request, *client, record);
    } catch (const std::exception& error) {
      record.success = false;
      record.error = error.what();
    }
    idle_.push_back(std::move(client));
    finish_one();
  }

  awaitable<void> stream(const PlannedRequest& request, HttpClient& client, RequestRecord& record) {
    HttpCall call{.path = plan_.path, .headers = plan_.headers, .body = request.body};
    if (!request.id.empty()) call.headers.emplace_back("X-Request-Id", request.id);
    const Clock::time_point sent = Clock::now();
    StreamRecorder recorder(record, plan_.keep_text);
    std::string refusal;
    const int status = co_await client.send(call, [&](int code, std::string_view bytes) {
      if (code == kStatusOk) {
        recorder.feed(bytes, seconds_since(sent));
      } else if (refusal.size() < kMaxErrorBody) {
        refusal += bytes;
      }
    });
    if (status != kStatusOk) fail(ErrorCode::kUnavailable, "{}", status_error(status, refusal));
    recorder.finish();
  }

  void finish_one() {
    --running_;
    ++finished_;
    place_free_.cancel();
    if (on_progress_) on_progress_(finished_);
    if (finished_ < plan_.requests.size()) return;
    result_.duration_s = seconds_since(start_);
    side_pause_.cancel();
  }

  bool done() const { return finished_ == plan_.requests.size(); }

  awaitable<void> side_traffic() {
    HttpClient client(io_, address_, plan_.silence);
    for (size_t turn = 0; !done(); ++turn) {
      SideRecord record;
      record.call = turn % plan_.side.calls.size();
      const Clock::time_point sent = Clock::now();
      try {
        std::string body;
        const int status =
            co_await client.send(plan_.side.calls[record.call], [&body](int, std::string_view bytes) {
              if (body.size() < kMaxErrorBody) body += bytes;
            });
        if (status != kStatusOk) record.error = status_error(status, body);
      } catch (const std::exception& error) {
        record.error = error.what();
      }
      record.latency_s = seconds_since(sent);
      result_.side.push_back(std::move(record));
      if (done()) break;
      side_pause_.expires_after(to_duration(plan_.side.interval_s));
      co_await side_pause_.async_wait(kAwait);
    }
  }

  const HttpServerAddress& address_;
  const LoadPlan& plan_;
  const std::function<void(size_t)>& on_progress_;
  LoadResult result_;
  Clock::time_point start_;
  int running_ = 0;
  size_t finished_ = 0;

  // After what coroutines use, which the loop destroys when it was stopped; before what uses the loop.
  asio::io_context io_{1};
  std::vector<std::unique_ptr<HttpClient>> idle_;
  Timer place_free_{io_, Timer::time_point::max()};
  Timer side_pause_{io_};
};

}  // namespace

LoadResult run_load(const HttpServerAddress& address, const LoadPlan& plan,
                    const std::function<void(size_t finished)>& on_progress, const std::stop_token& stop) {
  return LoadRun(address, plan, on_progress).run(stop);
}

}  // namespace polylora
