#include "moerge/plan/manifest.h"

#include <gtest/gtest.h>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/formats/safetensors_sink.h"
#include "moerge/plan/execute.h"
#include "moerge/plan/verify_folder.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

constexpr const char* kUp = "model.layers.0.mlp.up_proj.weight";
constexpr const char* kDown = "model.layers.1.mlp.down_proj.weight";

// A folder of a copied, a converted, a stacked and a computed tensor.
class ManifestTest : public ::testing::Test {
 protected:
  ManifestTest() : one_("one", {testing::write_tiny_model(dir_, "one", 1)}) {
    testing::write_tiny_model(dir_, "two", 2);
    two_ = std::make_unique<Model>("org/two", ModelLocation{.path = dir_ / "two"});
    plan_.seed = 3;
    const Part up{.source = &one_.checkpoint.at(kUp), .noise_stream = {}};
    const Part other{.source = &two_->checkpoint.at(kUp), .noise_stream = "n", .residual_scale = 0.5};
    plan_.steps.push_back({{"copied", DType::f32, {12, 8}}, Concat{{up}}});
    plan_.steps.push_back({{"converted", DType::bf16, {8, 12}},
                           Concat{{{.source = &two_->checkpoint.at(kDown), .noise_stream = {}}}}});
    plan_.steps.push_back({{"stacked", DType::f32, {24, 8}}, Concat{{up, other}}});
    plan_.steps.push_back(
        {{"computed", DType::f32, {2}}, Fill{"rows of " + (dir_ / "two").string() + ": router", [] {
                                               return std::vector<float>{1, 2};
                                             }}});
    std::filesystem::create_directory(dir_ / "out");
    dir_.write("out/config.json", "{}");
    dir_.write("out/.hidden", "x");
    SafetensorsSink sink(dir_ / "out", plan_shards(plan_.specs(), 400), {});
    execute(plan_, sink, {.threads = 2});
  }

  Manifest make(int threads = 2) {
    const Checkpoint written(dir_ / "out");
    return make_manifest(plan_, {&one_, two_.get()}, written, {.threads = threads, .reporter = reporter_});
  }
  VerifyReport verify() { return verify_folder(dir_ / "out", make_, {.threads = 2, .reporter = reporter_}); }

  static std::string hash(const StoredTensor& tensor) {
    const std::span<const std::byte> bytes = tensor.stored_bytes();
    return sha256_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }

  TempDir dir_;
  Reporter reporter_{Verbosity::quiet};
  Model one_;
  std::unique_ptr<Model> two_;
  Plan plan_;
  Manifest make_;
};

TEST_F(ManifestTest, HashesOfEveryPart) {
  const Manifest made = make();
  const Checkpoint written(dir_ / "out");
  ASSERT_EQ(made.tensors.size(), 4u);
  for (const ManifestTensor& tensor : made.tensors) {
    EXPECT_EQ(tensor.sha256, hash(written.at(tensor.spec.name))) << tensor.spec.name;
    EXPECT_EQ(tensor.file, written.at(tensor.spec.name).file->file().path().filename());
  }
  const std::string one = hash(one_.checkpoint.at(kUp)), two = hash(two_->checkpoint.at(kUp));
  const ManifestTensor &copied = made.tensors[0], &converted = made.tensors[1], &stacked = made.tensors[2];
  EXPECT_EQ(copied.sha256, one);
  EXPECT_EQ(copied.parts[0].sha256, one);
  EXPECT_TRUE(copied.parts[0].change.is_null());
  EXPECT_EQ(converted.parts[0].model, "org/two");
  EXPECT_EQ(converted.parts[0].tensor, kDown);
  EXPECT_EQ(converted.parts[0].sha256, hash(two_->checkpoint.at(kDown)));
  EXPECT_EQ(converted.parts[0].change, Json({{"dtype", "float32"}}));
  EXPECT_EQ(stacked.parts[0].sha256, one);
  EXPECT_EQ(stacked.parts[0].written, one);
  EXPECT_EQ(stacked.parts[1].sha256, two);
  EXPECT_NE(stacked.parts[1].written, two);
  EXPECT_EQ(stacked.parts[1].change, Json({{"scale", 0.5}}));
  EXPECT_EQ(stacked.parts[1].bytes, 12 * 8 * 4);
  EXPECT_EQ(made.tensors[3].computed, "rows of org/two: router");
  // The index and config.json; nothing hidden.
  ASSERT_EQ(made.files.size(), 2u);
  EXPECT_EQ(made.files[0].name, "config.json");
  EXPECT_EQ(made.files[0].sha256, sha256_hex("{}"));
  EXPECT_EQ(manifest_text(made), manifest_text(make(1)));
}

