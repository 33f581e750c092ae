#include "moerge/export/write.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "moerge/base/error.h"
#include "moerge/base/random.h"
#include "moerge/tensor/convert.h"
#include "moerge/testing/llama_quantizer.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

using testing::TempDir;

constexpr int64_t kHidden = 256, kFfn = 256, kVocab = 96, kHeads = 8, kKvHeads = 2, kLayers = 2;

// A llama of two layers as a plan over one file of random bfloat16, with as many experts as wished (0:
// dense).
class TinyExport {
 public:
  explicit TinyExport(const TempDir& dir, int64_t experts) : experts_(experts) {
    describe();
    list();
    write(dir / "weights.bin");
  }

  const ExportPlan& plan() const { return export_; }

  Importance importance() const {
    Importance out;
    const RandomStream stream(7, "importance");
    uint64_t n = 0;
    for (const ExportTensor& tensor : export_.tensors) {
      if (tensor.spec.dtype == DType::f32) continue;
      const int64_t matrices = tensor.spec.shape.size() == 3 ? tensor.spec.shape[0] : 1;
      std::vector<float>& values = out.tensors[tensor.spec.name];
      for (int64_t i = 0; i < matrices * tensor.columns; i++) {
        const float x = stream.normal(n++);
        values.push_back(x * x + 0.01f);
      }
    }
    out.chunks = 3;
    return out;
  }

 private:
  void describe() {
    GgufMetadata& keys = export_.metadata;
    keys.set("general.architecture", std::string("llama"));
    keys.set("general.quantization_version", uint32_t{2});
    keys.set("llama.block_count", static_cast<uint32_t>(kLayers));
    keys.set("llama.context_length", uint32_t{128});
    keys.set("llama.embedding_length", static_cast<uint32_t>(kHidden));
    keys.set("llama.feed_forward_length", static_cast<uint32_t>(kFfn));
    keys.set("llama.attention.head_count", static_cast<uint32_t>(kHeads));
    keys.set("llama.attention.head_count_kv", static_cast<uint32_t>(kKvHeads));
    keys.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (experts_ == 0) return;
    keys.set("llama.expert_count", static_cast<uint32_t>(experts_));
    keys.set("llama.expert_used_count", uint32_t{2});
  }

  void add(std::string name, Shape shape, DType dtype = DType::bf16, int64_t rotary_heads = 0) {
    ExportTensor& tensor = export_.tensors.emplace_back();
    tensor.columns = shape.back();
    tensor.rotary_heads = rotary_heads;
    tensor.spec = {std::move(name), dtype, std::move(shape)};
  }

  // In llama.cpp's order.
  void list() {
    add("output.weight", {kVocab, kHidden});
    add("output_norm.weight", {kHidden}, DType::f32);
    add("token_embd.weight", {kVocab, kHidden});
    for (int64_t layer = 0; layer < kLayers; layer++) {
      const auto name = [&](const char* what) { return fmt::format("blk.{}.{}.weight", layer, what); };
      const int64_t kv = kHidden / kHeads * kKvHeads;
      add(name("attn_k"), {kv, kHidden}, DType::bf16, kKvHeads);
      add(name("attn_norm"), {kHidden}, DType::f32);
      add(name("attn_output"), {kHidden, kHidden});
      add(name("attn_q"), {kHidden, kHidden}, DType::bf16, kHeads);
      add(name("attn_v"), {kv, kHidden});
      if (experts_ > 0) {
        add(name("ffn_down_exps"), {experts_, kHidden, kFfn});
        add(name("ffn_gate_exps"), {experts_, kFfn, kHidden});
        add(name("ffn_gate_inp"), {experts_, kHidden}, DType::f32);
        add(name("ffn_norm"), {kHidden}, DType::f32);
        add(name("ffn_up_exps"), {experts_, kFfn, kHidden});
      } else {
        add(name("ffn_down"), {kHidden, kFfn});
        add(name("ffn_gate"), {kFfn, kHidden});
        add(name("ffn_norm"), {kHidden}, DType::f32);
        add(name("ffn_up"), {kFfn, kHidden});
      }
    }
  }

