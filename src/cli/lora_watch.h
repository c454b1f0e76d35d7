// --lora-watch: serve while training. A thread that sleeps until a watched folder changes and then lets
// LoraPublisher look.
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "cli/folder_events.h"
#include "cli/lora_publisher.h"

namespace polylora {

/// Each item is DIR or NAME=DIR (cut at the first `=`, unless a `/` comes before it); NAME defaults to the
/// folder's name. Empty items are skipped; `~` stands for the home folder. Throws kInvalidArgument for a DIR
/// that is a file, an empty name, or a name given twice or in
/// `served_names`.
std::vector<WatchedFolder> parse_lora_watch(const std::vector<std::string>& items,
                                            const std::vector<std::string>& served_names);

/// Runs from construction to destruction. Nobody else may use `publisher` meanwhile.
class LoraWatch {
 public:
  explicit LoraWatch(LoraPublisher& publisher);
  ~LoraWatch();
  LoraWatch(const LoraWatch&) = delete;
  LoraWatch& operator=(const LoraWatch&) = delete;

 private:
  void run();

  LoraPublisher& publisher_;
  FolderEvents events_;
  std::thread thread_;  // last: it uses the others
};

}  // namespace polylora
