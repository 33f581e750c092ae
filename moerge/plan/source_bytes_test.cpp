#include "moerge/plan/source_bytes.h"

#include <gtest/gtest.h>

#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

class Sources : public ::testing::Test {
 protected:
  Sources() {
    dir_.write("model.safetensors",
               testing::safetensors_bytes({{"a", "F32", {10}, testing::f32_bytes(10, 1)},
                                           {"b", "F32", {3, 4}, testing::f32_bytes(12, 2)}}));
    first_ = std::make_unique<Checkpoint>(dir_.path());
  }
  testing::TempDir dir_;
  std::unique_ptr<Checkpoint> first_;
};

TEST_F(Sources, NothingCountsTwice) {
  std::filesystem::create_directories(dir_ / "link");
  std::filesystem::create_symlink(dir_ / "model.safetensors", dir_ / "link" / "model.safetensors");
  const Checkpoint again(dir_ / "link");
  SourceBytes read;
  read.add(first_->at("a"));
  EXPECT_EQ(read.bytes(), 40);
  read.add(first_->at("a"));
  read.add(again.at("a"));
  EXPECT_EQ(read.bytes(), 40);
  EXPECT_EQ(read.files(), 1);
  StoredTensor part = first_->at("b");  // rows 1 and 2 of it, then all of it
  part.offset += 16;
  part.spec.shape = {2, 4};
  read.add(part);
  EXPECT_EQ(read.bytes(), 40 + 32);
  read.add(first_->at("b"));
  EXPECT_EQ(read.bytes(), 40 + 48);
}

TEST_F(Sources, WhatAValueIsComputedFromCounts) {
  dir_.write("beside/model.safetensors",
             testing::safetensors_bytes({{"scale", "F32", {5}, testing::f32_bytes(5, 1)}}));
  const Checkpoint beside(dir_ / "beside");
  StoredTensor derived = first_->at("a");
  derived.spec.dtype = DType::bf16;
  derived.derivation =
      std::make_shared<Derivation>(Derivation{first_->at("a"), "", {}, {beside.at("scale")}});
  Plan plan;
  plan.steps.push_back({{"x", DType::bf16, {10}}, Concat{{{.source = &derived, .noise_stream = {}}}}});
  plan.steps.push_back({{"y", DType::f32, {2}}, Fill{"", {}}});
  SourceBytes read;
  read.add(plan);
  EXPECT_EQ(read.bytes(), 40 + 20);
  EXPECT_EQ(read.files(), 2);
}

}  // namespace
}  // namespace moerge