  // One step a matrix, as the per-expert layout of a checkpoint has them.
  void write(const std::filesystem::path& file) {
    std::vector<std::byte> bytes;
    std::vector<std::pair<size_t, Shape>> matrices;
    for (size_t t = 0; t < export_.tensors.size(); t++) {
      const Shape& shape = export_.tensors[t].spec.shape;
      const bool stacked = shape.size() == 3;
      for (int64_t e = 0; e < (stacked ? shape[0] : 1); e++)
        matrices.push_back({t, stacked ? Shape{shape[1], shape[2]} : shape});
    }
    std::vector<int64_t> offsets;
    for (size_t m = 0; m < matrices.size(); m++) {
      const RandomStream stream(1, std::to_string(m));
      std::vector<float> values(static_cast<size_t>(element_count(matrices[m].second)));
      for (size_t i = 0; i < values.size(); i++) values[i] = 0.02f * stream.normal(i);
      offsets.push_back(std::ssize(bytes));
      bytes.resize(bytes.size() + values.size() * 2);
      from_f32(values, DType::bf16, std::span(bytes).last(values.size() * 2));
    }
    write_file(file, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    file_ = std::make_unique<MappedFile>(file);
    plan_.steps.reserve(matrices.size());
    for (size_t m = 0; m < matrices.size(); m++) {
      const TensorSpec spec = {"matrix " + std::to_string(m), DType::bf16, matrices[m].second};
      stored_.push_back({spec, file_.get(), offsets[m]});
      plan_.steps.push_back({spec, Concat{{{.source = &stored_.back(), .noise_stream = {}}}}});
      ExportTensor& tensor = export_.tensors[matrices[m].first];
      tensor.slices.push_back({&plan_.steps.back(), 0, spec.elements() / tensor.columns});
      export_.parameters.total += spec.elements();
    }
    export_.plan = &plan_;
  }

  int64_t experts_;
  std::unique_ptr<MappedFile> file_;
  std::deque<StoredTensor> stored_;
  Plan plan_;
  ExportPlan export_;
};

const FileType& type_named(std::string_view name) { return *parse_file_types(name).front(); }

std::filesystem::path export_as(const TinyExport& tiny, std::string_view type,
                                const std::filesystem::path& path, const ExportOptions& options = {},
                                int threads = 2) {
  const std::vector<OutputFile> files = {plan_output(tiny.plan(), type_named(type), path, options)};
  write_outputs(tiny.plan(), files, options, {.threads = threads});
  return path;
}

// Every tensor's type, shape and bytes.
void expect_equal_tensors(const std::filesystem::path& ours, const std::filesystem::path& theirs,
                          std::string_view what) {
  const MappedFile a(ours), b(theirs);
  const GgufHeader x = parse_gguf(a.bytes(), "ours"), y = parse_gguf(b.bytes(), "theirs");
  ASSERT_EQ(x.tensors.size(), y.tensors.size()) << what;
  for (size_t i = 0; i < x.tensors.size(); i++) {
    const TensorSpec &p = x.tensors[i].spec, &q = y.tensors[i].spec;
    ASSERT_EQ(p.name, q.name) << what;
    ASSERT_EQ(info(p.dtype).gguf, info(q.dtype).gguf) << what << " " << p.name;
    ASSERT_EQ(p.shape, q.shape) << what << " " << p.name;
    const auto s =
        a.bytes().subspan(static_cast<size_t>(x.tensors[i].offset), static_cast<size_t>(p.bytes()));
    const auto t =
        b.bytes().subspan(static_cast<size_t>(y.tensors[i].offset), static_cast<size_t>(q.bytes()));
    ASSERT_TRUE(std::ranges::equal(s, t)) << what << " " << p.name;
  }
  for (const char* key : {"general.file_type", "general.quantization_version"})
    EXPECT_EQ(x.metadata.integer(key), y.metadata.integer(key)) << what;
}

// The direct way against llama.cpp's: bfloat16 first, then its quantiser.
void compare_with_llama(const TinyExport& tiny, const TempDir& dir, std::string_view type_name,
                        bool weighed) {
  const FileType& type = type_named(type_name);
  const Importance importance = tiny.importance();
  ExportOptions options;
  if (weighed) options.importance = &importance;
  export_as(tiny, type.name, dir / "ours.gguf", options);
  testing::quantize_with_llama(dir / "whole.gguf", dir / "theirs.gguf", type.id,
                               weighed ? importance.tensors : decltype(importance.tensors)());
  expect_equal_tensors(dir / "ours.gguf", dir / "theirs.gguf", type.name);
}

TEST(ExportWrite, EveryTypeIsWhatLlamaCppMakes) {
  const TempDir dir;
  const TinyExport tiny(dir, 0);
  export_as(tiny, "bf16", dir / "whole.gguf");
  for (const FileType& type : file_types())
    compare_with_llama(tiny, dir, type.name, type.summary.find("wants") != std::string_view::npos);
  for (const char* type : {"q4_0", "q4_k_m", "iq3_m", "iq4_xs"}) compare_with_llama(tiny, dir, type, true);
}

TEST(ExportWrite, StackedExpertsAreWhatLlamaCppMakes) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  export_as(tiny, "bf16", dir / "whole.gguf");
  for (const char* type : {"f16", "q8_0", "q4_k_m", "mxfp4_moe"}) compare_with_llama(tiny, dir, type, false);
  for (const char* type : {"q4_k_m", "iq3_xxs", "q2_k_s"}) compare_with_llama(tiny, dir, type, true);
}

