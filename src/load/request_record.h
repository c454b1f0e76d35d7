// What one request of a load run did.
#pragma once

#include <string>
#include <vector>

namespace polylora {

/// Times are seconds; `start_s` since the start of the run, the others since the request was sent.
struct RequestRecord {
  std::string model;  // as sent: the base's or an adapter's name
  bool success = false;
  std::string error;  // one line; empty on success
  int prompt_tokens = 0;
  int output_tokens = 0;
  double start_s = 0;
  double queue_s = 0;  // how long the limit of concurrency held it back
  double ttft_s = 0;
  double latency_s = 0;       // to the last piece of output
  std::vector<double> itl_s;  // between pieces of output
  std::string text;           // of the output; empty unless asked for
};

}  // namespace polylora
