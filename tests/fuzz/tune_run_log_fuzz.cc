// A checkpoint to be resumed: the input up to its first NUL is trainer_state.json, the rest the
// trainer_log.jsonl that the run left. What is restored must be able to go on and to be restored again.
#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "fuzz_folder.h"
#include "io_fuzz_file.h"
#include "tune/run/run_log.h"

namespace polylora {
namespace {

void go_on(RunLog& log, const std::filesystem::path& folder) {
  RunPosition at = log.resumed_at();
  ++at.step;
  at.elapsed_s = 1;
  log.log_step(at, {.loss = 1, .grad_norm = 1, .learning_rate = 1});
  log.log_eval(at, {.loss = 1, .runtime_s = 1, .samples = 1, .batches = 1});
  log.finish(at, {.train_loss = 1, .runtime_s = 1, .samples = 1});
  log.write_eval_results();
  log.write_state(folder, at);
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const FuzzFolder output("tune_run_log_fuzz"), checkpoint("tune_run_log_fuzz_checkpoint");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t split = std::min(text.find('\0'), size);
  const FuzzFile state(data, split);
  checkpoint.link("trainer_state.json", state.path());
  write_file_atomic(output.path() / "trainer_log.jsonl", text.substr(std::min(split + 1, size)));
  const RunFacts facts{.output_dir = output.path(), .max_steps = 10, .early_stopping_patience = 2};
  try {
    RunLog log(facts, checkpoint.path());
    go_on(log, output.path());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDataCorrupt) __builtin_trap();
    return 0;
  }
  try {
    const RunLog again(facts, output.path());
    if (again.history().empty()) __builtin_trap();
  } catch (const Error&) {
    __builtin_trap();  // what was written must be readable
  }
  return 0;
}
