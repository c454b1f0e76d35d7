// Sends a list of requests to a server and records what becomes of each.
#pragma once

#include <chrono>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "load/http_client.h"
#include "load/request_record.h"

namespace polylora {

struct PlannedRequest {
  std::string body;
  std::string model;  // as in the body; for the record
  int prompt_tokens = 0;
  double arrival_s = 0;  // not before; ascending over the list
  std::string id;        // sent as X-Request-Id unless empty
};

/// Calls beside the measured requests: one after the other, round and round, each `interval_s` after the end
/// of the one before, until the measured requests are done. They are not streamed.
struct SideTraffic {
  std::vector<HttpCall> calls;  // empty: no side traffic
  double interval_s = 0.05;
};

struct LoadPlan {
  std::string path = "/v1/completions";
  HeaderList headers;
  std::vector<PlannedRequest> requests;
  int max_concurrency = 0;  // requests that run at a time; 0: any number
  SideTraffic side;
  std::chrono::seconds silence{600};  // a request fails after this time without a byte from the server
  bool keep_text = false;
};

struct SideRecord {
  size_t call = 0;  // index into SideTraffic::calls
  double latency_s = 0;
  std::string error;  // empty: the answer's status was 200
};

struct LoadResult {
  double duration_s = 0;
  std::vector<RequestRecord> records;  // in the order of the requests
  std::vector<SideRecord> side;
};

/// Runs the whole plan on the calling thread, over as many keep-alive connections as requests run at a time.
/// A request that fails is a record with an error, whatever went wrong; the others go on. `on_progress` gets
/// the number of finished requests. Throws kUnavailable when `stop` was requested from another thread.
LoadResult run_load(const HttpServerAddress& address, const LoadPlan& plan,
                    const std::function<void(size_t finished)>& on_progress = {},
                    const std::stop_token& stop = {});

}  // namespace polylora
