#include "tune/data/training_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "io/json_file.h"
#include "tune/data/dataset_info.h"
#include "tune/data/dataset_mix.h"
#include "tune/data/packing.h"
#include "tune/data/parallel_records.h"
#include "tune/data/records.h"
#include "tune/data/tokenize.h"

namespace polylora {
namespace {

/// LLaMA-Factory's preprocessing_batch_size: records are packed with others of their thousand only.
constexpr size_t kPackingBatch = 1000;

std::string describe(const DatasetInfo& info, const DatasetRecords& records) {
  std::string line = fmt::format("dataset '{}': {} records, {} used", info.name, records.in_files,
                                 records.conversations.size());
  if (records.taken != records.in_files)
    line += fmt::format(" of the {} taken (max_samples, num_samples or split)", records.taken);
  std::vector<std::string> reasons;
  int64_t dropped = 0;
  for (const auto& [reason, count] : records.dropped) {
    reasons.push_back(fmt::format("{} {}", count, reason));
    dropped += count;
  }
  if (dropped > 0) line += fmt::format("; {} dropped: {}", dropped, fmt::join(reasons, ", "));
  return line;
}

/// What `make` returns; an Error of it (a chat template that refuses the conversation) gets the record's
/// place.
template <typename Make>
auto at_row(const Conversation& record, Make&& make) {
  try {
    return make();
  } catch (const Error& error) {
    fail(error.code(), "{}: row {}: {}", record.file, record.row, error.what());
  }
}

/// All that is made of one sequence of records.
struct Tokenized {
  std::vector<Example> examples;
  std::vector<PreferencePair> pairs;
};

class DataLoader {
 public:
  DataLoader(const TrainConfig& config, const Tokenizer& tokenizer, const ModelText& model,
             const ProgressFn& progress)
      : config_(config), tokenizer_(tokenizer), model_(model), progress_(progress) {
    if (config.cutoff_len < 1) fail(ErrorCode::kInvalidArgument, "cutoff_len must be at least 1");
    if (config.stage != Stage::kPt) encoder_ = make_turn_encoder(config, tokenizer, model);
    if (config.stage != Stage::kPt && config.template_name.empty())
      report_.emplace_back(model.chat_template.empty()
                               ? "no template is given and the model has none: messages are used as they are"
                               : "no template is given: the model's own chat template is used");
    options_.cutoff_len = config.cutoff_len;
    options_.train_on_prompt = config.train_on_prompt;
    options_.mask_history = config.mask_history;
    // The peer leaves room for one padding token in packed rows.
    if (packs_examples()) options_.cutoff_len -= 1;
    if (options_.cutoff_len < 1)
      fail(ErrorCode::kInvalidArgument, "packing needs a cutoff_len of at least 2");
    if (config.stage == Stage::kPt) find_document_tokens();
  }

  TrainingData load() {
    TrainingData data;
    std::vector<Conversation> train = mixed(config_.dataset);
    if (config_.dataset.empty() && config_.eval_dataset.empty())
      fail(ErrorCode::kInvalidArgument, "no dataset is named (dataset: …)");
    if (config_.val_size > 0.0) add_eval(data, "", split_off(train));
    if (config_.eval_on_each_dataset) {
      for (const std::string& name : config_.eval_dataset) add_eval(data, name, mixed({name}));
    } else if (!config_.eval_dataset.empty()) {
      add_eval(data, "", mixed(config_.eval_dataset));
    }
    if (!config_.dataset.empty()) {
      Tokenized tokens = tokenize(train, "tokenising the training data");
      if (tokens.examples.empty() && tokens.pairs.empty()) fail_empty("dataset", config_.dataset);
      data.train = std::move(tokens.examples);
      data.train_pairs = std::move(tokens.pairs);
    }
    data.report = std::move(report_);
    return data;
  }

 private:
  bool packs_examples() const {
    return config_.stage == Stage::kSft && (config_.packing || config_.neat_packing);
  }