TEST(ExportWrite, SeveralTypesAtOnceAndAnyNumberOfThreads) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  const std::vector<OutputFile> files = {plan_output(tiny.plan(), type_named("q8_0"), dir / "a.gguf", {}),
                                         plan_output(tiny.plan(), type_named("q4_k_s"), dir / "b.gguf", {}),
                                         plan_output(tiny.plan(), type_named("bf16"), dir / "c.gguf", {})};
  write_outputs(tiny.plan(), files, {}, {.threads = 3});
  for (const auto& [type, file] : {std::pair("q8_0", "a.gguf"), {"q4_k_s", "b.gguf"}, {"bf16", "c.gguf"}}) {
    export_as(tiny, type, dir / "alone.gguf", {}, 1);
    EXPECT_EQ(read_file(dir / file, 1 << 24), read_file(dir / "alone.gguf", 1 << 24)) << type;
  }
}

TEST(ExportWrite, RotaryRowsChangePlacesInsideTheirHead) {
  const TempDir dir;
  const TinyExport tiny(dir, 0);
  const MappedFile file(export_as(tiny, "bf16", dir / "x.gguf"));
  const GgufHeader header = parse_gguf(file.bytes(), "x");
  for (size_t i = 0; i < header.tensors.size(); i++) {
    const ExportTensor& tensor = tiny.plan().tensors[i];
    if (tensor.rotary_heads == 0) continue;
    const int64_t size = tensor.rows() / tensor.rotary_heads;
    const TensorView source = std::get<Concat>(tensor.slices[0].step->how).parts[0].source->view();
    const auto row_of = [&](std::span<const std::byte> bytes, int64_t row) {
      const auto length = static_cast<size_t>(tensor.columns * 2);
      return bytes.subspan(static_cast<size_t>(row) * length, length);
    };
    const auto written = file.bytes().subspan(static_cast<size_t>(header.tensors[i].offset));
    for (int64_t head = 0; head < tensor.rotary_heads; head++)
      for (int64_t pair = 0; pair < size / 2; pair++)
        for (int64_t second = 0; second < 2; second++)
          ASSERT_TRUE(std::ranges::equal(row_of(written, head * size + 2 * pair + second),
                                         row_of(source.bytes, head * size + second * (size / 2) + pair)));
  }
}

TEST(ExportWrite, PartsHoldEverythingOnce) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  const auto whole = export_as(tiny, "q8_0", dir / "whole.gguf");
  const ExportOptions options = {.max_part_bytes = 300'000};
  const OutputFile file = plan_output(tiny.plan(), type_named("q8_0"), dir / "x.gguf", options);
  ASSERT_GT(file.parts.size(), 2u);
  EXPECT_EQ(file.parts[0].path.filename(), fmt::format("x-00001-of-{:05}.gguf", file.parts.size()));
  write_outputs(tiny.plan(), std::span(&file, 1), options, {.threads = 2});
  std::map<std::string, std::string> found;
  for (size_t p = 0; p < file.parts.size(); p++) {
    const MappedFile part(file.parts[p].path);
    const GgufHeader header = parse_gguf(part.bytes(), "part");
    EXPECT_EQ(std::get<uint16_t>(*header.metadata.find("split.no")), p);
    EXPECT_EQ(std::get<uint16_t>(*header.metadata.find("split.count")), file.parts.size());
    EXPECT_EQ(std::get<int32_t>(*header.metadata.find("split.tensors.count")), std::ssize(file.specs));
    EXPECT_EQ(header.metadata.find("general.architecture") != nullptr, p == 0);
    for (const GgufTensor& tensor : header.tensors) {
      const auto bytes =
          part.bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.spec.bytes()));
      found[tensor.spec.name] = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
  }
  const MappedFile all(whole);
  const GgufHeader header = parse_gguf(all.bytes(), "whole");
  ASSERT_EQ(found.size(), header.tensors.size());
  for (const GgufTensor& tensor : header.tensors) {
    const auto bytes =
        all.bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.spec.bytes()));
    EXPECT_EQ(found[tensor.spec.name],
              (std::string{reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  }
}

TEST(ExportWrite, AStoppedRunLeavesNothing) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  write_file(dir / "x.gguf", "old");
  const OutputFile file = plan_output(tiny.plan(), type_named("q4_0"), dir / "x.gguf", {});
  int calls = 0;
  const auto stop = [&] {
    if (++calls == 5) fail(ErrorKind::input, "stopped");
  };
  EXPECT_THROW(write_outputs(tiny.plan(), std::span(&file, 1), {}, {.threads = 1, .check = stop}), Error);
  EXPECT_EQ(read_file(dir / "x.gguf", 10), "old");
  EXPECT_FALSE(std::filesystem::exists(dir / ".x.gguf.moerge-partial"));
}