TEST_F(ManifestTest, TextAndBack) {
  const Manifest made = make();
  dir_.write(std::string("out/") + kManifestName, manifest_text(made));
  const Manifest read = read_manifest(dir_ / "out");
  ASSERT_EQ(read.tensors.size(), made.tensors.size());
  EXPECT_EQ(read.moerge_version, made.moerge_version);
  for (size_t i = 0; i < read.tensors.size(); i++) {
    const ManifestTensor &a = read.tensors[i], &b = made.tensors[i];
    EXPECT_EQ(a.spec.name, b.spec.name);
    EXPECT_EQ(a.spec.dtype, b.spec.dtype);
    EXPECT_EQ(a.spec.shape, b.spec.shape);
    EXPECT_EQ(a.file, b.file);
    EXPECT_EQ(a.sha256, b.sha256);
    EXPECT_EQ(a.sources(), b.sources());
    for (size_t p = 0; p < a.parts.size(); p++) {
      EXPECT_EQ(a.parts[p].sha256, b.parts[p].sha256);
      EXPECT_EQ(a.parts[p].written, b.parts[p].written);
    }
  }
  EXPECT_EQ(read.files.size(), made.files.size());
}

TEST_F(ManifestTest, FolderIsCompared) {
  make_ = make();
  VerifyReport report = verify();
  EXPECT_TRUE(report.problems.empty()) << report.problems[0].text;
  EXPECT_TRUE(report.notes.empty());
  EXPECT_EQ(report.right, 4);
  EXPECT_EQ(report.bytes, 384 + 192 + 768 + 8);

  std::filesystem::path file = dir_ / "out" / make_.tensors[2].file;
  std::string content = read_file(file, 1 << 20);
  content[content.size() - 400] ^= 1;  // of the first of two parts of 384 bytes
  write_file(file, content);
  report = verify();
  ASSERT_EQ(report.problems.size(), 1u);
  EXPECT_EQ(report.problems[0].tensors, std::vector<std::string>{"stacked"});
  EXPECT_NE(report.problems[0].text.find("part 1 of 2 (one: "), std::string::npos) << report.problems[0].text;
  EXPECT_EQ(report.problems[0].text.find("part 2 of 2"), std::string::npos) << report.problems[0].text;
  EXPECT_EQ(report.right, 3);
}

TEST_F(ManifestTest, SourcesAreCompared) {
  make_ = make();
  const auto open = [&](const std::string& name) -> std::unique_ptr<Model> {
    if (name == "one") return nullptr;
    return std::make_unique<Model>(name, ModelLocation{.path = dir_ / "two"});
  };
  VerifyReport report;
  verify_sources(make_, open, {.threads = 1, .reporter = reporter_}, report);
  EXPECT_TRUE(report.problems.empty());
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].text.find("\"one\" is not here"), std::string::npos);

  const StoredTensor& down = two_->checkpoint.at(kDown);
  std::string content = read_file(dir_ / "two/model.safetensors", 1 << 20);
  content[static_cast<size_t>(down.offset)] ^= 1;
  dir_.write("two/model.safetensors", content);
  report = {};
  verify_sources(make_, open, {.threads = 2, .reporter = reporter_}, report);
  ASSERT_EQ(report.problems.size(), 1u);
  EXPECT_EQ(report.problems[0].tensors, std::vector<std::string>{kDown});
}

TEST_F(ManifestTest, SourceOfADerivedTensorIsAllThatItReads) {
  const StoredTensor &a = one_.checkpoint.at(kUp), &b = two_->checkpoint.at(kDown);
  StoredTensor derived = a;
  derived.derivation = std::make_shared<Derivation>(Derivation{
      .source = a, .how = "", .compute = [](int64_t, int64_t, std::span<float>) {}, .beside = {b}});
  Digest both(Hash::sha256);
  both.add(a.stored_bytes());
  both.add(b.stored_bytes());
  EXPECT_EQ(hash_source(derived, nullptr), both.hex());
  EXPECT_EQ(source_size(derived), a.spec.bytes() + b.spec.bytes());
}

}  // namespace
}  // namespace moerge