  void find_document_tokens() {
    ChatFormat format;
    if (!config_.template_name.empty()) format = find_chat_format(config_.template_name);
    documents_.eos_token = format.name == "llama3" ? "<|end_of_text|>" : eos_token_of(format, model_);
    if (documents_.eos_token.empty() || !tokenizer_.token_to_id(documents_.eos_token)) {
      fail(ErrorCode::kInvalidArgument,
           "stage pt ends documents with the eos token, which the model does not have; add eos_token to its "
           "tokenizer_config.json");
    }
    if (model_.add_bos_token) documents_.bos_token = model_.bos_token;
  }

  [[noreturn]] void fail_empty(std::string_view key, const std::vector<std::string>& names) const {
    const std::string_view advice = config_.stage == Stage::kPt
                                        ? "the text is shorter than one block; lower cutoff_len or add text"
                                        : "see what was dropped, and check formatting and tags";
    fail(ErrorCode::kInvalidArgument, "{} {}: no usable example: {} ({})", key, fmt::join(names, ","), advice,
         fmt::join(report_, "; "));
  }

  std::vector<Conversation> mixed(const std::vector<std::string>& names) {
    std::vector<std::vector<Conversation>> datasets;
    std::vector<size_t> sizes;
    if (names.empty()) return {};
    for (const DatasetInfo& info : read_dataset_info(config_.dataset_dir, names)) {
      report_.insert(report_.end(), info.notices.begin(), info.notices.end());
      DatasetRecords records = read_records(info, config_.stage, config_.max_samples, config_.seed);
      report_.push_back(describe(info, records));
      sizes.push_back(records.conversations.size());
      datasets.push_back(std::move(records.conversations));
    }
    if (datasets.size() == 1) return std::move(datasets[0]);
    std::vector<Conversation> result;
    for (const DatasetPosition& at :
         mix_datasets(sizes, config_.mix_strategy, config_.interleave_probs, config_.seed))
      result.push_back(datasets[at.dataset][at.record]);
    return result;
  }

  /// Takes the held-out part out of `train`.
  std::vector<Conversation> split_off(std::vector<Conversation>& train) {
    if (train.empty()) fail_empty("dataset", config_.dataset);
    std::vector<bool> held(train.size());
    for (const size_t i : held_out(train.size(), config_.val_size, config_.seed)) held[i] = true;
    std::vector<Conversation> kept, taken;
    for (size_t i = 0; i < train.size(); ++i) (held[i] ? taken : kept).push_back(std::move(train[i]));
    train = std::move(kept);
    report_.push_back(fmt::format("val_size: {} records are held out for evaluation, {} are trained on",
                                  taken.size(), train.size()));
    return taken;
  }

  void add_eval(TrainingData& data, const std::string& name, const std::vector<Conversation>& records) {
    Tokenized tokens = tokenize(records, "tokenising the evaluation data");
    if (tokens.examples.empty() && tokens.pairs.empty())
      fail_empty("eval_dataset", name.empty() ? config_.eval_dataset : std::vector<std::string>{name});
    data.eval.push_back({name, std::move(tokens.examples), std::move(tokens.pairs)});
  }

  Tokenized tokenize(const std::vector<Conversation>& records, std::string_view what) {
    Tokenized result;
    if (config_.stage == Stage::kDpo) {
      result.pairs.resize(records.size());
      for_each_record(records.size(), config_.threads, what, progress_, [&](size_t i) {
        result.pairs[i] = at_row(records[i], [&] { return tokenize_pair(*encoder_, records[i], options_); });
      });
      return result;
    }
    std::vector<Example> examples(records.size());
    for_each_record(records.size(), config_.threads, what, progress_, [&](size_t i) {
      examples[i] = at_row(records[i], [&] { return tokenize_one(records[i]); });
    });
    if (config_.stage == Stage::kPt)
      result.examples = config_.packing ? blocks_of(examples) : std::move(examples);
    else
      result.examples = packs_examples() ? packed(std::move(examples)) : std::move(examples);
    drop_if(result.examples, "without any token", [](const Example& e) { return e.input_ids.empty(); });
    return result;
  }

