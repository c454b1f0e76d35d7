#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "load/popularity.h"
#include "load/stress_grid.h"
#include "load/stress_plots.h"
#include "load/stress_result.h"

namespace polylora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<std::string> names(const std::vector<StressCell>& cells) {
  std::vector<std::string> result;
  for (const StressCell& cell : cells) result.push_back(cell.name());
  return result;
}

StressCell cell(Popularity popularity, int adapters, int concurrency) {
  StressCell cell;
  cell.popularity = popularity;
  cell.adapters = adapters;
  cell.ranks = "r16";
  cell.concurrency = concurrency;
  return cell;
}

TEST(Popularity, AssignsAsNamed) {
  EXPECT_THAT(assign_adapters(Popularity::kOne, 5, 4, 2, 0), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(assign_adapters(Popularity::kIdentical, 3, 3, 4, 0), ElementsAre(1, 1, 1));
  EXPECT_THAT(assign_adapters(Popularity::kDistinct, 4, 6, 0, 0), ElementsAre(0, 1, 2, 3, 0, 1));
  EXPECT_THAT(assign_adapters(Popularity::kDistinct, 100, 3, 1, 0), ElementsAre(3, 4, 5));
}

TEST(Popularity, DrawsFromItsDistribution) {
  const auto counts = [](Popularity popularity) {
    std::map<size_t, double> result;
    for (const size_t chosen : assign_adapters(popularity, 4, 25'000, 0, 9)) result[chosen] += 1;
    return result;
  };
  for (const auto& [chosen, count] : counts(Popularity::kUniform)) EXPECT_NEAR(count, 6250, 300) << chosen;
  for (const auto& [chosen, count] : counts(Popularity::kZipf))
    EXPECT_NEAR(count, 12'000.0 / static_cast<double>(chosen + 1), 300) << chosen;
  EXPECT_EQ(assign_adapters(Popularity::kZipf, 9, 50, 1, 2), assign_adapters(Popularity::kZipf, 9, 50, 1, 2));
  EXPECT_NE(assign_adapters(Popularity::kZipf, 9, 50, 1, 2), assign_adapters(Popularity::kZipf, 9, 50, 2, 2));
}

TEST(Popularity, RefusesUnknownNames) {
  EXPECT_EQ(parse_popularity("--popularity", "zipf"), Popularity::kZipf);
  EXPECT_THROW(parse_popularity("--popularity", "skewed"), Error);
}

TEST(StressCells, ASingleAdapterIsOneCell) {
  StressGrid grid;
  grid.popularity = {Popularity::kOne, Popularity::kDistinct};
  grid.adapters = {1, 4};
  grid.ranks = {"r16"};
  grid.concurrency = {1, 16};
  EXPECT_THAT(names(stress_cells(grid)),
              ElementsAre("one/1/r16/c1", "one/1/r16/c16", "distinct/4/r16/c1", "distinct/4/r16/c16"));
}

TEST(StressCells, RanksMatterOnlyWhereAdaptersAreMadeUp) {
  StressGrid grid;
  grid.popularity = {Popularity::kUniform};
  grid.adapters = {2, 4};
  grid.ranks = {"r8", "mixed"};
  grid.concurrency = {1};
  grid.given = 3;
  grid.churn = true;
  EXPECT_THAT(names(stress_cells(grid)),
              ElementsAre("uniform/2/given/c1", "uniform/2/given/c1/churn", "uniform/4/r8/c1",
                          "uniform/4/r8/c1/churn", "uniform/4/mixed/c1", "uniform/4/mixed/c1/churn"));
}

TEST(CellLimit, TheLastThatMatchesCounts) {
  const std::vector<CellLimit> limits = {parse_cell_limit("--min-ratio", "0.5"),
                                         parse_cell_limit("--min-ratio", "distinct/*/r16/*=0.6"),
                                         parse_cell_limit("--min-ratio", "distinct/16/r16/c16=0.65")};
  EXPECT_EQ(*limit_of(limits, cell(Popularity::kOne, 1, 16)), 0.5);
  EXPECT_EQ(*limit_of(limits, cell(Popularity::kDistinct, 4, 16)), 0.6);
  EXPECT_EQ(*limit_of(limits, cell(Popularity::kDistinct, 16, 16)), 0.65);
  StressCell churning = cell(Popularity::kDistinct, 16, 16);
  churning.churn = true;
  EXPECT_EQ(*limit_of(limits, churning), 0.5);
  EXPECT_EQ(limit_of({}, churning), nullptr);
}

TEST(CellLimit, RefusesWhatNoCellMatches) {
  for (const char* text : {"", "x", "=1", "a=", "a=-1", "a=nan", "1x"})
    EXPECT_THROW(parse_cell_limit("--min-ratio", text), Error) << text;
  const std::vector<StressCell> cells = {cell(Popularity::kOne, 1, 16)};
  check_limits("--min-ratio", {parse_cell_limit("--min-ratio", "one/1/r16/*=1")}, cells);
  EXPECT_THROW(check_limits("--min-ratio", {parse_cell_limit("--min-ratio", "one/1/r16=1")}, cells), Error);
}

/// `tokens` within `seconds` from each of the adapters.
StressSide side(const std::vector<std::string>& models, int tokens, double seconds) {
  StressSide result;
  for (const std::string& model : models) {
    RequestRecord& record = result.load.records.emplace_back();
    record.model = model;
    record.success = true;
    record.output_tokens = tokens;
    record.ttft_s = seconds / 2;
    record.latency_s = seconds;
    record.itl_s = {seconds / 2};
  }
  result.load.duration_s = seconds;
  return result;
}

StressRound make_round(double merged_seconds, double adapter_seconds) {
  return {side({"merged", "merged"}, 10, merged_seconds), side({"a", "b"}, 10, adapter_seconds)};
}

TEST(SummarizeCell, RatioIsTheMedianOfTheRounds) {
  const std::vector<StressRound> rounds = {make_round(1, 2), make_round(3, 4), make_round(1, 1)};
  const CellResult result = summarize_cell(cell(Popularity::kDistinct, 2, 2), rounds);
  EXPECT_THAT(result.ratios, ElementsAre(0.5, 0.75, 1));
  EXPECT_DOUBLE_EQ(result.ratio.median, 0.75);
  EXPECT_DOUBLE_EQ(result.ratio.smallest, 0.5);
  EXPECT_DOUBLE_EQ(result.ratio.largest, 1);
  EXPECT_DOUBLE_EQ(result.merged.output_throughput, 20);
  EXPECT_DOUBLE_EQ(result.adapters.ttft_p50_ms, 1000);
  EXPECT_DOUBLE_EQ(result.fairness, 1);
}

TEST(AdapterFairness, IsJainsIndexOfSpeedsNotOfPopularity) {
  const auto index = [](const StressSide& side) {
    std::vector<const RequestRecord*> records;
    for (const RequestRecord& record : side.load.records) records.push_back(&record);
    return adapter_fairness(records);
  };
  EXPECT_DOUBLE_EQ(index(side({"a", "a", "a", "b"}, 10, 1)), 1);
  StressSide uneven = side({"a", "b"}, 10, 1);
  uneven.load.records[1].output_tokens = 30;  // speeds 1 and 3: 16 / (2 · 10)
  EXPECT_DOUBLE_EQ(index(uneven), 0.8);
  EXPECT_DOUBLE_EQ(index({}), 1);
}

TEST(StressViolations, NameCellValueAndLimit) {
  std::vector<StressRound> rounds = {make_round(1, 2)};
  StressLimits limits;
  limits.min_ratio = {parse_cell_limit("--min-ratio", "0.65")};
  limits.max_ttft_p99_ms = {parse_cell_limit("--max-ttft-p99-ms", "999")};
  const StressCell where = cell(Popularity::kDistinct, 2, 2);
  std::vector<CellResult> results = {summarize_cell(where, rounds)};
  EXPECT_THAT(stress_violations(results, limits),
              ElementsAre("distinct/2/r16/c2: ratio 0.500 is below 0.650",
                          "distinct/2/r16/c2: TTFT p99 1000.0 ms is above 999.0 ms"));
  limits.min_ratio[0].value = 0.5;
  limits.max_ttft_p99_ms[0].value = 1000;
  EXPECT_TRUE(stress_violations(results, limits).empty());

  rounds[0].adapters.load.records[0].success = false;
  rounds[0].adapters.load.records[0].error = "HTTP 404: gone";
  SideRecord& unload = rounds[0].adapters.load.side.emplace_back();
  unload.error = "HTTP 500: stuck";
  results = {summarize_cell(where, rounds)};
  EXPECT_THAT(
      stress_violations(results, {}),
      ElementsAre(
          "distinct/2/r16/c2: 1 requests to adapters failed, the first with: HTTP 404: gone",
          "distinct/2/r16/c2: 1 loads and unloads of adapters failed, the first with: HTTP 500: stuck"));
}

StressReport report() {
  StressReport report;
  report.facts = {{"base", "<model> & \"more\""}};
  for (const int concurrency : {1, 16}) {
    const std::vector<StressRound> rounds = {make_round(1, 2), make_round(1, 1)};
    report.results.push_back(summarize_cell(cell(Popularity::kOne, 1, concurrency), rounds));
    report.results.push_back(summarize_cell(cell(Popularity::kDistinct, 4, concurrency), rounds));
    report.results.push_back(summarize_cell(cell(Popularity::kDistinct, 16, concurrency), rounds));
  }
  report.violations = {"distinct/4/r16/c1: ratio 0.1 is below 0.2"};
  return report;
}

TEST(StressPlots, ShowWhatVaries) {
  const StressReport all = report();
  const std::vector<PlotSection> sections = stress_plots(all.results);
  ASSERT_EQ(sections.size(), 4u);
  EXPECT_EQ(sections[0].plots.size(), 2u);  // by adapters, for 1 and 16 streams
  EXPECT_THAT(sections[0].plots[0].x, ElementsAre("1", "4", "16"));
  ASSERT_EQ(sections[1].plots.size(), 3u);  // by concurrency, for 1, 4 and 16 adapters
  EXPECT_EQ(sections[1].plots[1].series.size(), 2u) << "one adapter is shown beside four";
  EXPECT_THAT(sections[2].plots[0].x, ElementsAre("one", "distinct"));
  EXPECT_TRUE(stress_plots(std::span(all.results).first(1)).empty()) << "nothing varies";
}

TEST(StressHtml, IsOnePageThatLoadsNothing) {
  const std::string page = stress_html(report());
  EXPECT_THAT(page, HasSubstr("&lt;model&gt; &amp; &quot;more&quot;"));
  EXPECT_THAT(page, HasSubstr("ratio 0.1 is below 0.2"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  for (const char* reference : {"http:", "https:", "src=", "href=", "url(", "@import", "<script"})
    EXPECT_THAT(page, Not(HasSubstr(reference)));
}

TEST(StressJson, HasEveryRound) {
  const auto json = stress_json(report());
  EXPECT_EQ(json["cells"].size(), 6u);
  EXPECT_EQ(json["cells"][0]["name"], "one/1/r16/c1");
  EXPECT_EQ(json["cells"][0]["ratio"]["rounds"].dump(), "[0.5,1.0]");
  EXPECT_EQ(json["violations"].size(), 1u);
}

}  // namespace
}  // namespace polylora