TEST(ExportWrite, ASourceThatChangesIsNoticed) {
  const TempDir dir;
  const TinyExport tiny(dir, 0);
  const OutputFile file = plan_output(tiny.plan(), type_named("bf16"), dir / "out.gguf", {});
  const auto change = [&] { std::filesystem::last_write_time(dir / "weights.bin", {}); };
  EXPECT_THROW(write_outputs(tiny.plan(), std::span(&file, 1), {}, {.threads = 1, .check = change}), Error);
  EXPECT_FALSE(std::filesystem::exists(dir / "out.gguf"));
}

// Tensors at the same offsets, modulo a block, as their bytes in the source, where it can be; and nothing
// else is another.
TEST(ExportWrite, BlocksCanBeShared) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  export_as(tiny, "bf16", dir / "plain.gguf");
  ExportOptions options;
  options.sharing = {.block = 4096, .possible = [](const MappedFile&) { return true; }};
  const OutputFile file = plan_output(tiny.plan(), type_named("bf16"), dir / "shared.gguf", options);
  ASSERT_GT(file.shared, file.bytes() / 10);
  write_outputs(tiny.plan(), std::span(&file, 1), options, {.threads = 2});
  expect_equal_tensors(dir / "shared.gguf", dir / "plain.gguf", "shared");
  const MappedFile source(dir / "weights.bin"), shared(dir / "shared.gguf");
  int64_t found = 0;  // blocks of the result that stand at such a place of the source
  for (size_t at = 0; at + 4096 <= shared.bytes().size(); at += 4096)
    for (size_t from = 0; from + 4096 <= source.bytes().size(); from += 4096)
      if (std::ranges::equal(shared.bytes().subspan(at, 4096), source.bytes().subspan(from, 4096))) {
        found += 4096;
        break;
      }
  EXPECT_GE(found, file.shared);

  options.sharing.possible = [](const MappedFile&) { return false; };
  EXPECT_EQ(plan_output(tiny.plan(), type_named("bf16"), dir / "x.gguf", options).shared, 0);
}

TEST(ExportWrite, AnImportanceMatrixMustFit) {
  const TempDir dir;
  const TinyExport tiny(dir, 3);
  const auto refuse = [&](const Importance* importance, std::string_view type) {
    EXPECT_THROW(plan_output(tiny.plan(), type_named(type), dir / "x.gguf", {.importance = importance}),
                 Error);
  };
  refuse(nullptr, "iq2_xs");
  Importance lacking = tiny.importance();
  lacking.tensors.erase("blk.1.ffn_up_exps.weight");
  refuse(&lacking, "iq2_xs");
  EXPECT_NO_THROW(plan_output(tiny.plan(), type_named("q4_k_m"), dir / "x.gguf", {.importance = &lacking}));
  Importance other = tiny.importance();
  other.tensors["blk.1.ffn_up_exps.weight"].pop_back();
  refuse(&other, "q4_k_m");
}

TEST(FileTypes, AreFoundInAnyCaseAndNamedWhenMisspelt) {
  const auto types = parse_file_types(" q4_k_m, Q5_K ,q4_K_M f16");
  ASSERT_EQ(types.size(), 3u);
  EXPECT_EQ(types[0]->name, "Q4_K_M");
  EXPECT_EQ(types[1]->name, "Q5_K_M");
  EXPECT_EQ(types[2]->name, "F16");
  try {
    parse_file_types("q4_k_n");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("did you mean Q4_K_"), std::string::npos) << error.message();
  }
  EXPECT_THROW(parse_file_types(" , "), Error);
}

}  // namespace
}  // namespace moerge