  Example tokenize_one(const Conversation& record) const {
    if (config_.stage != Stage::kPt) return tokenize_conversation(*encoder_, record, options_);
    if (!config_.packing)
      return tokenize_document(tokenizer_, record.prompt[0].content, documents_, options_);
    TokenizeOptions whole;
    whole.cutoff_len = std::numeric_limits<int64_t>::max();
    return tokenize_document(tokenizer_, record.prompt[0].content, {"", documents_.eos_token}, whole);
  }

  template <typename Condition>
  void drop_if(std::vector<Example>& examples, std::string_view what, Condition&& condition) {
    const auto end = std::remove_if(examples.begin(), examples.end(), condition);
    const auto count = std::distance(end, examples.end());
    examples.erase(end, examples.end());
    if (count > 0) report_.push_back(fmt::format("{} examples dropped: {}", count, what));
  }

  static std::span<const Example> batch(const std::vector<Example>& examples, size_t begin) {
    return std::span(examples).subspan(begin, std::min(kPackingBatch, examples.size() - begin));
  }

  std::vector<Example> packed(std::vector<Example> examples) {
    const auto capacity = static_cast<size_t>(options_.cutoff_len);
    std::vector<Example> rows;
    std::vector<Example> fitting;
    size_t count = 0, too_long = 0;
    for (size_t begin = 0; begin < examples.size(); begin += kPackingBatch) {
      fitting.clear();
      for (const Example& example : batch(examples, begin)) {
        if (example.input_ids.size() > capacity)
          ++too_long;
        else if (!example.input_ids.empty())
          fitting.push_back(example);
      }
      count += fitting.size();
      for (Example& row : pack_examples(fitting, capacity, config_.neat_packing))
        rows.push_back(std::move(row));
    }
    if (too_long > 0)
      report_.push_back(
          fmt::format("packing: {} examples dropped: longer than {} tokens", too_long, capacity));
    report_.push_back(
        fmt::format("packing: {} examples in {} rows of at most {} tokens", count, rows.size(), capacity));
    return rows;
  }

  std::vector<Example> blocks_of(const std::vector<Example>& documents) {
    std::vector<Example> blocks;
    for (size_t begin = 0; begin < documents.size(); begin += kPackingBatch) {
      for (Example& block : cut_blocks(batch(documents, begin), static_cast<size_t>(options_.cutoff_len))) {
        if (const auto bos = tokenizer_.token_to_id(documents_.bos_token);
            bos && !documents_.bos_token.empty())
          block.input_ids[0] = block.labels[0] = *bos;
        blocks.push_back(std::move(block));
      }
    }
    report_.push_back(fmt::format("packing: {} documents in {} blocks of {} tokens", documents.size(),
                                  blocks.size(), options_.cutoff_len));
    return blocks;
  }

  const TrainConfig& config_;
  const Tokenizer& tokenizer_;
  const ModelText& model_;
  const ProgressFn& progress_;
  std::unique_ptr<TurnEncoder> encoder_;  // none in stage pt
  TokenizeOptions options_;
  DocumentTokens documents_;
  std::vector<std::string> report_;
};

}  // namespace

TrainingData load_training_data(const TrainConfig& config, const Tokenizer& tokenizer, const ModelText& model,
                                const ProgressFn& progress) {
  return DataLoader(config, tokenizer, model, progress).load();
}

ModelText model_text(const TextAssets& assets) {
  ModelText model;
  model.chat_template = assets.chat_template;
  model.bos_token = assets.bos_token;
  model.eos_token = assets.eos_token;
  if (assets.tokenizer_config_json.empty()) return model;
  const nlohmann::json config = parse_json(assets.tokenizer_config_json, "tokenizer_config.json");
  const auto flag = config.find("add_bos_token");
  model.add_bos_token = flag != config.end() && flag->is_boolean() && flag->get<bool>();
  return model;
}

}  // namespace polylora
